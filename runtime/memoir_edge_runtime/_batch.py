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
from itertools import groupby
from typing import NamedTuple

from memoir_edge.base import UNBOUNDED
from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._decoder import Decoder, Floats
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._reading import Read, Reader
from memoir_edge_runtime._results import Result, Token
from memoir_edge_runtime._router import Decided
from memoir_edge_runtime._sampling import choose
from memoir_edge_runtime._state import State

Written = tuple[Completion, Token | Result]  # a row and what came of it
_PADDING = 16  # tokens that take a CPU as long as one run more, or longer


class _Reading(NamedTuple):
    """A row whose prompt is being read."""

    row: Completion
    given: Decided | None
    parts: Iterator[Read | None]


class _Seat(NamedTuple):
    """A row of a batch, and which row of which state goes on as it."""

    row: Completion
    state: State
    place: int


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
        self._decoder, self._context = decoder, context
        self._reader = reader if decoder.movable else None  # it puts rows together from parts
        self._reading = deque[_Reading]()
        self._rows: list[Completion] = []  # those of the state; some may be done
        self._coming: list[_Seat] = []  # whose prompts are read
        self._state: State | None = None

    def takes(self, generation: Generation) -> bool:
        """Whether rows of a generation may join those that are there."""
        return self.generation is generation and self._decoder.movable

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
        written: list[Written] = []
        for run in self._runs(others, [len(row.prompt.row.prompt) for row in rows]):
            written += self._read_together([rows[i] for i in run], found and found.of(run))
        for i in alone:
            assert self._reader is not None
            given = decided[i]
            parts = self._reader.read(rows[i].prompt.row, self.generation, given and given.routes)
            written += self._read(_Reading(rows[i], given, parts))
        self._seat()
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
        written = self._read(self._reading.popleft())
        self._seat()
        return written

    def _alone(self, row: Completion, given: Decided | None) -> bool:
        return self._reader is not None and self._reader.wants(
            row.prompt.row, self.generation, given and given.routes
        )

    def _runs(self, rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Which rows' prompts are read together: on a CPU padding takes as long as tokens do."""
        apart = self._decoder.device == "cpu" and self._decoder.movable
        runs: list[list[int]] = []
        for i in sorted(rows, key=lambda i: lengths[i]):
            padding = sum(lengths[i] - lengths[other] for other in runs[-1]) if runs else 0
            if runs and (padding < _PADDING or not apart):
                runs[-1].append(i)
            else:
                runs.append([i])
        return runs

    def _read(self, reading: "_Reading") -> list[Written]:
        read = next(reading.parts)
        if read is None:
            self._reading.appendleft(reading)
            return []
        return self._begun([reading.row], reading.given, *read)

    def _read_together(self, rows: Sequence[Completion], found: Decided | None) -> list[Written]:
        prompts = [row.prompt.row for row in rows]
        state, logits = self._decoder.prefill(prompts, self.generation, found and found.routes)
        if self._reader is not None:
            self._reader.keep(state, prompts)
        return self._begun(rows, found, state, logits)

    def _begun(
        self, rows: Sequence[Completion], found: Decided | None, state: State, logits: Floats
    ) -> list[Written]:
        """The first tokens of rows whose prompts are read; they join by `_seat`."""
        routings = self.generation.routings(found or Decided(state.routes))
        now = time.time_ns()
        for row, routing in zip(rows, routings, strict=True):
            row.routing, row.times.read = routing, now
            row.times.routed = row.times.routed or now
        written = _advance(rows, logits)
        self._coming += [_Seat(row, state, i) for i, row in enumerate(rows)]
        return written

    def step(self) -> list[Written]:
        """Write one more token for every live row; there must be at least one row.

        Returns:
            The tokens in the order of the rows, each followed by the row's result if it is done.
        """
        assert self._state is not None
        if self._state.attention.shape[1] >= self._context and self._decoder.movable:
            self._seat(anew=True)
        elif self._sparse(self._rows):
            self._seat()
        self._state, logits = self._decoder.step(self._state, [r.ids[-1] for r in self._rows])
        return _advance(self._rows, logits)

    def _sparse(self, rows: Sequence[Completion]) -> bool:
        """Whether rows that are done had better leave."""
        done = sum(row.done for row in rows)
        # Where that copies the others, it pays once half of the rows are done.
        return done > 0 and (self._decoder.in_place or 2 * done >= len(rows))

    def _seat(self, *, anew: bool = False) -> None:
        """Let rows join, first in the places of those that are done, and let these leave.

        Args:
            anew: Copy all, without padding that none needs.
        """
        old, left = self._state, deque(seat for seat in self._coming if not seat.row.done)
        self._coming = []
        seats = [_Seat(row, old, i) for i, row in enumerate(self._rows)] if old else []
        seats = [left.popleft() if seat.row.done and left else seat for seat in seats]
        seats += left
        if anew or self._sparse([seat.row for seat in seats]):
            seats = _closed_up(seats)
        parts = [
            (those[0].state, [seat.place for seat in those])
            for those in (list(group) for _, group in groupby(seats, lambda seat: id(seat.state)))
        ]
        if not parts:
            self._state = None
        elif len(parts) == 1 and parts[0][1] == list(range(len(parts[0][0].attention))):
            self._state = parts[0][0]
        else:
            self._state = self._decoder.join(parts, into=None if anew else old)
        self._rows = [seat.row for seat in seats]  # as in the state, also where that has failed


def _closed_up(seats: Sequence[_Seat]) -> list[_Seat]:
    """Without rows that are done: the last ones take their places."""
    seats = list(seats)
    for j in range(len(seats)):
        while len(seats) > j and seats[-1].row.done:
            seats.pop()
        if j < len(seats) and seats[j].row.done:
            seats[j] = seats.pop()
    return seats


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
