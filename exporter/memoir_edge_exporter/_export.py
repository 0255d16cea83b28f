"""The export from end to end."""

import gc
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from memoir_edge import ports, sidecar
from memoir_edge.base import language, read_config, start_of_answer
from memoir_edge.errors import GraphError, InputError
from memoir_edge.identity import former_digests, model_digest
from memoir_edge.router.encoder import Encoder
from memoir_edge.sites import Config, default_site, paths_of
from memoir_edge_exporter import _readme
from memoir_edge_exporter._base_graph import base_graph
from memoir_edge_exporter._builder import build
from memoir_edge_exporter._cache import padding_side, settle_cache
from memoir_edge_exporter._carry import as_kind
from memoir_edge_exporter._embeds import add_embeds
from memoir_edge_exporter._few_bits import quantize
from memoir_edge_exporter._language import language_folder
from memoir_edge_exporter._ports import add_ports, obstacle
from memoir_edge_exporter._router import Precision, export_router
from memoir_edge_exporter._site import Site, bits, find_sites
from memoir_edge_exporter._tokenizer import settle_tokenizer
from memoir_edge_exporter._write import (
    MAX_INSIDE,
    companions,
    copy_weights,
    directory,
    gather,
    load,
    require_apart,
    require_tokenizer,
    save,
    write_json,
)

DTYPES = ("fp32", "fp16", "int8", "int4")
BITS = {"int8": 8, "int4": 4}
TWO = ("mt5", "t5")  # encoder-decoders that are exported as two graphs
Builder = Literal["optimum", "genai"]


@dataclass(frozen=True)
class Exported:
    """What an export made."""

    out: Path
    sidecar: sidecar.Sidecar
    weights: str  # type of the site's weight: "fp32", "fp16", "bf16", "int8" or "int4"
    nodes: int
    bytes: int
    seconds: float


def export(
    *,
    out: Path,
    model: Path | None = None,
    onnx_dir: Path | None = None,
    site: str | None = None,
    dtype: str = "fp32",
    builder: Builder = "optimum",
    model_id: str | None = None,
    kind: ports.Kind = "optional",
    encoder: str | Encoder | None = None,
    precision: Precision = "int8",
    inputs_embeds: bool = False,
    max_inside: int = MAX_INSIDE,
) -> Exported:
    """Make a graph with ports, and what the runtime reads beside it.

    Args:
        out: The export directory; made whole or not at all.
        model: A transformers folder, of a decoder, a T5-like encoder-decoder, or a LLaVA-like
            vision-language model, whose language model is exported. Given together with
            `onnx_dir`, only its tokenizer, its configuration and its digest are used.
        onnx_dir: A folder with a decoder graph exported earlier, `model.onnx`.
        site: Module path of the edited layer, or several separated by commas; default by
            architecture, and with an encoder the last block's.
        dtype: "fp32", "fp16", "int8" or "int4", of the weights; a given graph keeps its own.
        builder: What makes the graph: optimum-onnx, or onnxruntime-genai's builder, whose graphs
            are fused and several times faster on a CPU.
        model_id: Name of the base model; default the folder's.
        kind: Of the ports; of "cache" config.json says one layer more.
        encoder: Folder or hub id of a sentence encoder, or one that is loaded: the directory also
            gets a router, for memories whose keys are its codes.
        precision: Of the encoder's weights: "int8" or "fp32".
        inputs_embeds: The graph also reads vectors in place of tokens, those of images for one;
            only with optional ports.
        max_inside: Bytes above which weights are stored beside the graph.

    Raises:
        InputError: No model, no tokenizer, an unknown dtype, an encoder that cannot be exported,
            an encoder-decoder in another way than optimum-onnx's in fp32, a vision-language model
            that is not like LLaVA, or something in the way at `out`.
        SiteError: A site is not in the graph, which says what layers are; or widths differ.
        GraphError: A given graph is no decoder that can take ports.

    Example:
        >>> made = export(model=Path("model"), out=Path("again"), site="layers.6.mlp.down_proj")
        >>> made.sidecar.site, made.sidecar.D
        ('model.layers.6.mlp.down_proj', 768)
    """
    start = time.monotonic()
    given = [folder for folder in (onnx_dir, model) if folder is not None]
    if not given:
        raise InputError("nothing to export", hint="give --model DIR or --onnx DIR")
    require_apart(out, *given)
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}", hint=f"give one of {', '.join(DTYPES)}")
    named = given[-1]
    config = _config(named, alone=model is None)
    if two := start_of_answer(config) is not None:
        _check_two(config, onnx_dir, dtype, builder, kind)
    if inputs_embeds and (two or kind != "optional"):
        raise InputError(
            "vectors in place of tokens are for a decoder with optional ports",
            hint="leave --inputs-embeds out, or --ports",
        )
    require_tokenizer(*given)
    if isinstance(encoder, str):
        encoder = Encoder(encoder)
    require_apart(out, *([encoder.folder] if encoder else []))
    digest = model_digest(model) if model else None
    seeing = language(config) is not config
    with directory(out) as folder, ExitStack() as stack:
        if seeing and model is not None and onnx_dir is None:
            given = [stack.enter_context(language_folder(model, folder))]
        config = language(_config(given[-1], alone=model is None))
        paths = paths_of(site or default_site(config, coded=encoder is not None))
        if onnx_dir is None:
            graph, found = _made(given[0], folder, paths, dtype, builder)
        else:
            graph, found = _decoder(onnx_dir, paths)
            copy_weights(graph, onnx_dir, folder)
        _accompany(folder, given, config if seeing else None)
        settle_tokenizer(named, folder)
        settle_cache(graph.graph, config, folder)
        add_ports(graph, *found)
        if inputs_embeds:
            add_embeds(graph)
        as_kind(graph, kind, folder)
        save(graph, folder, max_inside)
        router = None
        if encoder is not None:
            required = kind == "required"
            router = export_router(encoder, folder, precision=precision, required=required)
        made = sidecar.Sidecar(
            site=found[0].path,
            later=tuple(each.path for each in found[1:]),
            D=found[0].D,
            d=found[0].d,
            feature="mean",
            dtype=_dtype(graph),
            model_id=model_id or named.resolve().name,
            digest=digest,
            former=former_digests(model) if model else (),
            exporter=_version(),
            router=router,
            padding_side=padding_side(graph.graph),
            kind=kind,
        )
        sidecar.write(folder, made)
        said = _readme.text(made, two=two, part=seeing, embeds=inputs_embeds)
        (folder / _readme.NAME).write_text(said, encoding="utf-8")
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    weights = _weights(found[0], made.dtype)
    return Exported(out, made, weights, len(graph.graph.node), size, time.monotonic() - start)


def _config(folder: Path, *, alone: bool) -> Config:
    """The base model's configuration; `alone` if a graph was given without its model.

    Raises:
        InputError: There is none.
    """
    if alone and not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no config.json",
            hint="give the base model as well: --model DIR, the folder that the graph was made of",
        )
    return read_config(folder)


def _check_two(
    config: Config, onnx_dir: Path | None, dtype: str, builder: Builder, kind: ports.Kind
) -> None:
    """Raise InputError unless an encoder-decoder can be exported, and so."""
    if config.get("model_type") not in TWO:
        raise InputError(
            f"encoder-decoders of type {config.get('model_type')!r} cannot be exported; known: "
            f"{', '.join(TWO)}"
        )
    asked = {
        "as a given graph": onnx_dir is not None,
        f"in {dtype}": dtype != "fp32",
        f"by the builder {builder}": builder != "optimum",
        f"with ports of kind {kind}": kind not in ("optional", "required"),
    }
    if unknown := [what for what, is_so in asked.items() if is_so]:
        raise InputError(
            f"an encoder-decoder cannot be exported {' or '.join(unknown)}",
            hint="export it from its model, in fp32, with optional or required ports",
        )


def _made(
    model: Path, folder: Path, paths: Sequence[str], dtype: str, builder: Builder
) -> tuple[onnx.ModelProto, list[Site]]:
    """The graph of a transformers folder, which is made in another, and the sites in it.

    Raises:
        SiteError: A site is not in it, or their widths differ.
    """
    if builder == "genai":
        build(model, folder, dtype)
        return _decoder(folder, paths)
    base_graph(model, folder, "fp32" if dtype in BITS else dtype)
    gc.collect()  # PyTorch's model holds itself, and the weights are read again
    graph, found = _decoder(folder, paths)
    if dtype in BITS:
        found = find_sites(quantize(graph, BITS[dtype], folder).graph, paths)
        gather(graph, folder)
    return graph, found


def _accompany(folder: Path, sources: Sequence[Path], part: Config | None) -> None:
    """Copy what the runtime reads beside the graph; `part` is the configuration of a part alone.

    Raises:
        InputError: There is no tokenizer.
    """
    for source in sources:
        companions(source, folder)
    if part is not None:
        write_json(folder / "config.json", part)
    require_tokenizer(folder, names=("tokenizer.json",))


def _weights(site: Site, dtype: str) -> str:
    """Type of the site's weight."""
    if few := bits(site.node):
        return f"int{few}"
    integers = "Integer" in site.node.op_type or "Quantize" in site.node.op_type
    return "int8" if integers else dtype


def _decoder(folder: Path, paths: Sequence[str]) -> tuple[onnx.ModelProto, list[Site]]:
    """The decoder graph of a folder, and the sites in it.

    Raises:
        InputError: There is no graph, or it cannot be read.
        GraphError: It lacks what the ports need, or has them already.
        SiteError: A site is not in it, or their widths differ.
    """
    model = load(folder)
    if reason := obstacle(model):
        raise GraphError(
            f"{folder} holds no graph that can take memory ports: {reason}",
            hint="give a decoder's graph as optimum or onnxruntime-genai export it",
        )
    return model, find_sites(model.graph, paths)


def _dtype(model: onnx.ModelProto) -> str:
    """Element type of the logits."""
    logits = model.graph.output[0].type.tensor_type.elem_type
    return {1: "fp32", 10: "fp16", 16: "bf16"}.get(logits, f"onnx type {logits}")


def _version() -> str:
    from memoir_edge_exporter import __version__

    return f"memoir-edge-exporter {__version__}"
