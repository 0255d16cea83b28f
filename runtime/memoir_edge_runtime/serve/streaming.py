"""An answer as server-sent events.

Knows nothing of what is asked: a reply's documents come in, bytes go out.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from memoir_edge_runtime._results import Result, Token
from memoir_edge_runtime.serve import errors
from memoir_edge_runtime.serve.account import Account
from memoir_edge_runtime.serve.exchange import GONE
from memoir_edge_runtime.serve.replies import Reply

T = TypeVar("T")


class Stream(StreamingResponse):
    """A streamed body that lets go of its request however it ends."""

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        events: Any,
        account: Account,
        headers: Mapping[str, str],
    ) -> None:
        # What stands between must neither keep a stream nor hold it back.
        unbuffered = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(parts, media_type="text/event-stream", headers={**unbuffered, **headers})
        self._events, self._account = events, account

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and let go."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            self._account.end(GONE)  # does nothing if the end has been recorded


async def parts(
    reply: Reply,
    account: Account,
    first: Sequence[Token | Result],
    events: AsyncIterator[Sequence[Token | Result]],
    rows: int,
    *,
    usage: bool,
) -> AsyncIterator[bytes]:
    """A stream's body: server-sent events; a comment where `events` says that nothing has come."""
    try:
        for document in reply.opening(rows):
            yield _sse(document)
        async for some in _after(first, events):
            if not some:  # proxies close what is silent
                yield b": still there\n\n"
                continue
            account.see(some)
            for part in filter(None, map(reply.part, some)):
                yield _sse(part)
        if usage:
            yield _sse(reply.last(account.results))
        yield b"data: [DONE]\n\n"
        account.end(200)
    except Exception as error:
        told = errors.refusal(error)
        account.end(told.status, error)
        yield _sse(told.document)


async def _after(first: T, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    yield first
    async for each in rest:
        yield each


def _sse(document: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"
