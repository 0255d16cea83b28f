"""Rows that decode together: they join and leave at token boundaries, each with its own route.

Knows nothing of requests, queues or clocks. `complete` is the plain loop over one batch from its
first token to its last; a server's scheduler calls the same two steps in its own order:

    batch = Batch(decoder, generation)
    written = batch.add(rows)           reads their prompts; their first tokens
    written += batch.step()             one token more for every row, as long as batch.live
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from memoir_edge.base import UNBOUNDED
from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._decoder import Decoder, Floats, State
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._reading import Read, Reader
from memoir_edge_runtime._results import Result, Token
from memoir_edge_runtime._router import Decided
from memoir_edge_runtime._sampling import choose

Written = tuple[Completion, Token | Result]  # a row and what came of it


class _Reading(NamedTuple):
    """A row whose prompt is being read."""

    row: Completion
    given: Decided | None
    parts: Iterator[Read | None]


class Batch:
    """Rows of one generation that decode together.

    Args:
        decoder: The graph.
        generation: The memory that every row is answered with.
        context: Most tokens of a sequence; the batch never gets wider.
        reader: Reads long prompts part by part, and others behind what it keeps; by default each
            prompt is read at once.
    """

    def __init__(
        self,
        decoder: Decoder,
        generation: Generation,
        context: int = UNBOUNDED,
        reader: Reader | None = None,
    ) -> None:
        self.generation = generation
        self._decoder, self._context, self._reader = decoder, context, reader
        self._reading = deque[_Reading]()
        self._rows: list[Completion] = []  # those of the state; some may be done
        self._state: State | None = None

    @property
    def live(self) -> list[Completion]:
        """The rows that want another token."""
        return [row for row in self._rows if not row.done]

    def add(self, rows: Sequence[Completion]) -> list[Written]:
        """Let rows join: read their prompts, decide their routes, choose their first tokens.

        Returns:
            The first tokens, each followed by the row's result if the row is done with it. A row
            whose prompt takes longer is `reading` from now on.
        """
        joined = time.time_ns()
        found = self.generation.decide([row.prompt.asked for row in rows])
        routed = time.time_ns() if found else 0
        for row in rows:
            row.times.joined, row.times.routed = joined, routed
        decided = [found and found.of([i]) for i in range(len(rows))]
        alone = [i for i, row in enumerate(rows) if self._alone(row, decided[i])]
        others = [i for i in range(len(rows)) if i not in alone]
        written = self._read_together([rows[i] for i in others], found and found.of(others))
        for i in alone:
            assert self._reader is not None
            given = decided[i]
            parts = self._reader.read(rows[i].prompt.row, self.generation, given and given.routes)
            written += self._read(_Reading(rows[i], given, parts))
        return written

    @property
    def reading(self) -> Completion | None:
        """The row whose prompt is read by `read`."""
        while self._reading and self._reading[0].row.done:  # given up meanwhile
            self._reading.popleft()
        return self._reading[0].row if self._reading else None

    def read(self) -> list[Written]:
        """Read one more part of the prompt that is being read; there must be one.

        Returns:
            As `add`: its first token, if that was the last part.
        """
        return self._read(self._reading.popleft())

    def _alone(self, row: Completion, given: Decided | None) -> bool:
        return self._reader is not None and self._reader.wants(
            row.prompt.row, self.generation, given and given.routes
        )

    def _read(self, reading: "_Reading") -> list[Written]:
        read = next(reading.parts)
        if read is None:
            self._reading.appendleft(reading)
            return []
        return self._begun([reading.row], reading.given, *read)

    def _read_together(self, rows: Sequence[Completion], found: Decided | None) -> list[Written]:
        if not rows:
            return []
        prompts = [row.prompt.row for row in rows]
        state, logits = self._decoder.prefill(prompts, self.generation, found and found.routes)
        if self._reader is not None:
            self._reader.keep(state, prompts)
        return self._begun(rows, found, state, logits)

    def _begun(
        self, rows: Sequence[Completion], found: Decided | None, state: State, logits: Floats
    ) -> list[Written]:
        """Let rows join whose prompts are read."""
        routings = self.generation.routings(found or Decided(state.routes))
        now = time.time_ns()
        for row, routing in zip(rows, routings, strict=True):
            row.routing, row.times.read = routing, now
            row.times.routed = row.times.routed or now
        written = _advance(rows, logits)
        parts = [] if self._state is None else [(self._state, self._rows)]
        self._join([*parts, (state, rows)])
        return written

    def step(self) -> list[Written]:
        """Write one more token for every live row; there must be at least one row.

        Returns:
            The tokens in the order of the rows, each followed by the row's result if it is done.
        """
        assert self._state is not None
        on, width = len(self.live), self._state.attention.shape[1]
        # Dropping rows copies the caches of the others; that pays once half of the rows are done.
        full = width >= self._context
        if 2 * on <= len(self._rows) or (full and on < len(self._rows)):
            self._join([(self._state, self._rows)])
        self._state, logits = self._decoder.step(self._state, [r.ids[-1] for r in self._rows])
        return _advance(self._rows, logits)

    def _join(self, parts: Sequence[tuple[State, Sequence[Completion]]]) -> None:
        """Make one state of the live rows of several."""
        kept = [(state, [i for i, r in enumerate(rows) if not r.done]) for state, rows in parts]
        some = [(state, on) for state, on in kept if on]
        self._rows = [row for _, rows in parts for row in rows if not row.done]
        whole = len(some) == 1 and len(some[0][1]) == len(some[0][0].attention)
        self._state = (some[0][0] if whole else self._decoder.join(some)) if some else None


def _advance(rows: Sequence[Completion], logits: Floats) -> list[Written]:
    """One more token for every row that is not done, from logits `[B, V]` of all."""
    on = [i for i, row in enumerate(rows) if not row.done]
    if len(on) < len(rows):
        rows, logits = [rows[i] for i in on], logits[on]
    chosen = choose(logits, [row.options for row in rows], [row.random for row in rows])
    written: list[Written] = []
    for row, token, its in zip(rows, chosen, logits, strict=True):
        written.append((row, row.advance(token, its)))
        if row.done:
            written.append((row, row.result()))
    return written


def complete(
    decoder: Decoder,
    generation: Generation,
    completions: Sequence[Completion],
    context: int = UNBOUNDED,
) -> Iterator[Token | Result]:
    """Write a batch of rows to their ends: each row's tokens in order, then its result.

    Args:
        decoder: The graph.
        generation: The memory that the whole batch is answered with.
        completions: The rows.
        context: Most tokens of a sequence; the batch never gets wider.
    """
    batch = Batch(decoder, generation, context)
    written = batch.add(completions)
    while written:
        yield from (event for _, event in written)
        written = batch.step() if batch.live else []
