"""Routes that change what is loaded. They exist only where there is an admin key.

Knows nothing of keys: `access` stands before everything below /admin.
"""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from memoir_edge_runtime.serve import schema
from memoir_edge_runtime.serve.memories import Loaded
from memoir_edge_runtime.serve.names import name_of
from memoir_edge_runtime.serve.routes import ERRORS, server_of

routes = APIRouter(prefix="/admin", tags=["administration"], responses=ERRORS)


@routes.get("/memories", response_model=schema.LoadedList)
async def memories(request: Request) -> Response:
    """What is loaded."""
    table = server_of(request).memories.table
    found = [_loaded(each, table.active) for each in table.loaded.values()]
    return JSONResponse({"memories": found})


@routes.post("/memories", response_model=schema.LoadedReply)
async def load(request: Request, asked: schema.LoadRequest) -> Response:
    """Load a memory file beside the traffic: checked, placed, replayed, and then activated."""
    server = server_of(request)

    def work() -> Loaded:
        return server.memories.load(
            server.memories.allowed(asked.path),
            # A link is called by its own name, as on the command line, wherever it leads.
            name=name_of(Path(asked.path)) if asked.name is None else asked.name,
            activate=asked.activate,
            verify=asked.verify,
            digest=asked.digest,
        )

    async with server.administering:
        loaded = await asyncio.to_thread(work)
    return JSONResponse(_loaded(loaded, server.memories.table.active))


@routes.post("/memories/{name}/activate", response_model=schema.LoadedReply)
async def activate(
    request: Request,
    name: str,
    verify: Annotated[bool, Query(description="replay its probes before anything changes")] = False,
) -> Response:
    """Answer with a loaded memory by default, or with `base`; running requests go on unchanged."""
    server = server_of(request)
    if verify:
        async with server.administering:
            loaded = await asyncio.to_thread(server.memories.activate, name, verify=True)
    else:
        loaded = server.memories.activate(name)
    return JSONResponse(_loaded(loaded, loaded.name))


@routes.delete("/memories/{name}", response_model=schema.LoadedReply)
async def unload(request: Request, name: str) -> Response:
    """Forget a memory that is not active; requests that run on it finish."""
    server = server_of(request)
    loaded = server.unload(name)
    return JSONResponse(_loaded(loaded, server.memories.table.active))


def _loaded(loaded: Loaded, active: str) -> dict[str, Any]:
    memory = loaded.generation.memory
    return {
        "name": loaded.name,
        "model": loaded.model,
        "digest": loaded.generation.digest,
        "file": None if loaded.file is None else str(loaded.file),
        "edits": 0 if memory is None else len(memory.edits),
        "probes": loaded.probes,
        "active": loaded.name == active,
    }
