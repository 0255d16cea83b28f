"""Where a command may write: where nothing is lost that it reads, or that a model is loaded from.

Asked before anything is done.
"""

from pathlib import Path

from memoir_edge.errors import InputError
from memoir_edge.history import path_of
from memoir_edge.identity import is_weights


def check_file(out: Path, *inputs: Path | None) -> None:
    """Raise InputError unless a file can be written in a folder that is there, and apart.

    Args:
        out: The file to write.
        inputs: What the command reads.
    """
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(
            f"cannot write {out}: no file in an existing folder", hint="give a file path"
        )
    check_apart(out, *inputs)


def check_apart(out: Path, *inputs: Path | None) -> None:
    """Raise InputError if a file would replace what a command reads, or a model's weights.

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
    if is_weights(out):
        raise InputError(
            f"cannot write {out}: the model in that folder would be loaded from it",
            hint="give it another name",
        )


def check_folder(out: Path, *inputs: Path | None) -> None:
    """Raise InputError if a folder that is to be replaced is, or holds, what a command reads."""
    whole = out.expanduser().resolve()
    for path in filter(None, inputs):
        if path.expanduser().resolve().is_relative_to(whole) and path.expanduser().exists():
            raise InputError(
                f"cannot write {out}: {path} would be lost with what is there",
                hint="give another --out",
            )


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))
