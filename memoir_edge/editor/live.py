"""A memory while it is edited: Wm dense on the model's device, the bank growing in numpy.

Knows nothing of prompts, tokens or training; `memoir_edge.memory` is what it freezes into.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memoir_edge import tophash
from memoir_edge.edits import Edit
from memoir_edge.memory import Base, Entry, Memory, from_dense, to_dense

GUARD = -1


@dataclass
class Hashing:
    """What turns a routing feature into a mask: drawn once for each memory, then fixed."""

    k: int
    feature: str
    center: tophash.Floats  # [D]
    scale: tophash.Floats  # [D]
    permutation: np.ndarray[Any, np.dtype[np.int32]]  # [D]

    def mask(self, f: tophash.Floats) -> tophash.Bytes:
        """`[B, D]` features to packed masks `[B, ceil(D/8)]`."""
        return tophash.pack(tophash.mask(f, self.center, self.scale, self.permutation, self.k))


@dataclass
class LiveMemory:
    """Wm `[d, D]` float32 and the keys: one list entry a bank row."""

    Wm: Tensor
    hashing: Hashing
    bank: list[tophash.Bytes] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)
    entries: dict[int, Entry] = field(default_factory=dict)  # by primary row

    @property
    def ids(self) -> set[str]:
        """Ids of the edits held."""
        return {entry.id for entry in self.entries.values()}

    def packed(self) -> tophash.Bytes:
        """The bank `[R, ceil(D/8)]`."""
        D = self.Wm.shape[1]
        return np.stack(self.bank) if self.bank else np.zeros((0, -(-D // 8)), np.uint8)

    def columns(self, mask: tophash.Bytes) -> Tensor:
        """Indices of a mask's k active columns, on Wm's device."""
        bits = tophash.unpack(mask, self.Wm.shape[1])
        return torch.from_numpy(np.flatnonzero(bits)).to(self.Wm.device)

    def add(
        self,
        edit: Edit,
        primary: tophash.Bytes,
        keys: Sequence[tophash.Bytes],
        guards: Sequence[tophash.Bytes],
        threshold: float,
    ) -> int:
        """Take an edit's keys in and return its primary row.

        A primary mask that is there already (the same prompt) is not stored twice: the later edit
        takes the row over (MEMOIR section 3.2).
        """
        row = self._row_of(primary)
        if row is None:
            row = self._append(primary, len(self.bank), threshold)
        self.thresholds[row] = threshold
        self.entries[row] = Entry(edit.id, row, edit.record())
        for mask in keys:
            self._append(mask, row, threshold)
        for mask in guards:
            self._append(mask, GUARD, threshold)
        return row

    def _row_of(self, mask: tophash.Bytes) -> int | None:
        return next((row for row in self.entries if np.array_equal(self.bank[row], mask)), None)

    def _append(self, mask: tophash.Bytes, owner: int, threshold: float) -> int:
        self.bank.append(mask)
        self.owner.append(owner)
        self.thresholds.append(threshold)
        return len(self.bank) - 1

    def route(self, masks: tophash.Bytes) -> tophash.Routes:
        """Route packed query masks `[B, ceil(D/8)]`; all base model while no key is held."""
        if not self.bank:
            B = len(masks)
            return tophash.Routes(
                np.full(B, tophash.BASE), np.zeros(B, np.float32), np.full(B, -1, np.int64)
            )
        return tophash.route(
            masks,
            np.zeros(1, np.int64),
            self.packed(),
            np.array(self.owner, np.int32),
            np.array(self.thresholds, np.float32),
            self.hashing.k,
        )

    def freeze(self, *, site: str, base: Base, tool: str, created: str, **rest: Any) -> Memory:
        """The memory as an artifact; `rest` are further fields of `Memory`."""
        h = self.hashing
        return from_dense(
            self.Wm.cpu().numpy(),
            bank=self.packed(),
            owner=np.array(self.owner, np.int32),
            thresholds=np.array(self.thresholds, np.float32),
            center=h.center,
            scale=h.scale,
            permutation=h.permutation,
            site=site,
            feature=h.feature,
            k=h.k,
            base=base,
            edits=tuple(self.entries[row] for row in sorted(self.entries)),
            tool=tool,
            created=created,
            **rest,
        )


def thaw(memory: Memory, device: torch.device) -> LiveMemory:
    """A memory file's content, ready to be edited further or to answer."""
    thresholds = np.broadcast_to(memory.thresholds, memory.owner.shape)
    return LiveMemory(
        Wm=torch.from_numpy(to_dense(memory)).to(device),
        hashing=Hashing(memory.k, memory.feature, memory.center, memory.scale, memory.permutation),
        bank=list(memory.bank),
        owner=memory.owner.tolist(),
        thresholds=thresholds.tolist(),
        entries={entry.row: entry for entry in memory.edits},
    )
