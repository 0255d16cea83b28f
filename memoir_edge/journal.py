"""The journal: everything that was done to a memory, in order. The memory is compiled from it.

One append-only file beside the memory file. Its first frame holds the memory that it began from
(an empty one, most often); each further frame is one thing that was done: edits made together, an
edit trained again, a check of all edits, a memory written, edits deleted, a step back in time.
Nothing is ever rewritten: a deletion and a rollback are frames too.

    Wm = Wm of the first frame + sum of (V U)^T over the changes of the edits that are still there

A frame is `MEJ1`, the payload's length (8 bytes, little-endian), its SHA-256 (32 bytes), and the
payload: a safetensors file whose one metadata entry is a JSON document. It is appended in one write
and synced; a frame that is cut short at the end of the file never happened. The specification is
docs/journal.md. Knows nothing of models; needs numpy alone.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from memoir_edge import __version__
from memoir_edge import memory as memory_file
from memoir_edge.bank import Bank, Record, bank_of
from memoir_edge.errors import IncompatibleError, InputError, MemoryFormatError
from memoir_edge.memory import Memory, Probe, from_dense, to_dense
from memoir_edge.tophash import Bytes, Floats, unpack

MAGIC = b"MEJ1"
KEY = "memoir_edge.journal"
HEAD = len(MAGIC) + 8 + 32
RELATIVE_ERROR = 0.01  # of a stored change, in the Frobenius norm; applied as stored


class JournalError(IncompatibleError):
    """The file is no journal, is damaged before its end, or belongs to another memory."""


class Change(NamedTuple):
    """What training did to Wm for one edit: `Wm *= decay`, then `Wm[:, columns] += (V U)^T`.

    The columns are those of the edit's primary mask, in rising order.
    """

    V: Floats  # [k, r]
    U: Floats  # [r, d]
    decay: float = 1.0  # below 1 in parity runs only
    loss: float = 0.0  # nats a target token, after the last step
    steps: int = 0
    error: float = 0.0  # relative, of the truncation to rank r

    def delta(self) -> Floats:
        """`[k, d]`, the one way in which a change is ever formed."""
        return np.asarray(self.V @ self.U, dtype=np.float32)


class Made(NamedTuple):
    """One edit as it was made."""

    id: str
    record: Record
    primary: Bytes  # [ceil(D/8)]
    others: list[Bytes]  # masks of its further keys
    guards: list[Bytes]
    threshold: float
    change: Change


class Audit(NamedTuple):
    """A check of every edit in the memory, by asking the edited model."""

    checked: int
    failed: list[str]  # ids whose own prompt does not give the target
    probes: list[Probe]

    @property
    def evaluation(self) -> dict[str, Any]:
        """What a memory's metadata says of it."""
        return {"checked": self.checked, "took": self.checked - len(self.failed)}


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


@dataclass
class State:
    """What the frames up to one of them amount to."""

    bank: Bank
    changes: list[tuple[str, int, int]] = field(default_factory=list)  # (edit, frame, which of it)
    fixed: set[str] = field(default_factory=set)  # edits whose change cannot be told apart
    parent: str | None = None  # digest of the last memory finished before the latest changes
    finished: str | None = None  # digest of the last memory that was finished
    changed: bool = False  # since that one
    probes: list[Probe] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    audits: int = 0  # since an edit came or went
    broken: list[str] | None = None  # by the last audit, not trained again since; None: no audit
    repaired: bool = False  # since the last audit
    calibrated: bool = False  # since an edit was made
    fresh: list[str] = field(default_factory=list)  # edits made since a memory was finished
    passes: Counter[str] = field(default_factory=Counter)  # over them, since the last was made

    def settled(self, repairs: int) -> bool:
        """The last audit stands, and asks for no more training within so many rounds."""
        return (
            self.broken is not None
            and not self.repaired
            and (not self.broken or self.audits > repairs)
        )


def path_of(memory: Path) -> Path:
    """Where the journal of a memory file lies."""
    return memory.with_name(memory.name + ".journal")


class Journal:
    """An open journal. `begin` and `load` open one; `with` closes it.

    Args:
        path: The file.
        stream: The file, opened.
        frames: What it holds.
        dropped: Bytes of an unfinished append at the end that were dropped.
    """

    def __init__(self, path: Path, stream: BinaryIO, frames: list[Frame], dropped: int = 0) -> None:
        self.path = path
        self.frames = frames
        self.dropped = dropped
        self._stream = stream

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    # --- Writing ---------------------------------------------------------------------------------

    def append(
        self, kind: str, data: dict[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]]
    ) -> Frame:
        """Add one frame, so that it is there whole or not at all.

        Raises:
            InputError: The file cannot be written; it is as it was.
        """
        at, tool = datetime.now(UTC).isoformat(timespec="seconds"), f"memoir-edge {__version__}"
        document = {"kind": kind, "at": at, "tool": tool, "data": data}
        text = json.dumps(document, sort_keys=True, allow_nan=False, ensure_ascii=False)
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        payload = save_tensors(arrays, metadata={KEY: text})
        end = self._end()
        try:
            self._stream.truncate(end)  # what an interrupted append left
            self._stream.seek(end)
            self._stream.write(_head(payload) + payload)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._stream.truncate(end)
            raise InputError(f"cannot write journal {self.path}: {error.strerror}") from error
        number = len(self.frames)
        frame = Frame(number, kind, at, tool, data, end + HEAD, len(payload))
        self.frames.append(frame)
        return frame

    def _end(self) -> int:
        return self.frames[-1].offset + self.frames[-1].length if self.frames else 0

    def made(self, group: Sequence[Made]) -> None:
        """Edits that were trained together are there together, or none of them is."""
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        items = []
        for i, made in enumerate(group):
            tensors |= {
                f"{i}.keys": np.stack([made.primary, *made.others, *made.guards]),
                f"{i}.V": made.change.V,
                f"{i}.U": made.change.U,
            }
            items.append(
                {
                    "id": made.id,
                    "record": made.record,
                    "threshold": made.threshold,
                    "others": len(made.others),
                    **_numbers(made.change),
                }
            )
        self.append("made", {"edits": items}, tensors)

    def again(self, edit: str, change: Change) -> None:
        """An edit was trained again; the change is added to its former ones."""
        data = {"edit": edit, **_numbers(change)}
        self.append("again", data, {"0.V": change.V, "0.U": change.U})

    def audited(self, audit: Audit) -> None:
        """All edits were asked for."""
        probes = [probe._asdict() for probe in audit.probes]
        self.append("audit", {**audit._asdict(), "probes": probes}, {})

    def calibrated(self, thresholds: Floats) -> None:
        """Every key was given a threshold: `[R]`, in the order of the bank."""
        self.append("thresholds", {}, {"thresholds": thresholds})

    def written(self, digest: str, *, finished: bool) -> None:
        """A memory is about to be written."""
        self.append("written", {"digest": digest, "finished": finished}, {})

    def deleted(self, edits: Sequence[str]) -> None:
        """Edits are to be gone, with their keys and their changes.

        Raises:
            InputError: As `check_deletable`.
        """
        self.check_deletable(edits)
        self.append("deleted", {"edits": list(dict.fromkeys(edits))}, {})

    def check_deletable(self, edits: Sequence[str]) -> None:
        """Raise InputError unless all these edits are there, and their changes are their own."""
        state = self.state()
        for edit in edits:
            if edit not in state.bank.records:
                raise InputError(
                    f"there is no edit {edit!r}",
                    hint="memoir-edge inspect FILE lists the edits",
                )
            if edit in state.fixed:
                raise InputError(
                    f"edit {edit!r} was in the memory that the journal began from: "
                    "its change cannot be told from that of the others",
                    hint="delete it where that memory's own journal lies",
                )

    def rolled_back(self, to: int) -> None:
        """All is as it was after the frame of that number.

        Raises:
            InputError: There is no such frame.
        """
        if not 0 <= to < len(self.frames):
            raise InputError(f"there is no step {to}; the last is {len(self.frames) - 1}")
        self.append("rollback", {"to": to}, {})

    # --- What it amounts to ----------------------------------------------------------------------

    def tensors(self, frame: Frame) -> dict[str, np.ndarray[Any, Any]]:
        """The tensors of a frame, read now."""
        self._stream.seek(frame.offset)
        tensors: dict[str, np.ndarray[Any, Any]] = load_tensors(self._stream.read(frame.length))
        return tensors

    @contextlib.contextmanager
    def _reading(self, frame: Frame) -> Iterator[None]:
        """What a frame holds is as untrusted as the file."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise JournalError(
                f"{self.path}: step {frame.number} is malformed: {error!r}"
            ) from error

    def origin(self) -> Memory:
        """The memory that the journal began from."""
        data = self.tensors(self.frames[0])["memory"].tobytes()
        try:
            return memory_file.from_bytes(data)
        except MemoryFormatError as error:
            raise JournalError(f"{self.path}: step 0 holds no memory: {error}") from error

    def way_to(self, number: int) -> list[Frame]:
        """The frames that count after frame `number`: a rollback leads on at its aim."""
        way: list[Frame] = []
        while number > 0:
            frame = self.frames[number]
            if frame.kind == "rollback":
                if not 0 <= frame.data["to"] < number:
                    raise JournalError(f"{self.path}: step {number} rolls back to no earlier one")
                number = frame.data["to"]
            else:
                way.append(frame)
                number -= 1
        return way[::-1]

    def state(self, at: int | None = None) -> State:
        """What the frames up to `at` (default: all) amount to, without Wm."""
        origin = self.origin()
        state = State(
            bank_of(origin),
            fixed={entry.id for entry in origin.edits},
            parent=origin.parent,
            finished=self.frames[0].data["digest"],
            probes=list(origin.probes),
            evaluation=origin.evaluation,
        )
        for frame in self.way_to(len(self.frames) - 1 if at is None else at):
            with self._reading(frame):
                _FOLD[frame.kind](self, state, frame)
        return state

    def dense(self, state: State) -> Floats:
        """Wm `[d, D]`, float32: the changes summed in the order in which they were made.

        Exactly the Wm that the editor trained on, bit for bit.
        """
        Wm = np.ascontiguousarray(to_dense(self.origin()).T)  # [D, d]: a mask reads rows
        rows = state.bank.rows()
        read: tuple[int, dict[str, np.ndarray[Any, Any]]] = (-1, {})
        for edit, number, i in state.changes:
            frame = self.frames[number]
            with self._reading(frame):
                if read[0] != number:
                    read = number, self.tensors(frame)
                primary = state.bank.keys[rows[edit]].mask
                numbers = frame.data["edits"][i] if frame.kind == "made" else frame.data
                add(Wm, primary, Change(read[1][f"{i}.V"], read[1][f"{i}.U"], numbers["decay"]))
        return Wm.T

    def compile(self, at: int | None = None) -> Memory:
        """The memory that the frames up to `at` (default: all) amount to."""
        origin, state = self.origin(), self.state(at)
        arrays = state.bank.arrays()
        return from_dense(
            self.dense(state),
            **arrays._asdict(),
            **{name: getattr(origin, name) for name in _KEPT},
            tool=f"memoir-edge {__version__}",
            parent=state.parent,
            probes=tuple(p for p in state.probes if p.edit is None or p.edit in state.bank.records),
            evaluation=state.evaluation,
        )

    def write(self, out: Path, *, finished: bool = True) -> Memory:
        """Write the memory that the journal amounts to; the journal is told first.

        Args:
            out: The memory file.
            finished: False where a run was interrupted and will be gone on with.

        Raises:
            InputError: It cannot be written.
        """
        return memory_file.write(
            self.compile(), out, lambda digest: self.written(digest, finished=finished)
        )

    def check_kin(self, memory: Path) -> bool:
        """Whether a memory file is the last that was finished; an earlier one is not.

        Raises:
            JournalError: It was never written from this journal.
            MemoryFormatError: It is no valid memory.
        """
        digest = memory_file.read(memory).digest
        known = {f.data["digest"] for f in self.frames if f.kind in ("begin", "written")}
        if digest not in known:
            raise JournalError(
                f"{self.path} is not the journal of {memory}",
                hint="move the one away that does not belong here",
            )
        state = self.state()
        return digest == state.finished and not state.changed


_KEPT = ("site", "feature", "k", "base", "center", "scale", "permutation")


def add(Wm: Floats, primary: Bytes, change: Change) -> None:
    """Apply a change to Wm `[D, d]`, in place."""
    if change.decay != 1:
        Wm *= np.float32(change.decay)
    Wm[unpack(primary, len(Wm))] += change.delta()


# --- Opening -------------------------------------------------------------------------------------


def begin(path: Path, origin: Memory, about: Mapping[str, Any]) -> Journal:
    """A new journal that begins from a memory.

    Args:
        path: The file; `load` has found none there.
        origin: The memory, empty or filled; what it holds cannot be deleted edit by edit.
        about: What else to note, such as the model's folder.

    Raises:
        InputError: The file cannot be written.
    """
    data = np.frombuffer(memory_file.to_bytes(origin), np.uint8)
    journal = Journal(path, _opened(path, "r+b" if path.exists() else "x+b"), [])
    try:
        journal.append("begin", {**about, "digest": origin.digest}, {"memory": data})
    except BaseException:
        journal.__exit__()
        raise
    return journal


def load(path: Path, *, write: bool) -> Journal | None:
    """Open a journal; None where there is none, or only the torn beginning of one.

    Args:
        path: The file.
        write: Lock it against other writers, and cut off what an interrupted append left behind.

    Raises:
        InputError: The file cannot be opened, or another process writes it.
        JournalError: It is no journal, or damaged before its end.
    """
    if not path.exists():
        return None
    stream = _opened(path, "r+b" if write else "rb")
    try:
        frames, end, size = _scan(path, stream)
        if write and end < size:
            stream.truncate(end)
    except BaseException:
        stream.close()
        raise
    if not frames:
        stream.close()
        return None
    return Journal(path, stream, frames, size - end)


def _opened(path: Path, mode: str) -> BinaryIO:
    try:
        stream: BinaryIO = path.open(mode)  # type: ignore[assignment]
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
    payload = stream.read(length)
    return payload if _head(payload) == head else None


def _head(payload: bytes) -> bytes:
    return MAGIC + len(payload).to_bytes(8, "little") + hashlib.sha256(payload).digest()


def _parsed(path: Path, payload: bytes, number: int, offset: int) -> Frame:
    try:
        length = int.from_bytes(payload[:8], "little")
        document = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"][KEY])
        kind, at, tool, data = (document[name] for name in ("kind", "at", "tool", "data"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalError(f"{path}: step {number} is malformed: {error!r}") from error
    known = ["begin"] if number == 0 else [*_FOLD, "rollback"]
    if kind not in known or type(data) is not dict:
        raise JournalError(
            f"{path}: step {number} is {str(kind)[:40]!r}, expected {' or '.join(known)}",
            hint="a later version of memoir-edge may know it",
        )
    return Frame(number, kind, at, tool, data, offset, len(payload))


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


def _numbers(change: Change) -> dict[str, Any]:
    return {name: getattr(change, name) for name in ("decay", "loss", "steps", "error")}


# --- What each kind of frame does to a state -----------------------------------------------------


def _touch(state: State) -> None:
    if not state.changed:
        state.parent, state.changed = state.finished, True


def _made(journal: Journal, state: State, frame: Frame) -> None:
    _touch(state)
    state.broken, state.audits, state.calibrated = None, 0, False
    tensors = journal.tensors(frame)
    for i, item in enumerate(frame.data["edits"]):
        masks = list(tensors[f"{i}.keys"])
        others = masks[1 : 1 + item["others"]]
        guards = masks[1 + item["others"] :]
        former = state.bank.add(
            item["id"], item["record"], masks[0], others, guards, item["threshold"]
        )
        if former is not None:  # what was changed for it is the new edit's from now on
            state.changes = [
                (item["id"] if edit == former else edit, n, j) for edit, n, j in state.changes
            ]
            if former in state.fixed:
                state.fixed.add(item["id"])
        state.changes.append((item["id"], frame.number, i))
        state.fresh = [id for id in state.fresh if id not in (former, item["id"])] + [item["id"]]
    state.passes.clear()


def _again(_journal: Journal, state: State, frame: Frame) -> None:
    _touch(state)
    state.changes.append((frame.data["edit"], frame.number, 0))
    state.repaired = True
    if state.broken is None:
        state.passes[frame.data["edit"]] += 1
    if state.broken:
        state.broken = [edit for edit in state.broken if edit != frame.data["edit"]]


def _audit(_journal: Journal, state: State, frame: Frame) -> None:
    probes = [Probe(**probe) for probe in frame.data["probes"]]
    audit = Audit(frame.data["checked"], list(frame.data["failed"]), probes)
    state.probes, state.evaluation = audit.probes, audit.evaluation
    state.broken, state.repaired, state.audits = audit.failed, False, state.audits + 1


def _thresholds(journal: Journal, state: State, frame: Frame) -> None:
    _touch(state)
    state.bank.calibrate(journal.tensors(frame)["thresholds"])
    state.calibrated = True


def _written(_journal: Journal, state: State, frame: Frame) -> None:
    if frame.data["finished"]:
        state.finished, state.changed, state.fresh = frame.data["digest"], False, []


def _deleted(_journal: Journal, state: State, frame: Frame) -> None:
    _touch(state)
    gone = set(frame.data["edits"])
    state.bank.drop(gone)
    state.changes = [change for change in state.changes if change[0] not in gone]
    state.fresh = [id for id in state.fresh if id not in gone]
    state.broken, state.audits = None, 0


_FOLD: dict[str, Callable[[Journal, State, Frame], None]] = {
    "made": _made,
    "again": _again,
    "audit": _audit,
    "thresholds": _thresholds,
    "written": _written,
    "deleted": _deleted,
}
