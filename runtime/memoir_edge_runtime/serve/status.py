"""Routes that look: models, health, readiness, metrics.

Knows nothing of answers; changes nothing.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from memoir_edge_runtime.serve import schema
from memoir_edge_runtime.serve.memories import Loaded
from memoir_edge_runtime.serve.metrics import CONTENT_TYPE
from memoir_edge_runtime.serve.routes import ERRORS, server_of
from memoir_edge_runtime.serve.server import Server

routes = APIRouter(responses=ERRORS)


@routes.get("/v1/models", response_model=schema.ModelList, tags=["models"])
async def models(request: Request) -> Response:
    """The names that requests may use: the base model, and each loaded memory on it."""
    server, table = server_of(request), server_of(request).memories.table
    found = [_model(server, each, table.active) for each in table.loaded.values()]
    return JSONResponse({"object": "list", "data": found})


@routes.get("/v1/models/{id}", response_model=schema.ModelReply, tags=["models"])
async def model(request: Request, id: str) -> Response:
    """One of them; `default` is the active one."""
    server = server_of(request)
    table = server.memories.table
    return JSONResponse(_model(server, server.memories.resolve(id), table.active))


def _model(server: Server, loaded: Loaded, active: str) -> dict[str, Any]:
    return {
        "id": loaded.model,
        "object": "model",
        "created": server.created,
        "owned_by": "memoir-edge",
        "digest": loaded.generation.digest,
        "active": loaded.name == active,
    }


@routes.get(
    "/health",
    response_model=schema.HealthReply,
    responses={503: {"model": schema.HealthReply}},
    tags=["operation"],
)
async def health(request: Request) -> Response:
    """Whether the process works at all."""
    if not (server_of(request).scheduler.alive or server_of(request).stopping):
        return JSONResponse({"status": "the scheduler has died"}, 503)
    return JSONResponse({"status": "ok"})


@routes.get(
    "/ready",
    response_model=schema.ReadyReply,
    responses={503: {"model": schema.ReadyReply}},
    tags=["operation"],
)
async def ready(request: Request) -> Response:
    """Whether requests are taken, and by which memory they are answered."""
    server = server_of(request)
    active = server.memories.table.default
    status = "ready" if server.ready else server.unready or "stopping"
    document = {"status": status, "model": active.model, "digest": active.generation.digest}
    if server.waiting_for is not None:
        document["waiting_for"] = server.waiting_for
    return JSONResponse(document, 200 if server.ready else 503)


@routes.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {CONTENT_TYPE: {}}}},
    tags=["operation"],
)
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    text, kind = server_of(request).metrics.text(request.headers.get("accept", ""))
    return Response(text, headers={"content-type": kind})
