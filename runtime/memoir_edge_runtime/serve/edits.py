"""The route that tells what was changed, and whether it is used.

Knows nothing of keys: `access` stands before it. A memory's records say what somebody wanted
changed, so without an API key nobody is told.
"""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from memoir_edge.memory import Entry
from memoir_edge_runtime.serve import schema
from memoir_edge_runtime.serve.memories import Loaded
from memoir_edge_runtime.serve.routes import ERRORS, server_of
from memoir_edge_runtime.serve.usage import Usage

routes = APIRouter(responses=ERRORS, tags=["memories"])
Sort = Literal["memory", "fires", "last_fired", "near_misses", "last_near_miss"]


@routes.get("/v1/memories/{name}/edits", response_model=schema.EditList)
async def edits(
    request: Request,
    name: str,
    query: Annotated[str, Query(max_length=1000, description="words of id, prompt or target")] = "",
    sort: Annotated[Sort, Query(description="as in the memory, or the largest first")] = "memory",
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """A memory's edits, each with how often it answered or nearly did."""
    server = server_of(request)
    if server.settings.api_key is None:
        raise HTTPException(404, "edits are told only where the server was started with an API key")
    loaded = server.memories.named(name)
    found = await asyncio.to_thread(_found, loaded, server.metrics.usage, query)
    if sort != "memory":
        found.sort(key=lambda each: -(each[sort] or 0))
    return JSONResponse(
        {
            "object": "list",
            "model": loaded.model,
            "digest": loaded.generation.digest,
            "total": len(found),
            "data": found[offset : offset + limit],
        }
    )


def _found(loaded: Loaded, usage: Usage, query: str) -> list[dict[str, Any]]:
    """Edits that hold every word of a query, with their use."""
    memory, words = loaded.generation.memory, query.lower().split()
    return [
        told | asdict(usage.of(loaded.name, told["id"]))
        for told in map(_told, memory.edits if memory else ())
        if all(word in "\n".join(filter(None, told.values())).lower() for word in words)
    ]


def _told(entry: Entry) -> dict[str, Any]:
    """Null where the memory withholds its records."""
    record = entry.record or {}
    return {"id": entry.id, "prompt": record.get("prompt"), "target": record.get("target")}
