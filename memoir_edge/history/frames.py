"""Frames: whole ones or none, appended to a file or kept in memory.

A frame is `MEJ1`, the payload's length (8 bytes, little-endian), its SHA-256 (32 bytes), and the
payload: a safetensors file whose one metadata entry is a JSON document. It is appended in one write
and synced; a frame that is cut short at the end of the file never happened. Knows no kinds of
frames: what they mean is said by events.py.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from memoir_edge import __version__
from memoir_edge.errors import IncompatibleError, InputError

MAGIC = b"MEJ1"
KEY = "memoir_edge.journal"
HEAD = len(MAGIC) + 8 + 32
IN_MEMORY = Path("journal in memory")  # in error messages, where there is no file

Tensors = Mapping[str, np.ndarray[Any, Any]]


class JournalError(IncompatibleError):
    """The file is no journal, is damaged before its end, or belongs to another memory."""


@dataclass(frozen=True)
class Frame:
    """One thing that was done. `data` depends on the kind; tensors are read when asked for."""

    number: int  # 0 is what the journal began from
    kind: str
    at: str  # ISO 8601, UTC
    tool: str
    data: dict[str, Any]
    offset: int  # of the payload in the file
    length: int


class Frames:
    """The frames of one journal. `create` and `opened` make one; `close` lets the file go.

    Args:
        path: The file.
        stream: The file, opened.
        held: The frames that it holds.
        dropped: Bytes of an unfinished append at the end that were dropped.
    """

    def __init__(self, path: Path, stream: BinaryIO, held: list[Frame], dropped: int = 0) -> None:
        self.path = path
        self.held = held
        self.dropped = dropped
        self._stream = stream

    def close(self) -> None:
        """Let the file go, and its lock."""
        self._stream.close()

    def append(self, kind: str, data: dict[str, Any], tensors: Tensors) -> Frame:
        """Add one frame, so that it is there whole or not at all.

        Raises:
            InputError: The file cannot be written; it is as it was.
        """
        at, tool = datetime.now(UTC).isoformat(timespec="seconds"), f"memoir-edge {__version__}"
        document = {"kind": kind, "at": at, "tool": tool, "data": data}
        text = json.dumps(document, sort_keys=True, allow_nan=False, ensure_ascii=False)
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        payload = save_tensors(arrays, metadata={KEY: text})
        end = self.held[-1].offset + self.held[-1].length if self.held else 0
        try:
            self._stream.truncate(end)  # what an interrupted append left
            self._stream.seek(end)
            rest = memoryview(_head(payload) + payload)
            while rest:  # a disk that fills up takes a part first, and refuses the next
                rest = rest[self._stream.write(rest) :]
            if not isinstance(self._stream, io.BytesIO):
                os.fsync(self._stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._stream.truncate(end)
            raise InputError(f"cannot write journal {self.path}: {error.strerror}") from error
        frame = Frame(len(self.held), kind, at, tool, data, end + HEAD, len(payload))
        self.held.append(frame)
        return frame

    def tensors(self, frame: Frame) -> dict[str, np.ndarray[Any, Any]]:
        """The tensors of a frame, read now."""
        self._stream.seek(frame.offset)
        payload = _read(self._stream, frame.length)
        tensors: dict[str, np.ndarray[Any, Any]] = load_tensors(payload)
        return tensors


def create(path: Path | None) -> Frames:
    """No frames yet, in a new file or, where none is named, in memory.

    Args:
        path: The file; what `opened` took for none is overwritten.

    Raises:
        InputError: The file cannot be written, or another process has begun it meanwhile.
    """
    if path is None:
        return Frames(IN_MEMORY, io.BytesIO(), [])
    stream = _stream(path, "r+b" if path.exists() else "x+b")
    if _payload(stream, 0, stream.seek(0, os.SEEK_END)):
        stream.close()
        raise InputError(
            f"{path} was begun by another command meanwhile",
            hint="begin again, to go on with what it has done",
        )
    return Frames(path, stream, [])


def opened(path: Path, *, write: bool) -> Frames | None:
    """The frames of a file; None where there is none, or only the torn beginning of one.

    Args:
        path: The file.
        write: Lock it against other writers, and cut off what an interrupted append left behind.

    Raises:
        InputError: The file cannot be opened, or another process writes it.
        JournalError: It is no journal, or damaged before its end.
    """
    if not path.exists():
        return None
    stream = _stream(path, "r+b" if write else "rb")
    try:
        held, end, size = _scan(path, stream)
        if write and end < size:
            stream.truncate(end)
    except BaseException:
        stream.close()
        raise
    if not held:
        stream.close()
        return None
    return Frames(path, stream, held, size - end)


def _stream(path: Path, mode: str) -> BinaryIO:
    """A file, unbuffered: what could not be written is gone, and no later call tries it again."""
    if path.exists() and not path.is_file():
        raise InputError(f"cannot open journal {path}: not a file")
    try:
        stream: BinaryIO = path.open(mode, buffering=0)  # type: ignore[assignment]
    except OSError as error:
        raise InputError(f"cannot open journal {path}: {error.strerror}") from error
    if "+" in mode and os.name == "posix":
        import fcntl

        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.close()
            raise InputError(
                f"another process is writing {path}", hint="wait for it to end, or stop it"
            ) from error
    return stream


def _scan(path: Path, stream: BinaryIO) -> tuple[list[Frame], int, int]:
    """The whole frames, where they end, and the file's size."""
    size = stream.seek(0, os.SEEK_END)
    frames: list[Frame] = []
    end = 0
    while payload := _payload(stream, end, size):
        frames.append(_parsed(path, payload, len(frames), end + HEAD))
        end += HEAD + len(payload)
    if end < size:
        _refuse_damage(path, stream, end, size)
    return frames, end, size


def _payload(stream: BinaryIO, at: int, size: int) -> bytes | None:
    """The payload of the frame at an offset; None where there is no whole frame."""
    stream.seek(at)
    head = stream.read(HEAD)
    length = int.from_bytes(head[len(MAGIC) : len(MAGIC) + 8], "little")
    if not head.startswith(MAGIC) or len(head) < HEAD or not 0 < length <= size - at - HEAD:
        return None
    payload = _read(stream, length)
    return payload if _head(payload) == head else None


def _read(stream: BinaryIO, length: int) -> bytes:
    """So many bytes, or all that are left; a system reads no more than 2 GB at once."""
    data = stream.read(length)
    while len(data) < length and (more := stream.read(length - len(data))):
        data += more
    return data


def _head(payload: bytes) -> bytes:
    return MAGIC + len(payload).to_bytes(8, "little") + hashlib.sha256(payload).digest()


def _parsed(path: Path, payload: bytes, number: int, offset: int) -> Frame:
    try:
        length = int.from_bytes(payload[:8], "little")
        document = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"][KEY])
        kind, at, tool, data = (document[name] for name in ("kind", "at", "tool", "data"))
        if type(data) is not dict:
            raise TypeError(f"data is {type(data).__name__}, expected an object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalError(f"{path}: step {number} is malformed: {error!r}") from error
    return Frame(number, str(kind), at, tool, data, offset, len(payload))


def _refuse_damage(path: Path, stream: BinaryIO, end: int, size: int) -> None:
    """What follows the last whole frame may be a torn append, and nothing else."""
    stream.seek(end)
    rest = stream.read()
    if end == 0 and not (rest.startswith(MAGIC) or MAGIC.startswith(rest[: len(MAGIC)])):
        raise JournalError(f"{path} is no journal", hint="move it away, or give another --out")
    place = rest.find(MAGIC, 1)
    while place >= 0:
        if _payload(stream, end + place, size):
            raise JournalError(
                f"{path} is damaged at byte {end}; whole frames follow from byte {end + place}",
                hint="fetch the file from a backup; the memory file itself is not touched",
            )
        place = rest.find(MAGIC, place + 1)
