"""`POST /v1/route`: where prompts would go, without answering them."""

import asyncio
import time
from collections.abc import Callable, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._results import Result, Routing
from memoir_edge_runtime._sampling import Options
from memoir_edge_runtime._session import Session
from memoir_edge_runtime._tokens import Prompt
from memoir_edge_runtime.serve import replies, schema
from memoir_edge_runtime.serve.account import Account
from memoir_edge_runtime.serve.asking import messages_of, prompts_of, rows_of
from memoir_edge_runtime.serve.errors import RequestError
from memoir_edge_runtime.serve.exchange import Ended, account_of, collect, unless_gone, written
from memoir_edge_runtime.serve.headers import headers
from memoir_edge_runtime.serve.memories import Loaded
from memoir_edge_runtime.serve.routes import ERRORS, server_of
from memoir_edge_runtime.serve.server import Server

_ROUTED = Options(max_new_tokens=1)
_MOST = 4096  # prompts of one question of where they go
_TOGETHER = 32  # of them

routes = APIRouter(responses=ERRORS)


@routes.post("/v1/route", response_model=schema.RouteReply, tags=["answers"])
async def route(request: Request, asked: schema.RouteRequest) -> Response:
    """Say which edit a prompt would reach, and why, without answering it."""
    server, account = server_of(request), account_of(request, answers=False)
    with Ended(account) as ended:
        field, prompts = _routed(server.session, asked)
        loaded = server.memories.resolve(asked.model)
        made = await asyncio.to_thread(rows_of, server, field, prompts, 1, _ROUTED, _MOST)
        account.begin(loaded, made, 1)
        await unless_gone(request, _route(server, made, loaded, account))
        found = sorted(account.results, key=lambda r: r.row)
        ended.status = 200
        return JSONResponse(
            {
                "model": loaded.model,
                "routes": [
                    {
                        "index": r.row,
                        "prompt_tokens": r.prompt_tokens,
                        "memory": replies.memory(r.routing),
                        "explanation": replies.explanation(r.routing),
                    }
                    for r in found
                ],
            },
            headers=headers(account.id, found[0].routing),
        )


def _routed(session: Session, asked: schema.RouteRequest) -> tuple[str, Callable[[], list[Prompt]]]:
    """The field that is asked with, and its prompts."""
    fields = ("prompt", "messages", "conversations")
    given = [name for name in fields if getattr(asked, name) is not None]
    if len(given) != 1:
        raise RequestError(
            "give one of prompt, messages and conversations", param=given[1] if given else "prompt"
        )
    prompt, several = asked.prompt, asked.conversations or [asked.messages or []]
    if prompt is not None:
        return given[0], lambda: prompts_of(session, prompt)
    return given[0], lambda: [session.chat_prompt(messages_of(each)) for each in several]


async def _route(
    server: Server, rows: Sequence[Completion], loaded: Loaded, account: Account
) -> None:
    """Decide rows, so many at a time that answers can go on between them."""
    together, deadline = min(_TOGETHER, server.settings.max_queue), server.deadline(None)
    for i in range(0, len(rows), together):
        part = rows[i : i + together]
        begin = time.time_ns()
        decided = await asyncio.to_thread(_decided, part, loaded.generation)
        if decided is None:  # only the graph can tell
            await collect(written(server, part, loaded, deadline, bare=True), account)
        else:
            now = time.time_ns()
            for row, result in zip(part, decided, strict=True):
                row.routing, row.times.joined, row.times.routed = result.routing, begin, now
            account.see(decided)


def _decided(rows: Sequence[Completion], generation: Generation) -> list[Result] | None:
    """Where rows go, if that can be told without the graph."""
    found = generation.decide([row.prompt.asked for row in rows])
    if found is None and generation.routes:
        return None
    routings = (
        generation.routings(found) if found else [Routing(digest=generation.digest)] * len(rows)
    )
    return [
        Result(row.row, row.prompt.text, "", (), "length", len(row.prompt.row.prompt), routing)
        for row, routing in zip(rows, routings, strict=True)
    ]
