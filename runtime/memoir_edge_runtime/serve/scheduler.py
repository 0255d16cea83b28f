"""Continuous batching: many requests written at once, joining and leaving between two tokens.

Knows nothing of HTTP, text or files. One thread owns the graph and repeats a tick: drop rows that
are no longer wanted, write one token for every row, let waiting rows join, deliver the events. Rows
of one generation decode together; generations take turns, token by token. (So do requests, where
the graph cannot let rows join.)

    scheduler = Scheduler(session.decoder, context=session.language.context)
    ticket = scheduler.submit(rows, generation, deliver)     deliver is called in that thread
    ticket.cancel()
    scheduler.close()                                        finishes what was taken, then ends

Fairness: rows join in the order in which they came, those of one generation at a time, as many as
fit. A tick reads at most `prefill_tokens` of prompts, or one prompt that is longer, or a part of it
where there is a reader; and then every running row gets its token. Parts of a long prompt and rows
that wait take turns. So long prompts delay a stream by a bounded time for each token, and others'
first tokens by a part at a time; and streams never keep a prompt out.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

from memoir_edge.base import UNBOUNDED
from memoir_edge.errors import InputError, MemoirEdgeError
from memoir_edge_runtime._batch import Batch, Written
from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._decoder import Decoder
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._reading import Reader
from memoir_edge_runtime._results import Result, Token


class BusyError(MemoirEdgeError):
    """The queue is full; `retry_after` is a guess in seconds."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} rows are waiting already", hint="try again later")
        self.retry_after = retry_after


class ClosedError(MemoirEdgeError):
    """The scheduler takes no more requests."""


class DeadlineError(MemoirEdgeError):
    """The request was not finished in time."""

    def __init__(self) -> None:
        super().__init__("the request was not finished in its time")


@dataclass(frozen=True)
class Failed:
    """A request that ends without its results."""

    error: Exception


Event = Token | Result | Failed
Deliver = Callable[[Sequence[Event]], None]


@dataclass(eq=False)
class Ticket:
    """One request in the scheduler's hands."""

    rows: Sequence[Completion]
    generation: Generation
    deliver: Deliver
    deadline: float = math.inf  # of time.monotonic
    cancelled: bool = False

    def cancel(self) -> None:
        """Give the request up: its rows leave at the next token, and nothing more is delivered."""
        self.cancelled = True


@dataclass
class _Group:
    """A batch and, row by row, whose it is."""

    batch: Batch
    tickets: dict[Completion, Ticket] = field(default_factory=dict)


class Scheduler:
    """Requests in, events out.

    Args:
        decoder: The graph.
        context: Most tokens that the model can take.
        max_rows: Most rows that are written at once.
        max_queue: Most rows that wait.
        prefill_tokens: Most prompt tokens, padding included, that are read between two tokens.
        reader: Reads long prompts part by part; by default each is read at once.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        context: int = UNBOUNDED,
        max_rows: int = 32,
        max_queue: int = 256,
        prefill_tokens: int = 256,
        reader: Reader | None = None,
    ) -> None:
        sizes = {"max_rows": max_rows, "max_queue": max_queue, "prefill_tokens": prefill_tokens}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"{name} is {size}, expected at least 1")
        self.max_queue = max_queue
        self.reader = reader
        self._decoder, self._context = decoder, context
        self._max_rows, self._prefill_tokens = max_rows, prefill_tokens
        self._queue: deque[tuple[Completion, Ticket]] = deque()
        self._groups: list[_Group] = []
        self._events: dict[Ticket, list[Event]] = {}  # of this tick
        self._finished: deque[float] = deque(maxlen=64)  # when rows ended, for a guess of the wait
        self._closed, self._give_up = False, math.inf
        self._parted = False  # a part of a long prompt was read last, and no row joined since
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    # --- Called from any thread ------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of rows in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Number of rows that are being written."""
        return sum(len(group.tickets) for group in list(self._groups))

    @property
    def alive(self) -> bool:
        """Whether requests are being worked on."""
        return self._thread.is_alive()

    def submit(
        self,
        rows: Sequence[Completion],
        generation: Generation,
        deliver: Deliver,
        *,
        seconds: float | None = None,
    ) -> Ticket:
        """Take a request. It keeps its generation, whatever is loaded or unloaded later.

        Args:
            rows: What is to be written; each row is scheduled on its own.
            generation: The memory to answer with.
            deliver: Called in the scheduler's thread with the request's events of one tick; it must
                return quickly. A request ends with the results of all its rows, or with one
                `Failed`.
            seconds: Time until the request fails with `DeadlineError`, waiting included.

        Raises:
            BusyError: The queue is full.
            ClosedError: The scheduler is closing.
        """
        ticket = Ticket(rows, generation, deliver)
        if seconds is not None:
            ticket.deadline = time.monotonic() + seconds
        with self._changed:
            if len(self._queue) + len(rows) > self.max_queue:
                raise BusyError(len(self._queue), self._wait())
            self._take(ticket)
        return ticket

    def complete(self, rows: Sequence[Completion], generation: Generation) -> list[Result]:
        """Answer a request of the server's own and wait for it; it may exceed the queue's bound.

        Returns:
            The results of the rows, in the order in which they ended.

        Raises:
            ClosedError: The scheduler is closing.
            Exception: What made the request fail.
        """
        delivered = SimpleQueue[Sequence[Event]]()
        with self._changed:
            self._take(Ticket(rows, generation, delivered.put))
        results: list[Result] = []
        while len(results) < len(rows):
            for event in delivered.get():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Result):
                    results.append(event)
        return results

    def _take(self, ticket: Ticket) -> None:
        if self._closed:
            raise ClosedError("no more requests are taken: the server is stopping")
        self._queue.extend((row, ticket) for row in ticket.rows)
        self._changed.notify()

    def close(self, *, seconds: float = math.inf) -> None:
        """Take no more requests, finish those that were taken, and end.

        Args:
            seconds: How long that may take; what is left then fails with `ClosedError`.
        """
        with self._changed:
            self._closed = True
            self._give_up = min(self._give_up, time.monotonic() + seconds)
            self._changed.notify()
        self._thread.join()

    def _wait(self) -> int:
        """A guess, from the pace of the last rows, in how many seconds there is room; 1 to 60."""
        if len(self._finished) < 2:
            return 1
        pace = (time.monotonic() - self._finished[0]) / len(self._finished)
        return min(60, max(1, math.ceil(pace * len(self._queue))))

    # --- The scheduler's own thread --------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._queue or self._groups or self._closed):
                    self._changed.wait()
                if self._closed and not (self._queue or self._groups):
                    return
            self._drop()
            self._write()
            self._prefill()
            self._deliver()

    def _drop(self) -> None:
        """Let go of rows that are no longer wanted, whether they wait or run."""
        with self._changed:
            tickets = dict.fromkeys(ticket for _, ticket in self._queue)
        for group in self._groups:
            tickets |= dict.fromkeys(group.tickets.values())
        now = time.monotonic()
        for ticket in tickets:
            if now > self._give_up:
                self._fail(ticket, ClosedError("the server has stopped"))
            elif now > ticket.deadline:
                self._fail(ticket, DeadlineError())
            elif ticket.cancelled:
                self._forget(ticket)
        self._tidy()

    def _prefill(self) -> None:
        """Read of prompts: a part of a long one, or those of waiting rows, in turn."""
        turns = [self._admit, self._read] if self._parted else [self._read, self._admit]
        self._parted = next((turn == self._read for turn in turns if turn()), False)

    def _admit(self) -> bool:
        """Let the first waiting row join, and others of its generation as far as there is room.

        Returns whether any did. Only one generation's, because reading the prompts of two would
        make the running rows wait twice.
        """
        chosen, room, widest = dict[Completion, Ticket](), self._max_rows - self.running, 0
        with self._changed:
            if not self._queue:
                return False
            generation = self._queue[0][1].generation
            for row, ticket in self._queue:
                if ticket.generation is generation:
                    widest = max(widest, len(row.prompt.row.prompt))
                    full = chosen and widest * (len(chosen) + 1) > self._prefill_tokens
                    if full or len(chosen) >= room:
                        break
                    chosen[row] = ticket
            self._queue = deque(pair for pair in self._queue if pair[0] not in chosen)
        if not chosen:
            return False
        group = next((g for g in self._groups if g.batch.takes(generation)), None)
        if group is None:
            group = _Group(Batch(self._decoder, generation, self._context, self.reader))
            self._groups.append(group)
        group.tickets |= chosen
        self._work(chosen, partial(group.batch.add, list(chosen)))
        self._tidy()
        return True

    def _read(self) -> bool:
        """One more part of a prompt that is being read; whether there was one."""
        for group in self._groups:
            row = group.batch.reading
            if row is not None:
                self._work({row: group.tickets[row]}, group.batch.read)
                self._tidy()
                return True
        return False

    def _write(self) -> None:
        """One token for every row whose prompt is read."""
        for group in self._groups:
            if group.batch.live:
                written = {row: group.tickets[row] for row in group.batch.live}
                self._work(written, group.batch.step)
        self._tidy()

    def _work(
        self, rows: Mapping[Completion, Ticket], work: Callable[[], Sequence[Written]]
    ) -> None:
        """Do a piece of work and keep its events; if it fails, only its own rows fail."""
        try:
            written = work()
        except Exception as error:  # onnxruntime's errors share no base class
            for ticket in dict.fromkeys(rows.values()):
                self._fail(ticket, error)
            return
        for row, event in written:
            self._events.setdefault(rows[row], []).append(event)
            if isinstance(event, Result):
                self._finished.append(time.monotonic())

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self._forget(ticket)
        self._events.setdefault(ticket, []).append(Failed(error))

    def _forget(self, ticket: Ticket) -> None:
        """Take a ticket's rows out of the queue; running ones leave at the next token."""
        with self._changed:
            self._queue = deque(pair for pair in self._queue if pair[1] is not ticket)
        for row in ticket.rows:
            if not row.done:
                row.cancel()

    def _deliver(self) -> None:
        """Deliver a tick's events all at once, so that receivers work while the graph runs."""
        events, self._events = self._events, {}
        for ticket, its in events.items():
            try:
                ticket.deliver(its)
            except Exception:  # the receiver is gone; the other requests must not notice
                self._forget(ticket)

    def _tidy(self) -> None:
        """Forget rows that are done, and groups that have none left."""
        for group in self._groups:
            group.tickets = {row: t for row, t in group.tickets.items() if not row.done}
        self._groups = [group for group in self._groups if group.tickets]
