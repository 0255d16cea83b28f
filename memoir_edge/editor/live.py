"""A memory while it is edited: Wm dense on the model's device, the keys in numpy.

Knows nothing of prompts, tokens or training; the history is what it is compiled from.
"""

from dataclasses import dataclass
from functools import partial
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

    Wm: Tensor  # [d, tiles * D] float32; its transpose is contiguous: a mask reads whole columns
    hashing: Hashing
    bank: Bank

    @property
    def D(self) -> int:
        """Columns of a tile: a site's input width."""
        return len(self.hashing.permutation)

    @property
    def sites(self) -> int:
        """How many layers are edited: tile t is of site t mod S."""
        return self.bank.sites

    def tile(self, number: int) -> Tensor:
        """A tile of Wm, `[d, D]`."""
        return self.Wm[:, number * self.D : (number + 1) * self.D]

    def columns(self, mask: Bytes, tile: int = 0) -> Tensor:
        """Indices of a mask's k active columns of Wm at the first site, on its device."""
        places = np.flatnonzero(tophash.unpack(mask, self.D))
        return torch.from_numpy(tile * self.D + places).to(self.Wm.device)

    def columns_of(self, edit: str) -> Tensor:
        """The same of the mask of an edit that is held."""
        return self.columns(self.bank.recalled()[edit], self.bank.tile.get(edit, 0))

    def change(self, mask: Bytes, change: Change, tile: int = 0) -> None:
        """Apply a change to Wm."""
        placed = partial(torch.as_tensor, device=self.Wm.device)
        end = (tile + self.sites) * self.D
        add(self.Wm[:, tile * self.D : end].T, mask, change, placed, self.sites)

    def widen(self, tiles: int) -> None:
        """Let Wm have at least so many tiles."""
        more = tiles * self.D - self.Wm.shape[1]
        if more > 0:
            self.Wm = torch.cat([self.Wm.T, self.Wm.new_zeros(more, len(self.Wm))]).T


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
