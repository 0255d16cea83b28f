"""Routes that answer: OpenAI's completions and chats, whole or streamed.

Knows neither threads nor files: requests become rows for the scheduler, and its events become the
documents of a reply.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from memoir_edge_runtime._chat import GIVEN
from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._results import Result, Routing, Token
from memoir_edge_runtime._tokens import Prompt
from memoir_edge_runtime.serve import schema
from memoir_edge_runtime.serve.asking import messages_of, options_of, prompts_of, rows_of, tools_of
from memoir_edge_runtime.serve.errors import RequestError
from memoir_edge_runtime.serve.exchange import Ended, account_of, collect, unless_gone, written
from memoir_edge_runtime.serve.headers import headers
from memoir_edge_runtime.serve.memories import Loaded
from memoir_edge_runtime.serve.replies import CHAT, COMPLETION, Echo, Reply, Style
from memoir_edge_runtime.serve.routes import ERRORS, server_of
from memoir_edge_runtime.serve.scheduler import DeadlineError
from memoir_edge_runtime.serve.server import Server
from memoir_edge_runtime.serve.streaming import Stream, parts

_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

routes = APIRouter(responses=ERRORS)


@routes.post(
    "/v1/completions",
    response_model=schema.CompletionReply,
    responses=_STREAMED,
    tags=["answers"],
)
async def completions(request: Request, asked: schema.CompletionRequest) -> Response:
    """Continue a prompt, or several."""
    session = server_of(request).session
    if asked.best_of not in (None, asked.n or 1):
        raise RequestError("best_of must be as many as n", param="best_of")
    return await _answer(
        request,
        asked,
        COMPLETION,
        lambda: prompts_of(session, asked.prompt),
        logprobs=asked.logprobs,
        echo=bool(asked.echo),
    )


@routes.post(
    "/v1/chat/completions",
    response_model=schema.ChatReply,
    responses=_STREAMED,
    tags=["answers"],
)
async def chat_completions(request: Request, asked: schema.ChatRequest) -> Response:
    """Answer a conversation; the last user message decides which edit is reached."""
    server, messages = server_of(request), messages_of(asked.messages)
    tools, variables = tools_of(server, asked), asked.chat_template_kwargs or {}
    if taken := sorted(GIVEN & variables.keys()):
        param = f"chat_template_kwargs.{taken[0]}"
        raise RequestError(f"{param} is no further variable of the chat template", param=param)
    if asked.top_logprobs and not asked.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    return await _answer(
        request,
        asked,
        CHAT,
        lambda: [server.session.chat_prompt(messages, tools=tools, variables=variables)],
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
    )


async def _answer(
    request: Request,
    asked: schema.CompletionRequest | schema.ChatRequest,
    style: Style,
    prompts: Callable[[], list[Prompt]],
    *,
    logprobs: int | None,
    echo: bool = False,
) -> Response:
    server, account, n = server_of(request), account_of(request), asked.n or 1
    with Ended(account) as ended:
        loaded = server.memories.resolve(asked.model)
        room, most = asked.room(), server.settings.max_new_tokens
        options = options_of(server, asked, logprobs)
        capped = most if room is not None and room > most else None
        rows = await asyncio.to_thread(rows_of, server, style.asked, prompts, n, options)
        deadline = server.deadline(asked.deadline)
        echoed: dict[int, Echo] = {}
        if echo:
            work = _echoed(server, rows, loaded, n, logprobs, deadline)
            echoed = await unless_gone(request, work)
        account.begin(loaded, rows, n)
        reply = Reply(
            account.id, loaded.model, n, logprobs is not None, style,
            server.session.language.tokenizer, capped, server.session.language.silent,
            echoed, frozenset(row.row for row in rows if row.begins or row.row in echoed),
        )  # fmt: skip
        events = written(server, rows, loaded, deadline, bare=room == 0, stream=bool(asked.stream))
        if not asked.stream:
            tokens = await unless_gone(request, collect(events, account))
            document = reply.whole(tokens, account.results)
            ended.status = 200
            return JSONResponse(
                document, headers=headers(account.id, _first(account.results).routing, capped)
            )
        # Wait for the first choice's route, which the headers tell; an error before it still gets a
        # status of its own.
        try:
            first = await unless_gone(request, _routed(events, rows[0]))
        except BaseException:
            await events.aclose()
            raise
        routing = rows[0].routing or Routing()
        usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        ended.later = True
        return Stream(
            parts(reply, account, first, events, len(rows), usage=usage),
            events,
            account,
            headers=headers(account.id, routing, capped),
        )


async def _routed(
    events: AsyncIterator[Sequence[Token | Result]], row: Completion
) -> list[Token | Result]:
    """What comes until it is known where a row goes; others may be read before it."""
    found: list[Token | Result] = []
    async for some in events:
        found += some
        if row.routing is not None:
            break
    return found


async def _echoed(
    server: Server,
    rows: Sequence[Completion],
    loaded: Loaded,
    n: int,
    logprobs: int | None,
    deadline: float,
) -> dict[int, Echo]:
    """What each answer begins with; its tokens too, where their probabilities are asked for."""
    prompts = [row.prompt for row in rows[::n]]
    read: list[list[Token]] = [[] for _ in prompts]
    if logprobs is not None:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                read = [await _read(server, prompt, loaded, logprobs) for prompt in prompts]
        except TimeoutError as error:
            raise DeadlineError from error
    return {
        row.row: Echo(row.prompt.text, [replace(t, row=row.row) for t in read[i // n]])
        for i, row in enumerate(rows)
    }


async def _read(server: Server, prompt: Prompt, loaded: Loaded, logprobs: int) -> list[Token]:
    """A prompt's tokens, read in its turn; given up before that, it is not read."""
    read = partial(server.session.read_prompts, [prompt], logprobs, memory=loaded.generation)
    [tokens] = await asyncio.get_running_loop().run_in_executor(server.aside, read)
    return tokens


def _first(results: Sequence[Result]) -> Result:
    return min(results, key=lambda r: r.row)
