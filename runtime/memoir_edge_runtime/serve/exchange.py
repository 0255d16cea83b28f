"""One request between the scheduler and its client.

What the scheduler writes arrives here; it is given up when the client goes away, and recorded
however it ends. Knows nothing of how an answer is worded.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import TypeVar

from fastapi import Request
from starlette.exceptions import HTTPException

from memoir_edge.errors import MemoirEdgeError
from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._results import Result, Token
from memoir_edge_runtime.serve import errors
from memoir_edge_runtime.serve.account import Account
from memoir_edge_runtime.serve.errors import ModelError
from memoir_edge_runtime.serve.http import account_for, request_id
from memoir_edge_runtime.serve.memories import Loaded
from memoir_edge_runtime.serve.routes import server_of
from memoir_edge_runtime.serve.scheduler import Event, Failed
from memoir_edge_runtime.serve.server import Server

T = TypeVar("T")
GONE = 499  # in logs and metrics: the client did not wait
_ALIVE = 15.0  # seconds without an event until a stream is told so


def account_of(request: Request, *, answers: bool = True) -> Account:
    """The account of a request that begins."""
    server, id = server_of(request), request_id(request)
    account_for(request)
    told, path = server.settings.log_prompts, request.url.path
    trace = None if server.traces is None else server.traces.request(path, request.headers)
    return Account(server.metrics, id, path, told, answers, trace)


async def written(
    server: Server,
    rows: Sequence[Completion],
    loaded: Loaded,
    deadline: float,
    *,
    bare: bool = False,
    stream: bool = False,
) -> AsyncGenerator[Sequence[Token | Result]]:
    """The scheduler's events as they come; leaving early cancels the request.

    A bare request asks for no token; what is written to decide its route is left out. A stream that
    has begun gets an empty sequence whenever nothing has come for a while.
    """
    loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Sequence[Event]]()

    def deliver(events: Sequence[Event]) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, events)

    seconds = deadline - time.monotonic()
    ticket = server.scheduler.submit(rows, loaded.generation, deliver, seconds=seconds)
    left, patience = len(rows), None
    try:
        while left:
            events: list[Token | Result] = []
            try:
                async with asyncio.timeout(patience):
                    some = await arrived.get()
            except TimeoutError:
                yield events
                continue
            for event in some:
                if isinstance(event, Failed) and isinstance(event.error, MemoirEdgeError):
                    raise event.error
                if isinstance(event, Failed):
                    raise ModelError("the model failed") from event.error
                if bare and isinstance(event, Result):
                    event = replace(event, text="", ids=(), finish_reason="length")
                if not (bare and isinstance(event, Token)):
                    events.append(event)
            left -= sum(isinstance(event, Result) for event in events)
            if events:
                patience = _ALIVE if stream else None
                yield events
    finally:
        ticket.cancel()


async def collect(
    written: AsyncIterator[Sequence[Token | Result]], account: Account
) -> list[Token]:
    """All tokens; the results are the account's."""
    tokens: list[Token] = []
    async for events in written:
        account.see(events)
        tokens += [event for event in events if isinstance(event, Token)]
    return tokens


class Ended:
    """Ends an account with the status of what happens inside, unless a stream ends it later."""

    def __init__(self, account: Account) -> None:
        self._account, self.status, self.later = account, GONE, False

    def __enter__(self) -> "Ended":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, _GoneError):
            self._account.end(errors.refusal(error).status, error)
        elif not self.later:
            self._account.end(self.status)


class _GoneError(HTTPException):
    """The client closed the connection before its answer was ready."""

    def __init__(self) -> None:
        super().__init__(GONE, "the client has gone")


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for work, and cancel it when the client closes the connection."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _GoneError
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
