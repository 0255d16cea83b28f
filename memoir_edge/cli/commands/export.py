"""`memoir-edge export`: an ONNX graph that can take memories."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from memoir_edge.base import locate
from memoir_edge.cli.extras import needs, refuse_empty
from memoir_edge.cli.modes import refuse
from memoir_edge.cli.output import Output, size
from memoir_edge.errors import InputError
from memoir_edge.ports import Kind


def command(
    *,
    out: Path,
    model: str | None = None,
    onnx: Path | None = None,
    site: str | None = None,
    dtype: Literal["fp32", "fp16", "int8", "int4"] | None = None,
    builder: Literal["optimum", "genai"] | None = None,
    ports: Literal["optional", "required", "state"] = "optional",
    state: Literal["recurrent", "cache"] | None = None,
    encoder: str | None = None,
    encoder_dtype: Literal["int8", "fp32"] | None = None,
    inputs_embeds: bool = False,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Export a model to ONNX with the ports that take a memory.

    The directory holds the graph, the tokenizer and memoir_edge.json, and with --encoder a router;
    it is made whole or not at all.

    Args:
        out: The directory to make; an earlier export there is replaced, your own files stay.
        model: A transformers folder or hub id; of a vision-language model, its language model is
            exported.
        onnx: A folder with a decoder graph exported earlier, to be given ports.
        site: Module path of the edited layer, or several separated by commas; default by
            architecture.
        dtype: Type of the weights, default fp32; a given graph keeps its own.
        builder: What makes the graph: optimum-onnx by default, or onnxruntime-genai, whose graphs
            are fused.
        ports: How a host feeds a memory: as optional inputs, as required ones (JavaScript, Java),
            or as optional ones of a graph that carries the route itself.
        state: As what it carries it: a recurrent state (onnxruntime-genai), or one more layer of
            the cache, for hosts that know nothing else.
        encoder: Folder or hub id of the sentence encoder that memories are made with: it then
            decides beside the graph which edit a prompt asks for.
        encoder_dtype: Type of the encoder's weights, default int8.
        inputs_embeds: The graph takes vectors in place of tokens, by which a host of its own shows
            it images.
    """
    with needs("the exporter", "export"):
        from memoir_edge_exporter import export
    refuse_empty("--encoder", encoder)
    if onnx is not None:
        refuse("a graph that is given", dtype=dtype, builder=builder)
    if encoder is None:
        refuse("an export without --encoder", encoder_dtype=encoder_dtype)
    folder = locate(model) if model else None
    made = export(
        out=out,
        model=folder,
        onnx_dir=onnx,
        site=site,
        dtype=dtype or "fp32",
        builder=builder or "optimum",
        kind=_kind(ports, state),
        model_id=model if model and folder != Path(model).expanduser() else None,
        encoder=encoder,
        precision=encoder_dtype or "int8",
        inputs_embeds=inputs_embeds,
    )
    output.say(
        f"{out}: {made.nodes} nodes, {made.weights}, site {' and '.join(made.sidecar.sites)} "
        f"(D {made.sidecar.D}, d {made.sidecar.d}), {size(made.bytes)}, {made.seconds:.1f} s"
    )
    if made.sidecar.router is not None:
        router = made.sidecar.router
        output.say(f"router: {router.kind} {router.digest[:16]}, codes of {router.bits} bits")
    figures = {
        "weights": made.weights,
        "nodes": made.nodes,
        "bytes": made.bytes,
        "seconds": round(made.seconds, 3),
    }
    said = asdict(made.sidecar) | {"sites": made.sidecar.sites, "ports": made.sidecar.ports}
    output.result({"out": str(out)} | figures | said)
    return 0


def _kind(ports: Literal["optional", "required", "state"], state: Kind | None) -> Kind:
    if ports != "state":
        if state is not None:
            raise InputError(f"--state {state} is for --ports state, not {ports}")
        return ports
    if state is None:
        raise InputError(
            "--ports state needs to know as what the route is carried",
            hint="give --state recurrent (onnxruntime-genai), or --state cache (any other host)",
        )
    return state
