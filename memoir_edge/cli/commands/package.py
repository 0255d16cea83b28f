"""`memoir-edge package`: an exported model in the layout of another server."""

from pathlib import Path
from typing import Literal

from memoir_edge.cli.extras import needs
from memoir_edge.cli.output import Output


def command(
    server: Literal["triton"],
    directory: Path,
    /,
    *,
    out: Path,
    memory: Path | None = None,
    name: str | None = None,
    root: Path | None = None,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Write an exported model, with a memory, into the model repository of a server.

    Repeated with another memory, it adds a version, which the server loads beside the one that
    answers.

    Args:
        server: Whose layout: Triton's, for its ONNX Runtime backend.
        directory: An export directory.
        out: The model repository; made if it is not there.
        memory: The memory that the version answers with; default none, the base model.
        name: Name of the model; default the export directory's.
        root: Where the server finds the repository, if not at --out: in a container, for instance.
    """
    with needs("the exporter", "export"):
        from memoir_edge_exporter import package_triton
    made = package_triton(directory, out, memory=memory, name=name, library=_library(), root=root)
    ops = made.library or "none here: the graph's function bodies serve, slower in a large memory"
    output.say(f"{made.model}: version {made.version}, memory {made.digest or 'none'}")
    output.say(f"native ops: {ops}")
    if made.kept:
        output.say("config.pbtxt is left as it was; delete it and repeat to have it written anew")
    output.result({
        "server": server, "model": str(made.model), "version": made.version,
        "digest": made.digest, "library": made.library,
        "config_kept": made.kept,
    })  # fmt: skip
    return 0


def _library() -> Path | None:
    """The native ops, if the runtime is installed with them."""
    try:
        from memoir_edge_runtime import ops_library
    except ImportError:
        return None
    return ops_library("cpu")
