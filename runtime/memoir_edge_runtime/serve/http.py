"""What HTTP asks of every route alike: HEAD, an id for each request, bodies that are compressed.

Knows nothing of what the routes do.
"""

import re
import secrets
import time
import zlib
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memoir_edge_runtime.serve.access import response
from memoir_edge_runtime.serve.errors import said
from memoir_edge_runtime.serve.settings import Settings

REQUEST_ID = "x-request-id"
_ACCOUNTED, _STATUS = "memoir-edge accounted", "memoir-edge status"  # in a request's state
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's name for how each is wrapped


def request_id(request: Request) -> str:
    """The client's own id, if it sent one that can stand in a header and a log; else a new one."""
    return str(request.scope["state"][REQUEST_ID])


def account_for(request: Request) -> None:
    """Say that a request's end is recorded by whoever answers it."""
    request.scope["state"][_ACCOUNTED] = True


class Http:
    """ASGI middleware: gives each request its id, and answers HEAD as GET without its body.

    Args:
        app: What is behind it.
        refused: Told of requests that failed before anybody accounted for them: id, path, status,
            and how many seconds they took.
    """

    def __init__(self, app: ASGIApp, refused: Callable[[str, str, int, float], None]) -> None:
        self._app, self._refused = app, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given, began = _header(scope, REQUEST_ID), time.monotonic()
        id = given if _ID.fullmatch(given) else secrets.token_hex(12)
        state = {**scope.get("state", {}), REQUEST_ID: id}
        scope, send = {**scope, "state": state}, _identified(send, state)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _bare(send)
        try:
            await self._app(scope, receive, send)
        finally:
            status = state.get(_STATUS, 500)
            if status >= 400 and _ACCOUNTED not in state:
                self._refused(id, scope["path"], status, time.monotonic() - began)


class Inflate:
    """ASGI middleware: hands on what a compressed body holds, if that is not too large.

    Args:
        app: What is behind it.
        settings: The largest body.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._most = app, settings.max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for the app where a body cannot be read."""
        encoding = _header(scope, "content-encoding").lower() if scope["type"] == "http" else ""
        if encoding in ("", "identity"):
            await self._app(scope, receive, send)
            return
        try:
            if encoding not in _WINDOW:
                raise HTTPException(
                    415, f"content-encoding {encoding[:80]!r} is not read, only gzip and deflate"
                )
            body = await _inflated(receive, _WINDOW[encoding], self._most)
        except HTTPException as error:
            await response(said(error.status_code, error.detail))(scope, receive, send)
        else:
            await self._app(_plain(scope, len(body)), _first(body, receive), send)


def _header(scope: Scope, name: str) -> str:
    found = {key.lower(): value for key, value in scope["headers"]}
    return str(found.get(name.encode(), b"").decode("latin-1"))


def _identified(send: Send, state: dict[str, Any]) -> Send:
    """Sends the request's id, and notes the status."""
    id = state[REQUEST_ID]

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            state[_STATUS] = message["status"]
            headers = [*message.get("headers", [])]
            if REQUEST_ID.encode() not in dict(headers):
                headers.append((REQUEST_ID.encode(), id.encode()))
            message = {**message, "headers": headers}
        await send(message)

    return sent


def _bare(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if "body" in message else message)

    return sent


async def _inflated(receive: Receive, window: int, most: int) -> bytes:
    """The whole body; hardly more than `most` bytes of it are ever held.

    Raises:
        HTTPException: It is larger, or not what its encoding says.
    """
    inflate, body, more = zlib.decompressobj(window), bytearray(), True
    try:
        while more:
            message = await receive()
            body += inflate.decompress(message.get("body", b""), most + 1 - len(body))
            if len(body) > most:
                raise HTTPException(413, f"the body is larger than {most} bytes")
            more = message.get("more_body", False)
    except zlib.error as error:
        raise HTTPException(400, f"the body cannot be inflated: {error}") from error
    if not inflate.eof or inflate.unused_data:
        raise HTTPException(400, "the body cannot be inflated: it does not end where it should")
    return bytes(body)


def _plain(scope: Scope, length: int) -> Scope:
    """A scope whose headers say that the body is not compressed."""
    gone = (b"content-encoding", b"content-length")
    kept = [(name, value) for name, value in scope["headers"] if name.lower() not in gone]
    return {**scope, "headers": [*kept, (b"content-length", str(length).encode())]}


def _first(body: bytes, receive: Receive) -> Callable[[], Any]:
    """Receives the body, and then what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received
