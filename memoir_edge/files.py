"""A file is written whole or not at all: who reads it finds the old one or the new one.

    files.write(Path("facts.html"), text.encode())

    with files.replacing(Path("facts.onnx_adapter")) as partial:
        adapter.export_adapter(str(partial))

A link stays: the file that it leads to is replaced.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write a file, or replace one; a process that has that open goes on reading it.

    Raises:
        OSError: It cannot be written; what was there is as it was.
    """
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write, which takes the place of another if nothing goes wrong.

    Raises:
        OSError: It cannot be written, or not take that place.
    """
    path = followed(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield partial
        with partial.open("r+b") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def followed(path: Path) -> Path:
    """The file that a link leads to, there or not; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path
