"""A batch between two steps, and where its rows lie: tokens, padding, positions, places in caches.

A row has its own tokens at one end of the batch's width and padding at the other: on the left, or
on the right for a graph whose attention takes a row's length from the sum of its mask
(GroupQueryAttention). Rows of several batches become one by copies of their own tokens into a cache
with room for all; on a CPU that may be the cache of one of them, whose rows then stay where they
are. Knows nothing of running a graph.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memoir_edge.tophash import Routes
from memoir_edge_runtime._cache import Cached, zeros
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._provider import Array, OrtValue, value
from memoir_edge_runtime._room import Room, roomy, seats
from memoir_edge_runtime._source import Ints, Source
from memoir_edge_runtime._tokens import Row

# Where the n tokens of a row of width T stand, by the side of the padding.
_PLACES: dict[str, Callable[[int, int], slice]] = {
    "left": lambda n, T: slice(T - n, T),
    "right": lambda n, T: slice(0, n),
}


@dataclass(frozen=True)
class State:
    """A batch between two steps. B rows, T tokens so far, padding where the graph wants it."""

    cache: Mapping[str, OrtValue]  # by input name; on the device
    attention: Ints  # [B, T], 1 on tokens, 0 on padding
    routes: Routes  # decided on the prompts, [B] each; by the graph unless given
    generation: Generation
    room: Room | None = None  # what the cache is a part of, where it was put together here
    source: Source | None = None  # the prompts, where an encoder reads them


def positions(attention: Ints, T: int) -> Ints:
    """Of the last T columns `[B, T]`: a row's tokens are counted from 0, padding does not count."""
    counted: Ints = np.maximum(attention.cumsum(axis=1) - 1, 0)
    return counted[:, -T:]


@dataclass(frozen=True)
class Layout:
    """How a graph wants the rows of a batch to lie."""

    cached: Sequence[Cached]
    device: str
    padding_side: str  # "left" or "right"

    @property
    def shares(self) -> bool:
        """Whether attention appends in place where its cache is both input and output."""
        return self.padding_side == "right"  # GroupQueryAttention

    @property
    def in_place(self) -> bool:
        """Whether rows join and leave a batch without a copy of the others."""
        return self.shares and self.device == "cpu"

    def place(self, n: int, T: int) -> slice:
        """Where the n tokens of a row of width T stand."""
        return _PLACES[self.padding_side](n, T)

    def attention(self, tokens: Sequence[int], width: int | None = None) -> Ints:
        """`[B, T]` for rows of so many tokens."""
        T = width or max(tokens)
        attention = np.zeros((len(tokens), T), np.int64)
        for row, n in zip(attention, tokens, strict=True):
            row[self.place(n, T)] = 1
        return attention

    def padded(self, rows: Sequence[Row]) -> tuple[Ints, Ints, Ints]:
        """Ids, attention, which tokens count for routing; `[B, T]` each."""
        attention = self.attention([len(row.ids) for row in rows])
        ids, counted = np.zeros_like(attention), np.zeros_like(attention)
        for i, row in enumerate(rows):
            place = self.place(len(row.ids), attention.shape[1])
            ids[i, place] = row.ids
            counted[i, place][row.counted] = 1
        return ids, attention, counted

    def join(
        self,
        rows: Sequence[tuple[State, int]],
        *,
        width: int | None = None,
        into: State | None = None,
    ) -> tuple[Mapping[str, OrtValue], Ints, Room]:
        """One cache of rows of several states, in the order given.

        Args:
            rows: States, and a row of each.
            width: Of the rows with their padding; by default none that no row needs.
            into: A state that is used up: on a CPU, where its cache has room for all rows, they are
                written into it, and those of its own that keep their places stay as they are.

        Returns:
            The cache by input name, the rows' attention, and what the cache is a part of.
        """
        tokens = [int(state.attention[i].sum()) for state, i in rows]
        B, T = len(rows), width or max(tokens)
        held = self._held(into, rows, T) if into else None
        if held:
            arrays = {name: past.numpy() for name, past in held.items()}
            self._write(arrays, rows, tokens, into)
        else:
            arrays = self._spacious(B, T)
            self._write(arrays, rows, tokens)
            held = {name: value(array, self.device) for name, array in arrays.items()}
        most, size = self._room_of(held)
        cache = held if most == B else {n: value(array[:B]) for n, array in arrays.items()}
        attention = self.attention(tokens, T if self.shares else size)
        return cache, attention, Room(held, size, attention)  # which keeps the cache's memory

    def _held(
        self, into: State, rows: Sequence[tuple[State, int]], T: int
    ) -> Mapping[str, OrtValue] | None:
        """What holds a state's cache, if rows of up to T tokens can be written into it."""
        room = into.room
        free = room.last is into.attention if room else not self.shares
        if self.device != "cpu" or not free:
            return None
        held = room.held if room else into.cache
        own = [i if state is into else None for state, i in rows]
        moved = any(j in own and i != j for j, i in enumerate(own))  # to where it may be needed
        # What is far too large is given back; padding takes time, too.
        wanted = self._wanted(len(rows), T)
        sizes = zip((len(rows), T), self._room_of(held), wanted, strict=True)
        return held if all(n <= size <= 2 * most for n, size, most in sizes) and not moved else None

    def _wanted(self, B: int, T: int) -> tuple[int, int]:
        """Rows and tokens to have room for: for more where attention writes into it."""
        return seats(B) if self.in_place else B, roomy(T) if self.shares else T

    def _spacious(self, B: int, T: int) -> dict[str, Array]:
        """Empty caches by input name, with that room."""
        B, T = self._wanted(B, T)
        shapes = {c: (B, *(n or T for n in c.shape[1:])) for c in self.cached}
        return {c.past: zeros(shape, c.dtype) for c, shape in shapes.items()}

    def _room_of(self, held: Mapping[str, OrtValue]) -> tuple[int, int]:
        """Rows and tokens that there is room for."""
        first = self.cached[0]
        shape = held[first.past].shape()
        return shape[0], shape[first.axis]

    def _write(
        self,
        arrays: Mapping[str, Array],
        rows: Sequence[tuple[State, int]],
        tokens: Sequence[int],
        into: State | None = None,
    ) -> None:
        """Copy each row's own tokens to its place, unless they are there."""
        states = {id(state): state for state, _ in rows}
        for c in self.cached:
            past = {key: state.cache[c.past].numpy() for key, state in states.items()}
            out = arrays[c.past]
            for j, ((state, i), n) in enumerate(zip(rows, tokens, strict=True)):
                if state is not into or i != j:
                    its = c.by_token(past[id(state)][i])
                    own = self.place(n, state.attention.shape[1])
                    c.by_token(out[j])[self.place(n, out.shape[c.axis])] = its[own]
