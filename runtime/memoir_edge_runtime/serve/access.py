"""What stands before every route: keys, the size of a body, and the time a connection may take.

Knows nothing of what the routes do. Who may go where is decided by the path alone, in one place:
all below /admin needs the admin key, the probes of health and the console's files are open, the
rest needs the API key where there is one. An error that nobody foresaw is answered here, too: what
stands before this gives the answer its id and says which pages may read it.
"""

import asyncio
import hmac
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memoir_edge_runtime.serve.errors import Refusal, refusal, said
from memoir_edge_runtime.serve.pages import is_page
from memoir_edge_runtime.serve.settings import Settings

OPEN = frozenset({"/health", "/ready"})
_SLACK = 60.0  # seconds beyond the deadline for reading a request and sending its answer
_LATE = said(
    408,
    "the request did not arrive in time",
    "timeout_error",
    headers={"connection": "close"},
)


def response(refusal: Refusal) -> JSONResponse:
    """An error as a response."""
    return JSONResponse(refusal.document, refusal.status, headers=dict(refusal.headers))


class Access:
    """ASGI middleware.

    Args:
        app: What is behind it.
        settings: Keys and limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for the app where the request may not pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # where the app is mounted
        refused = self._refused(path, headers)
        if refused is not None:
            await response(refused)(scope, receive, send)
            return
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self._settings.deadline + _SLACK):
                await self._app(scope, self._limited(receive), sent)
        except TimeoutError:  # a client that neither sends nor reads; its connection is closed
            if not begun:
                await response(_LATE)(scope, receive, send)
        except Exception as error:
            if not begun:
                await response(refusal(error))(scope, receive, send)
            raise  # into the log

    def _refused(self, path: str, headers: dict[str, bytes]) -> Refusal | None:
        settings = self._settings
        if path == "/admin" or path.startswith("/admin/"):
            key, name = settings.admin_key, "admin"
            if key is None:
                return said(404, "admin routes are off: the server was started without a key")
        else:
            key, name = settings.api_key, "API"
        if key is not None and not _open(path) and not _holds(headers, key):
            return said(
                401,
                f"this needs the {name} key: send 'Authorization: Bearer KEY'",
                "authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        length = headers.get("content-length", b"0")
        if not length.isdigit() or int(length[:20]) > settings.max_body:
            return said(413, _too_large(settings.max_body))
        return None

    def _limited(self, receive: Receive) -> Receive:
        """The same for a body that does not say how long it is."""
        read = 0

        async def limited() -> Message:
            nonlocal read
            message: dict[str, Any] = dict(await receive())
            read += len(message.get("body", b""))
            if read > self._settings.max_body:
                raise HTTPException(413, _too_large(self._settings.max_body))
            return message

        return limited


def _open(path: str) -> bool:
    return path in OPEN or is_page(path)


def _holds(headers: dict[str, bytes], key: str) -> bool:
    scheme, _, given = headers.get("authorization", b"").partition(b" ")
    # The time that the comparison takes says nothing about the key.
    same = hmac.compare_digest(given.strip(), key.encode())
    return same and scheme.lower() == b"bearer"


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit} bytes"
