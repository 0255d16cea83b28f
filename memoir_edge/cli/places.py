"""Where a command may write a file: where nothing is lost that it reads, nor a model's files.

Asked before anything is done.
"""

from pathlib import Path

from memoir_edge import sidecar
from memoir_edge.base import BESIDE
from memoir_edge.errors import InputError
from memoir_edge.files import followed
from memoir_edge.history import path_of
from memoir_edge.identity import is_weights

_GRAPHS = (".onnx", ".onnx.data", ".onnx_data")


def check_file(out: Path, *inputs: Path | None) -> None:
    """Raise InputError unless a file can be written in a folder that is there, and apart.

    Args:
        out: The file to write.
        inputs: What the command reads.
    """
    if not followed(out).parent.is_dir() or out.is_dir():
        raise InputError(
            f"cannot write {out}: no file in an existing folder", hint="give a file path"
        )
    check_apart(out, *inputs)


def check_apart(out: Path, *inputs: Path | None) -> None:
    """Raise InputError if a file would replace what a command reads, or a model's files.

    Args:
        out: The file to write.
        inputs: What the command reads; the journal beside a memory file is as dear as that.
    """
    for path in filter(None, inputs):
        for lost in (path, path_of(path)):
            if _same(out, lost):
                raise InputError(
                    f"cannot write {out}: {lost} would be lost", hint="give another place"
                )
    for place in (out, followed(out)):
        if is_weights(place) or (place.is_file() and _is_part(place)):
            raise InputError(
                f"cannot write {out}: the model in that folder would be loaded from it",
                hint="give it another name",
            )


def _is_part(path: Path) -> bool:
    """Whether a file is, by its name, a graph or what else a model or an export is loaded from."""
    return path.name in {sidecar.NAME, *BESIDE} or path.name.endswith(_GRAPHS)


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))
