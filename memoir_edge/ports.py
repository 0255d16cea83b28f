"""The ports of an exported graph: names, types and the empty memory. Their one home.

An exported graph takes a memory through inputs of its own, the ports. Its kind says how:

    optional     each has an initializer of the same name: where nothing is fed they hold the empty
                 memory, a single guard that no prompt can reach
    required     each must be fed, for hosts that know no inputs with initializers
    recurrent    optional, and the graph carries the route itself, as a recurrent state
    cache        optional, and the graph carries the route itself, as one more layer of the cache
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from memoir_edge.memory import Memory

DOMAIN = "memoir_edge"
Kind = Literal["optional", "required", "recurrent", "cache"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Port(NamedTuple):
    """One added input or output: numpy dtype name and symbolic shape."""

    dtype: str
    shape: tuple[str | int, ...]


# Set once for each memory. C columns, R keys, D and d the site's input and output width.
MEMORY: dict[str, Port] = {
    "memory.columns": Port("int32", ("C",)),
    "memory.values": Port("float32", ("C", "d")),
    "memory.tile": Port("int32", ("R",)),
    "memory.bank": Port("uint8", ("R", "ceil(D/8)")),
    "memory.owner": Port("int32", ("R",)),
    "memory.thresholds": Port("float32", ("R",)),
    "memory.center": Port("float32", ("D",)),
    "memory.scale": Port("float32", ("D",)),
    "memory.permutation": Port("int32", ("D",)),
    "memory.k": Port("int64", (1,)),
    "memory.feature": Port("int64", (3,)),
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

# Inside the graph: what the site reads, `[B, T, D]`.
SITE_INPUT = "memory/a"

Feeds = dict[str, npt.NDArray[np.generic]]

# (times, share, more): the tokens that count for a feature are those with
# times * (tokens from here on) <= share * (all tokens) + more.
SPANS: dict[str, tuple[int, int, int]] = {
    "mean": (0, 0, 0),
    "last": (1, 0, 1),
    "last-two": (1, 0, 2),
    "later-half": (2, 1, 1),
    "mean-scaled": (0, 0, 0),
    "last-scaled": (1, 0, 1),
}


def empty(D: int, d: int) -> Feeds:
    """The empty memory: no key can be reached, so every row is the base model's."""
    return {
        "memory.columns": np.zeros(1, np.int32),
        "memory.values": np.zeros((1, d), np.float32),
        "memory.tile": np.zeros(1, np.int32),
        "memory.bank": np.zeros((1, -(-D // 8)), np.uint8),
        "memory.owner": np.full(1, -1, np.int32),
        "memory.thresholds": np.full(1, 2, np.float32),
        "memory.center": np.zeros(D, np.float32),
        "memory.scale": np.ones(D, np.float32),
        "memory.permutation": np.arange(D, dtype=np.int32),
        "memory.k": np.ones(1, np.int64),
        "memory.feature": np.zeros(3, np.int64),
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
        "memory.feature": np.array(SPANS[memory.feature], np.int64),
    }
    if len(memory.bank):
        tensors |= {
            "memory.bank": memory.bank,
            "memory.tile": np.zeros_like(memory.owner) if memory.tile is None else memory.tile,
            "memory.owner": memory.owner,
            "memory.thresholds": np.broadcast_to(memory.thresholds, memory.owner.shape).copy(),
        }
    if len(memory.columns):
        tensors |= {"memory.columns": memory.columns, "memory.values": memory.values_f32()}
    return tensors
