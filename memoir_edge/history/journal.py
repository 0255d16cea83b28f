"""The journal: everything that was done to a memory, in order. The memory is compiled from it.

Append-only frames, in a file beside the memory file or in memory. The first holds the memory that
the journal began from (an empty one, most often); each further frame is one event. Nothing is ever
rewritten: a deletion and a rollback are events too.

    Wm = Wm of the first frame + sum of (V U)^T over the changes of the edits that are still there

    with begin(path_of(out), origin, {}) as journal:
        journal.record(Together((edit,)))    appended, synced, and folded into the state
        journal.write(out)                   the memory that it all amounts to
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from memoir_edge import __version__
from memoir_edge import memory as memory_file
from memoir_edge.errors import MemoryFormatError
from memoir_edge.files import followed
from memoir_edge.history import frames as frames_file
from memoir_edge.history.events import (
    BEGIN,
    KINDS,
    Deleted,
    Event,
    RolledBack,
    Together,
    Written,
    change_of,
)
from memoir_edge.history.frames import Frame, Frames, JournalError, Tensors
from memoir_edge.history.state import State, add, begun, fold
from memoir_edge.memory import Memory, sparse, to_dense
from memoir_edge.tophash import Floats


class Journal:
    """An open journal. `begin` and `load` open one; `with` closes it."""

    def __init__(self, held: Frames) -> None:
        self._file = held
        self._state: State | None = None
        self._folded = 0  # frames that the state holds

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def frames(self) -> list[Frame]:
        """What it holds."""
        return self._file.held

    @property
    def dropped(self) -> int:
        """Bytes of an unfinished append that were dropped when it was opened."""
        return self._file.dropped

    # --- Writing ---------------------------------------------------------------------------------

    def record(self, event: Event) -> None:
        """Append an event, so that it is there whole or not at all.

        Raises:
            InputError: The file cannot be written, and is as it was; or the event cannot happen.
        """
        if isinstance(event, Together):
            event.check(self.state().bank)
        if isinstance(event, Deleted):
            event.check(self.state().bank.records, self.state().fixed)
        if isinstance(event, RolledBack):
            event.check(len(self.frames))
        self.append(event.kind, *event.content())

    def append(self, kind: str, data: dict[str, Any], tensors: Tensors) -> Frame:
        """Append a frame as it is; `record` says what it means."""
        return self._file.append(kind, data, tensors)

    def copied(self) -> "Journal":
        """The same in memory, to be gone on with or thrown away."""
        copy = Journal(frames_file.create(None))
        copy.take(self)
        return copy

    def take(self, other: "Journal") -> None:
        """Append what another journal, which goes on from this one, holds beyond it.

        Raises:
            InputError: The file cannot be written.
        """
        for frame in other.frames[len(self.frames) :]:
            self.append(frame.kind, frame.data, other.tensors(frame))

    # --- What it amounts to ----------------------------------------------------------------------

    @cached_property
    def origin(self) -> Memory:
        """The memory that the journal began from; without a digest where it was never a file."""
        first = self.frames[0]
        with self.reading(first):
            data, digest = self.tensors(first)["memory"].tobytes(), first.data["digest"]
        try:
            return replace(memory_file.from_bytes(data), digest=digest)
        except MemoryFormatError as error:
            raise JournalError(f"{self.path}: step 0 holds no memory: {error}") from error

    def tensors(self, frame: Frame) -> dict[str, np.ndarray[Any, Any]]:
        """The tensors of a frame, read now."""
        return self._file.tensors(frame)

    def event(self, frame: Frame) -> Event:
        """What a frame says was done."""
        return KINDS[frame.kind].of(frame.data, self.tensors(frame))

    def state(self) -> State:
        """What all events amount to; kept, and brought up to the last of them."""
        if self._state is None:
            self._state, self._folded = self._begun(), 1
        while self._folded < len(self.frames):
            frame = self.frames[self._folded]
            if frame.kind == RolledBack.kind:
                self._state = self.at(frame.number)
            else:
                self._fold(self._state, frame)
            self._folded += 1
        return self._state

    def at(self, number: int) -> State:
        """What the events up to frame `number` amount to, folded anew."""
        state = self._begun()
        for frame in self.way_to(number):
            self._fold(state, frame)
        return state

    def _begun(self) -> State:
        return begun(self.origin, self.origin.digest)

    def _fold(self, state: State, frame: Frame) -> None:
        with self.reading(frame):
            fold(state, self.event(frame), frame.number)

    def way_to(self, number: int) -> list[Frame]:
        """The frames that count after frame `number`: a rollback leads on at its aim."""
        way: list[Frame] = []
        while number > 0:
            frame = self.frames[number]
            if frame.kind == RolledBack.kind:
                with self.reading(frame):
                    to = RolledBack.of(frame.data, {}).to
                    if not 0 <= to < number:
                        raise ValueError("it rolls back to no earlier step")
                number = to
            else:
                way.append(frame)
                number -= 1
        return way[::-1]

    @contextlib.contextmanager
    def reading(self, frame: Frame) -> Iterator[None]:
        """Read a frame's content, which is as untrusted as the file.

        Raises:
            JournalError: While open, something that was expected is not there.
        """
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise JournalError(
                f"{self.path}: step {frame.number} is malformed: {error!r}"
            ) from error

    def dense(self, state: State) -> Floats:
        """Wm `[d, tiles * D]`, float32: the changes summed in the order in which they were made.

        Exactly the Wm that the editor trained on, bit for bit.
        """
        D, masks, tile = self.origin.D, state.bank.recalled(), state.bank.tile
        sites = state.bank.sites
        tiles = max([self.origin.tiles, *(t + sites for t in tile.values())])
        Wm = np.zeros((tiles * D, self.origin.d), np.float32)  # a mask reads rows
        Wm[: self.origin.tiles * D] = to_dense(self.origin).T
        read: tuple[int, Tensors] = (-1, {})
        for edit, number, i in state.changes:
            frame = self.frames[number]
            with self.reading(frame):
                if read[0] != number:
                    read = number, self.tensors(frame)
                data = frame.data["edits"][i] if frame.kind == Together.kind else frame.data
                first = D * tile.get(edit, 0)
                part = Wm[first : first + sites * D]
                add(part, masks[edit], change_of(data, read[1], i), sites=sites)
        return Wm.T

    def compile(self, at: int | None = None) -> Memory:
        """The memory that the events up to frame `at` (default: all) amount to."""
        state = self.state() if at is None else self.at(at)
        arrays = state.bank.arrays()
        columns, values = sparse(
            self.dense(state), arrays.bank, self.origin.D, arrays.tile, state.bank.sites
        )
        return replace(
            self.origin,
            columns=columns,
            values=values,
            scales=None,
            **arrays._asdict(),
            created="",
            tool=f"memoir-edge {__version__}",
            parent=state.parent,
            probes=tuple(p for p in state.probes if p.edit is None or p.edit in state.bank.records),
            evaluation=state.evaluation,
            digest=None,
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
            self.compile(), out, lambda digest: self.record(Written(digest, finished))
        )

    def check_kin(self, memory: Path) -> bool:
        """Whether a memory file is the last that was finished; an earlier one is not.

        Raises:
            JournalError: It was never written from this journal.
            MemoryFormatError: It is no valid memory.
        """
        digest = memory_file.read(memory).digest
        self.place_of(digest)
        state = self.state()
        return digest == state.finished and not state.changed

    def place_of(self, digest: str | None) -> int:
        """Number of the last frame at which the memory of a digest was written, or begun from.

        Raises:
            JournalError: It was never written from this journal, or a frame is malformed.
        """
        for frame in reversed(self.frames):
            with self.reading(frame):
                if frame.kind in (BEGIN, Written.kind) and frame.data["digest"] == digest:
                    return frame.number
        raise JournalError(
            f"{self.path} is not the journal of memory {digest}",
            hint="move the one away that does not belong here",
        )


# --- Opening -------------------------------------------------------------------------------------


def path_of(memory: Path) -> Path:
    """Where the journal of a memory file lies: beside it, or beside what a link leads to."""
    beside, there = (file.with_name(file.name + ".journal") for file in (memory, followed(memory)))
    return beside if beside.exists() else there


def begin(path: Path | None, origin: Memory, about: Mapping[str, Any]) -> Journal:
    """A new journal that begins from a memory.

    Args:
        path: The file, in which `load` has found no journal; None keeps it in memory.
        origin: The memory, empty or filled; what it holds cannot be deleted edit by edit.
        about: What else to note, such as the model's folder.

    Raises:
        InputError: The file cannot be written, or another process has begun it meanwhile.
    """
    data = np.frombuffer(memory_file.to_bytes(origin), np.uint8)
    journal = Journal(frames_file.create(path))
    try:
        journal.append(BEGIN, {**about, "digest": origin.digest}, {"memory": data})
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
    held = frames_file.opened(path, write=write)
    if held is None:
        return None
    try:
        for frame in held.held:
            _check_kind(path, frame)
    except JournalError:
        held.close()
        raise
    return Journal(held)


def _check_kind(path: Path, frame: Frame) -> None:
    known = [BEGIN] if frame.number == 0 else list(KINDS)
    if frame.kind not in known:
        raise JournalError(
            f"{path}: step {frame.number} is {frame.kind[:40]!r}, expected {' or '.join(known)}",
            hint="a later version of memoir-edge may know it",
        )
