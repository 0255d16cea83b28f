"""`memoir-edge adapter`: a memory as ONNX Runtime's own adapter file."""

from pathlib import Path

from memoir_edge import memory as memories
from memoir_edge import onnx_adapter, sidecar
from memoir_edge.cli.output import Output, size
from memoir_edge.cli.places import check_apart
from memoir_edge.errors import InputError

SUFFIX = ".onnx_adapter"


def command(
    memory: Path,
    /,
    *,
    out: Path | None = None,
    graph: Path | None = None,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Write a memory as an adapter, which plain onnxruntime and onnxruntime-genai load.

    It feeds the ports of any export but one with required ports. A memory that an encoder routes
    also needs the route, as memory.route.

    Args:
        memory: A memory file.
        out: The file to write; default the memory's name with the suffix .onnx_adapter.
        graph: An export directory that the memory is checked against.
    """
    out = out or memory.with_suffix(SUFFIX)
    check_apart(out, memory)
    held = memories.read(memory)
    if graph is not None:
        _check(held, sidecar.read(graph), graph)
    onnx_adapter.write(held, out)
    output.say(f"{out}: {len(held.edits)} edits, {size(out.stat().st_size)}")
    if held.codes is not None:
        output.say("its edits answer where the host feeds memory.route, as docs/ports.md says")
    output.result({
        "out": str(out), "bytes": out.stat().st_size, "digest": held.digest,
        "edits": len(held.edits), "router": held.codes.router._asdict() if held.codes else None,
    })  # fmt: skip
    return 0


def _check(memory: memories.Memory, made: sidecar.Sidecar, graph: Path) -> None:
    sidecar.check_fit(memory, made)
    if made.kind == "required":
        raise InputError(
            f"{graph} has required ports, which an adapter does not feed",
            hint="export the model with --ports optional, or state for onnxruntime-genai",
        )
