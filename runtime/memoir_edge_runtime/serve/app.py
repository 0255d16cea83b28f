"""The server as an ASGI application: routes, who may reach them, and what is told of errors.

Knows nothing of how a request is answered: that is `completions`, `routing`, `status` and `admin`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from memoir_edge import __version__
from memoir_edge.errors import MemoirEdgeError, first_line
from memoir_edge_runtime.serve import (
    account,
    admin,
    completions,
    edits,
    errors,
    pages,
    routing,
    status,
)
from memoir_edge_runtime.serve.access import OPEN, Access, response
from memoir_edge_runtime.serve.headers import LIMIT, MEMORY
from memoir_edge_runtime.serve.http import REQUEST_ID, Http, Inflate
from memoir_edge_runtime.serve.server import Server

_CACHED = 600  # seconds that a browser may rely on what it was told of an origin


def create_app(server: Server) -> FastAPI:
    """The server as an ASGI application; at its shutdown it drains and closes the server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.close)

    def refused(id: str, path: str, status: int, seconds: float) -> None:
        if path not in OPEN:  # probes fail on purpose
            account.refused(server.metrics, id, path, status, seconds)

    app = FastAPI(
        title="memoir-edge",
        version=__version__,
        summary="An OpenAI-compatible server whose facts are exchanged while it runs.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.server = server
    app.include_router(completions.routes)
    app.include_router(routing.routes)
    app.include_router(status.routes)
    app.include_router(edits.routes)
    if server.settings.console:
        app.include_router(pages.routes)
    if server.settings.admin_key is not None:
        app.include_router(admin.routes)
    # The last one stands before the others: what they refuse has an id, and says who may read it.
    app.add_middleware(Inflate, settings=server.settings)
    app.add_middleware(Access, settings=server.settings)
    if server.settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=server.settings.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*", REQUEST_ID, LIMIT, *MEMORY],
            max_age=_CACHED,
        )
    app.add_middleware(Http, refused=refused)
    tell_errors(app)
    return app


def tell_errors(app: FastAPI) -> None:
    """Have an application tell every error as OpenAI's API words it."""
    app.add_exception_handler(MemoirEdgeError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _refused)


async def _refused(_: Request, error: Exception) -> Response:
    return response(errors.refusal(error))


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return response(errors.invalid(error.errors(), error.body))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, ValueError | RecursionError):  # of a body, which FastAPI does not tell
        return response(errors.said(error.status_code, f"the body is no JSON: {first_line(cause)}"))
    return response(errors.said(error.status_code, str(error.detail), headers=error.headers))
