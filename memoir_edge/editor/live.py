"""A memory while it is edited: Wm dense on the model's device, the keys in numpy.

Knows nothing of prompts, tokens or training; the history is what it is compiled from.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memoir_edge import tophash
from memoir_edge.history.bank import Bank, bank_of
from memoir_edge.history.events import Change
from memoir_edge.history.journal import Journal
from memoir_edge.history.state import add
from memoir_edge.memory import Memory, to_dense
from memoir_edge.tophash import Bytes, Floats


@dataclass
class Hashing:
    """What turns a routing feature into a mask: drawn once for each memory, then fixed."""

    k: int
    feature: str
    center: Floats  # [D]
    scale: Floats  # [D]
    permutation: np.ndarray[Any, np.dtype[np.int32]]  # [D]

    def mask(self, f: Floats) -> Bytes:
        """`[B, D]` features to packed masks `[B, ceil(D/8)]`."""
        return tophash.pack(tophash.mask(f, self.center, self.scale, self.permutation, self.k))


def hashing_of(memory: Memory) -> Hashing:
    """How a memory's masks are made."""
    return Hashing(memory.k, memory.feature, memory.center, memory.scale, memory.permutation)


@dataclass
class LiveMemory:
    """Wm and the keys."""

    Wm: Tensor  # [d, D] float32; its transpose is contiguous, because a mask reads whole columns
    hashing: Hashing
    bank: Bank

    def columns(self, mask: Bytes) -> Tensor:
        """Indices of a mask's k active columns, on Wm's device."""
        bits = tophash.unpack(mask, self.Wm.shape[1])
        return torch.from_numpy(np.flatnonzero(bits)).to(self.Wm.device)

    def change(self, mask: Bytes, change: Change) -> None:
        """Apply a change to Wm."""
        add(self.Wm.T, mask, change, lambda array: torch.from_numpy(array).to(self.Wm.device))


def live(journal: Journal, device: torch.device) -> LiveMemory:
    """What a journal amounts to, to be edited further: the keys are the journal's own."""
    state = journal.state()
    return LiveMemory(_placed(journal.dense(state), device), hashing_of(journal.origin), state.bank)


def thaw(memory: Memory, device: torch.device) -> LiveMemory:
    """A memory file's content, ready to answer."""
    return LiveMemory(_placed(to_dense(memory), device), hashing_of(memory), bank_of(memory))


def _placed(Wm: Floats, device: torch.device) -> Tensor:
    """Wm on a device; its transpose is contiguous there."""
    return torch.from_numpy(np.ascontiguousarray(Wm.T)).to(device).T
