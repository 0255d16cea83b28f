"""The ports of an exported graph: names, types and the empty memory. Their one home.

An exported graph takes a memory through optional inputs: each is a graph input with an initializer
of the same name. Where nothing is fed they hold the empty memory, a single guard that no prompt can
reach.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memoir_edge.memory import Memory

DOMAIN = "memoir_edge"


class Port(NamedTuple):
    """One optional input or extra output: numpy dtype name and symbolic shape."""

    dtype: str
    shape: tuple[str | int, ...]


# Set once for each memory. C columns, R keys, D and d the site's input and output width.
MEMORY: dict[str, Port] = {
    "memory.columns": Port("int32", ("C",)),
    "memory.values": Port("float32", ("C", "d")),
    "memory.bank": Port("uint8", ("R", "ceil(D/8)")),
    "memory.owner": Port("int32", ("R",)),
    "memory.thresholds": Port("float32", ("R",)),
    "memory.center": Port("float32", ("D",)),
    "memory.scale": Port("float32", ("D",)),
    "memory.permutation": Port("int32", ("D",)),
    "memory.k": Port("int64", (1,)),
}
# Set for each run. Where span is negative, the attention mask's value counts instead.
RUN: dict[str, Port] = {
    "memory.route": Port("int64", ("B",)),
    "memory.span": Port("int64", ("B", "T")),
}
OUTPUTS: dict[str, Port] = {
    "memory.route_out": Port("int64", ("B",)),
    "memory.overlap": Port("float32", ("B",)),
    "memory.candidate": Port("int64", ("B",)),
}

Feeds = dict[str, npt.NDArray[np.generic]]


def empty(D: int, d: int) -> Feeds:
    """The empty memory: no key can be reached, so every row is the base model's."""
    return {
        "memory.columns": np.zeros(1, np.int32),
        "memory.values": np.zeros((1, d), np.float32),
        "memory.bank": np.zeros((1, -(-D // 8)), np.uint8),
        "memory.owner": np.full(1, -1, np.int32),
        "memory.thresholds": np.full(1, 2, np.float32),
        "memory.center": np.zeros(D, np.float32),
        "memory.scale": np.ones(D, np.float32),
        "memory.permutation": np.arange(D, dtype=np.int32),
        "memory.k": np.ones(1, np.int64),
    }


def run_defaults() -> Feeds:
    """What a run is fed if nothing else is: each row's route is decided, the attention mask counts.

    Both broadcast over the batch.
    """
    return {"memory.route": np.zeros(1, np.int64), "memory.span": np.full((1, 1), -1, np.int64)}


def feeds(memory: Memory) -> Feeds:
    """A memory as the tensors that the ports take; values become float32.

    A memory without keys, or without columns, takes those tensors from the empty memory: ONNX
    Runtime's ArgMax and MatMul want at least one row.
    """
    tensors = empty(memory.D, memory.d)
    tensors |= {
        "memory.center": memory.center,
        "memory.scale": memory.scale,
        "memory.permutation": memory.permutation,
        "memory.k": np.array([memory.k], np.int64),
    }
    if len(memory.bank):
        tensors |= {
            "memory.bank": memory.bank,
            "memory.owner": memory.owner,
            "memory.thresholds": np.broadcast_to(memory.thresholds, memory.owner.shape).copy(),
        }
    if len(memory.columns):
        tensors |= {"memory.columns": memory.columns, "memory.values": memory.values_f32()}
    return tensors
