"""A memory while it is edited: Wm dense on the model's device, the bank growing in numpy.

Knows nothing of prompts, tokens or training; `memoir_edge.memory` is what it freezes into.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memoir_edge import tophash
from memoir_edge.bank import Bank, bank_of
from memoir_edge.journal import Change
from memoir_edge.memory import Base, Memory, from_dense, to_dense


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
    """Wm and the keys."""

    Wm: Tensor  # [d, D] float32; its transpose is contiguous, because a mask reads whole columns
    hashing: Hashing
    bank: Bank

    def columns(self, mask: tophash.Bytes) -> Tensor:
        """Indices of a mask's k active columns, on Wm's device."""
        bits = tophash.unpack(mask, self.Wm.shape[1])
        return torch.from_numpy(np.flatnonzero(bits)).to(self.Wm.device)

    def change(self, mask: tophash.Bytes, change: Change) -> None:
        """Apply a change to Wm, exactly as `memoir_edge.journal.add` does."""
        columns = self.Wm.T
        if change.decay != 1:
            columns *= change.decay
        columns[self.columns(mask)] += torch.from_numpy(change.delta()).to(self.Wm.device)

    def freeze(self, *, site: str, base: Base, tool: str, **rest: Any) -> Memory:
        """The memory as an artifact; `rest` are further fields of `Memory`."""
        return from_dense(
            self.Wm.cpu().numpy(),
            **self.bank.arrays()._asdict(),
            **vars(self.hashing),
            site=site,
            base=base,
            tool=tool,
            **rest,
        )


def empty(hashing: Hashing, d: int, device: torch.device) -> LiveMemory:
    """A memory that holds nothing."""
    D = len(hashing.center)
    return LiveMemory(torch.zeros(D, d, device=device).T, hashing, Bank(D, hashing.k))


def thaw(memory: Memory, device: torch.device) -> LiveMemory:
    """A memory file's content, ready to be edited further or to answer."""
    return LiveMemory(
        Wm=torch.from_numpy(np.ascontiguousarray(to_dense(memory).T)).to(device).T,
        hashing=Hashing(memory.k, memory.feature, memory.center, memory.scale, memory.permutation),
        bank=bank_of(memory),
    )
