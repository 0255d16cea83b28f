"""`memoir-edge package`: an exported model in the layout of another host."""

from pathlib import Path
from typing import Literal

from memoir_edge.cli.extras import needs
from memoir_edge.cli.output import Output
from memoir_edge.errors import InputError

Host = Literal["triton", "genai", "optimum", "web"]


def command(
    host: Host,
    directory: Path,
    /,
    *,
    out: Path,
    memory: list[Path] | None = None,
    name: str | None = None,
    root: Path | None = None,
    also: list[Path] | None = None,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Write an exported model, with a memory, as another host loads it.

    triton: a model repository. Repeated with another memory, it adds a version, which the server
    loads beside the one that answers. optimum: a folder for ORTModelForCausalLM or transformers.js
    as they are, which answers with its one memory. genai: a folder for onnxruntime-genai, with each
    memory as an adapter. web: a folder for JavaScript, in which memories are swapped by the npm
    package memoir-edge.

    Args:
        host: Who loads it.
        directory: An export directory.
        out: The folder to make; the model repository of triton, made if it is not there.
        memory: The memory to answer with; default none, the base model. genai and web
            take several.
        name: Of triton: name of the model; default the export directory's.
        root: Of triton: where the server finds the repository, if not at --out.
        also: Of web: an export of the same model in another precision; may be repeated.
    """
    held = memory or []
    _check(host, held, {"name": name, "root": root, "also": also})
    if host == "triton":
        return _triton(directory, out, held, name, root, output)
    if host == "genai":
        return _genai(directory, out, held, output)
    with needs("the exporter", "export"):
        from memoir_edge_exporter import package_optimum, package_web
    if host == "web":
        made = package_web([directory, *(also or [])], out, held=held)
    else:
        made = package_optimum(directory, out, held[0])
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    output.say(f"{out}: {made.model_id}, {', '.join(files)}")
    output.result({"host": host, "out": str(out), "kind": made.kind, "files": files})
    return 0


_OF = {"name": "triton", "root": "triton", "also": "web"}


def _check(host: Host, memories: list[Path], options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None and _OF[name] != host:
            raise InputError(f"--{name} is for {_OF[name]}, not {host}")
    if host == "optimum" and not memories:
        raise InputError(
            "a folder for optimum answers with the memory that it holds", hint="give --memory FILE"
        )
    if host not in ("genai", "web") and len(memories) > 1:
        raise InputError(f"{len(memories)} memories for {host}, expected one")


def _triton(
    directory: Path,
    out: Path,
    memories: list[Path],
    name: str | None,
    root: Path | None,
    output: Output,
) -> int:
    with needs("the exporter", "export"):
        from memoir_edge_exporter import package_triton
    memory = memories[0] if memories else None
    made = package_triton(directory, out, memory=memory, name=name, library=_library(), root=root)
    ops = made.library or "none here: the graph's function bodies serve, slower in a large memory"
    output.say(f"{made.model}: version {made.version}, memory {made.digest or 'none'}")
    output.say(f"native ops: {ops}")
    if made.kept:
        output.say("config.pbtxt is left as it was; delete it and repeat to have it written anew")
    output.result({
        "host": "triton", "model": str(made.model), "version": made.version,
        "digest": made.digest, "library": made.library,
        "config_kept": made.kept,
    })  # fmt: skip
    return 0


def _genai(directory: Path, out: Path, memories: list[Path], output: Output) -> int:
    with needs("the exporter", "export"):
        from memoir_edge_exporter import package_genai
    made = package_genai(directory, out, memory=memories, library=_library())
    output.say(f"{out}: adapters {', '.join(made.adapters) or 'none'}")
    output.say(f"native ops: {made.library or 'none here: the function bodies serve'}")
    output.result({
        "host": "genai", "out": str(out), "adapters": made.adapters,
        "library": made.library, "router": made.router,
    })  # fmt: skip
    return 0


def _library() -> Path | None:
    """The native ops, if the runtime is installed with them."""
    try:
        from memoir_edge_runtime import ops_library
    except ImportError:
        return None
    return ops_library("cpu")
