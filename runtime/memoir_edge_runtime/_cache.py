"""The tensors of a graph's cache: keys and values of what was read, as the graph takes them.

Knows nothing of running a graph.
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memoir_edge.errors import GraphError
from memoir_edge_runtime._provider import Array, OrtValue, value

PAST, PRESENT = "past_key_values.", "present."
DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


@dataclass(frozen=True)
class Cached:
    """One tensor of the cache: its input, the output that the next step reads, and its shape."""

    past: str
    present: str
    dtype: type[np.generic]
    shape: tuple[int | None, ...]  # batch first; None is the axis of tokens

    @property
    def axis(self) -> int:
        """That of tokens."""
        return self.shape.index(None)

    def by_token(self, row: Array) -> Array:
        """A row of it, with the axis of tokens first."""
        return np.moveaxis(row, self.axis - 1, 0)

    def empty(self, B: int, device: str) -> OrtValue:
        """Of B rows without tokens."""
        return value(np.zeros((B, *(n or 0 for n in self.shape[1:])), self.dtype), device)


def zeros(shape: Sequence[int], dtype: type[np.generic]) -> Array:
    """An array in memory of its own, which the system has again as soon as it is freed.

    The heap would keep it: caches come and go in sizes between which nothing else fits.
    """
    size = math.prod(shape)
    held = mmap.mmap(-1, max(1, size * np.dtype(dtype).itemsize), access=mmap.ACCESS_COPY)
    return np.frombuffer(held, dtype, size).reshape(shape)


def cached(declared: Any) -> Cached:
    """A graph's input as a tensor of its cache.

    Raises:
        GraphError: It is none.
    """
    name, shape = declared.name, [n if isinstance(n, int) else None for n in declared.shape]
    if declared.type not in DTYPES or shape[1:].count(None) != 1:
        raise GraphError(
            f"{name} is {declared.type} {declared.shape}; expected float or float16 with "
            "one axis of tokens behind the batch's"
        )
    # The first axis is the batch's, even where a graph gives it a symbolic size, too.
    sizes = (-1, *shape[1:])
    return Cached(name, name.replace(PAST, PRESENT, 1), DTYPES[declared.type], sizes)
