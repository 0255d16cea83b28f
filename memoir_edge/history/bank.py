"""The keys of a memory while it grows or shrinks: who answers for which mask.

Knows nothing of models, prompts or files. `memoir_edge.memory` is what it is written as.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memoir_edge import tophash
from memoir_edge.memory import Entry, Memory
from memoir_edge.tophash import Bytes, Floats

GUARD = -1
Record = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """One row of the bank."""

    mask: Bytes  # [ceil(D/8)] packed
    edit: str | None  # who answers; None is a guard: the base model does
    threshold: float  # overlap from which it answers
    source: str | None  # the edit it came with; None is a guard of a memory that did not say


class Arrays(NamedTuple):
    """The bank as a memory file holds it."""

    bank: Bytes  # [R, ceil(D/8)]
    owner: npt.NDArray[np.int32]  # [R]
    thresholds: Floats  # [R]
    edits: tuple[Entry, ...]


@dataclass
class Bank:
    """Keys in the order in which they came; the first key of an edit is its primary one."""

    D: int
    k: int
    keys: list[Key] = field(default_factory=list)
    records: dict[str, Record | None] = field(default_factory=dict)  # by id
    _asked: dict[bytes, str] = field(init=False, repr=False)  # edit by primary mask

    def __post_init__(self) -> None:
        """Index the primary masks."""
        self._asked = {self.keys[row].mask.tobytes(): edit for edit, row in self.rows().items()}

    def add(
        self,
        edit: str,
        record: Record | None,
        primary: Bytes,
        others: Sequence[Bytes],
        guards: Sequence[Bytes],
        threshold: float,
    ) -> str | None:
        """Take an edit's keys in.

        A primary mask that is there already (the same prompt) is not stored twice: the later edit
        takes over all that belongs to the former (MEMOIR section 3.2), and no key twice.

        Returns:
            The id of the edit that was taken over.
        """
        former = self.asked_by(primary)
        if former is None:
            self.keys.append(Key(primary, edit, threshold, edit))
        else:
            self._hand_over(former, edit, threshold)
        self.records[edit] = record
        self._asked[primary.tobytes()] = edit
        held = {key.mask.tobytes() for key in self.keys if key.edit == edit}
        fresh = (mask for mask in others if mask.tobytes() not in held)
        self.keys += [Key(mask, edit, threshold, edit) for mask in fresh]
        self.keys += [Key(mask, None, threshold, edit) for mask in guards]
        return former

    def asked_by(self, primary: Bytes) -> str | None:
        """The edit whose primary mask this is."""
        return self._asked.get(primary.tobytes())

    def _hand_over(self, former: str, edit: str, threshold: float) -> None:
        del self.records[former]
        first = next(i for i, key in enumerate(self.keys) if key.edit == former)
        for i, key in enumerate(self.keys):
            if key.source == former:
                mine = key.edit and edit
                self.keys[i] = replace(key, edit=mine, source=edit)
        self.keys[first] = replace(self.keys[first], threshold=threshold)

    def drop(self, edits: Collection[str]) -> None:
        """Forget edits, with all keys and guards that came with them."""
        self.keys = [key for key in self.keys if key.source is None or key.source not in edits]
        self.records = {edit: r for edit, r in self.records.items() if edit not in edits}
        self._asked = {mask: edit for mask, edit in self._asked.items() if edit not in edits}

    def rows(self) -> dict[str, int]:
        """The row of each edit's primary key."""
        return {edit: rows[0] for edit, rows in self.rows_of().items()}

    def rows_of(self) -> dict[str, list[int]]:
        """The rows of each edit's keys, the primary one first; guards are nobody's."""
        found: dict[str, list[int]] = {}
        for row, key in enumerate(self.keys):
            if key.edit is not None:
                found.setdefault(key.edit, []).append(row)
        return found

    def calibrate(self, thresholds: Floats) -> None:
        """Give each key a threshold of its own: `[R]`.

        Raises:
            ValueError: There are not as many as keys.
        """
        pairs = zip(self.keys, thresholds.tolist(), strict=True)
        self.keys = [replace(key, threshold=threshold) for key, threshold in pairs]

    def packed(self) -> Bytes:
        """All masks `[R, ceil(D/8)]`."""
        if not self.keys:
            return np.zeros((0, -(-self.D // 8)), np.uint8)
        return np.stack([key.mask for key in self.keys])

    def arrays(self) -> Arrays:
        """The bank as a memory file holds it."""
        row = self.rows()
        owner = [GUARD if key.edit is None else row[key.edit] for key in self.keys]
        entries = (Entry(edit, row[edit], record) for edit, record in self.records.items())
        return Arrays(
            self.packed(),
            np.array(owner, np.int32),
            np.array([key.threshold for key in self.keys], np.float32),
            tuple(sorted(entries, key=lambda entry: entry.row)),
        )

    def route(self, masks: Bytes) -> tophash.Routes:
        """Route packed query masks `[B, ceil(D/8)]`; all base model while no key is held."""
        if not self.keys:
            B = len(masks)
            return tophash.Routes(
                np.full(B, tophash.BASE), np.zeros(B, np.float32), np.full(B, -1, np.int64)
            )
        bank, owner, thresholds, _ = self.arrays()
        return tophash.route(masks, np.zeros(1, np.int64), bank, owner, thresholds, self.k)


def bank_of(memory: Memory) -> Bank:
    """The keys of a memory file. Which edit brought a guard it does not say."""
    thresholds = np.broadcast_to(memory.thresholds, memory.owner.shape)
    edit = {entry.row: entry.id for entry in memory.edits}
    keys = [
        Key(mask, edit.get(int(owner)), float(threshold), edit.get(int(owner)))
        for mask, owner, threshold in zip(memory.bank, memory.owner, thresholds, strict=True)
    ]
    return Bank(memory.D, memory.k, keys, {entry.id: entry.record for entry in memory.edits})
