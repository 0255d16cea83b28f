"""The route that tells what was changed, and whether it is used.

Knows nothing of keys: `access` stands before it. A memory's records say what somebody wanted
changed, so without an API key nobody is told.
"""

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from memoir_edge.errors import InputError, MemoirEdgeError
from memoir_edge.history import load, past, path_of
from memoir_edge.memory import Entry, Memory
from memoir_edge_runtime.serve import schema
from memoir_edge_runtime.serve.memories import Loaded
from memoir_edge_runtime.serve.routes import ERRORS, server_of
from memoir_edge_runtime.serve.server import Server
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
    loaded = _shown(server, name)
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


def _shown(server: Server, name: str) -> Loaded:
    if server.settings.api_key is None:
        raise HTTPException(404, "edits are told only where the server was started with an API key")
    return server.memories.named(name)


def _found(loaded: Loaded, usage: Usage, query: str) -> list[dict[str, Any]]:
    """Edits that hold every word of a query, with their use."""
    memory, words = loaded.generation.memory, query.lower().split()
    return [
        told | asdict(usage.of(loaded.name, told["id"]))
        for told in map(_told, memory.edits if memory else ())
        if all(word in "\n".join(filter(None, told.values())).lower() for word in words)
    ]


_TOLD = ("prompt", "target", "source", "valid_from", "valid_to")


def _told(entry: Entry) -> dict[str, Any]:
    """Null where the memory withholds its records, or where a record holds no text."""
    record = entry.record or {}
    texts = {name: record.get(name) for name in _TOLD}
    return {"id": entry.id} | {n: t if isinstance(t, str) else None for n, t in texts.items()}


@routes.get("/v1/memories/{name}/edits/{id:path}", response_model=schema.EditDetail)
async def edit(request: Request, name: str, id: str) -> Response:
    """One edit with all that its memory knows of it."""
    server = server_of(request)
    loaded = _shown(server, name)
    memory = loaded.generation.memory
    found = next((each for each in memory.edits if each.id == id), None) if memory else None
    if memory is None or found is None:
        raise HTTPException(404, f"{name[:80]} has no edit {id[:80]!r}")
    usage = asdict(server.metrics.usage.of(loaded.name, id))
    history = await asyncio.to_thread(_history, loaded, found)
    return JSONResponse(
        _told(found) | usage | _known(memory, found) | _checked(loaded, id) | history
    )


def _known(memory: Memory, entry: Entry) -> dict[str, Any]:
    held = memory.rows
    own, record = held.of(entry), entry.record or {}
    texts = memory.codes.texts if memory.codes else ()
    return {
        "threshold": float(held.thresholds[own[0]]),
        "keys": [texts[row] for row in own] if texts else record.get("keys", []),
        "guards": record.get("guards", []),
        "record": entry.record,
    }


def _checked(loaded: Loaded, id: str) -> dict[str, Any]:
    """What the memory itself says of its checks, and whether its probes were replayed here."""
    memory = loaded.generation.memory
    assert memory is not None  # it has edits
    probes = sum(probe.edit == id for probe in memory.probes)
    return {"probes": probes, "replayed": loaded.probes, "evaluation": memory.evaluation}


def _history(loaded: Loaded, entry: Entry) -> dict[str, Any]:
    """What the journal beside the memory's file tells of an edit, or why there is none to tell."""
    try:
        return {"history": _past(loaded, entry), "history_unknown": None}
    except MemoirEdgeError as error:
        return {"history": None, "history_unknown": str(error)}


def _past(loaded: Loaded, entry: Entry) -> list[dict[str, Any]]:
    file, digest = loaded.file, loaded.generation.digest
    journal = load(path_of(file), write=False) if file and _beside(file) else None
    if file is None or journal is None or digest is None:
        raise InputError("no journal lies beside the memory")
    with journal:
        found = past(journal, entry.id, digest)
    # A memory that withholds a record does not tell it here.
    return [
        step if entry.record else {n: v for n, v in step.items() if n != "wrong"} for step in found
    ]


def _beside(file: Path) -> bool:
    """Whether its journal lies where it does, and is no link that leads elsewhere."""
    memory, journal = (Path(os.path.realpath(each)) for each in (file, path_of(file)))
    return memory.parent == journal.parent
