"""Routes that answer: OpenAI's completions and chats, whole or streamed, and where a prompt goes.

Knows neither threads nor files: requests become rows for the scheduler, and its events become the
documents of a reply.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from dataclasses import fields as fields_of
from typing import Any, TypeVar, cast
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from memoir_edge.errors import InputError, MemoirEdgeError
from memoir_edge_runtime._chat import GIVEN
from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._results import Result, Routing, Token
from memoir_edge_runtime._sampling import Options
from memoir_edge_runtime._session import Session
from memoir_edge_runtime._tokens import Prompt
from memoir_edge_runtime.serve import errors, replies, schema
from memoir_edge_runtime.serve.account import Account
from memoir_edge_runtime.serve.errors import ModelError, RequestError
from memoir_edge_runtime.serve.http import REQUEST_ID, request_id
from memoir_edge_runtime.serve.memories import Loaded
from memoir_edge_runtime.serve.replies import CHAT, COMPLETION, Echo, Reply, Style
from memoir_edge_runtime.serve.routes import ERRORS, server_of
from memoir_edge_runtime.serve.scheduler import Event, Failed
from memoir_edge_runtime.serve.server import Server

T = TypeVar("T")
_GONE = 499  # in logs and metrics: the client did not wait
_END = object()
_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
_ROUTED = Options(max_new_tokens=1)
_MOST_ROUTED = 4096  # prompts of one question of where they go
_TOGETHER = 32  # of them
_ALIVE = 15.0  # seconds without a token until a stream says that it is there
LIMIT = "x-max-tokens"  # header: the limit that an answer's length was cut to
MEMORY = tuple(f"x-memory-{f.name}" for f in fields_of(Routing) if f.name != "key")

routes = APIRouter(responses=ERRORS)


def _account(request: Request, *, answers: bool = True) -> Account:
    server, id = server_of(request), request_id(request)
    told = server.settings.log_prompts
    return Account(server.metrics, id, request.url.path, told, answers)


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
        lambda: _prompts(session, asked.prompt),
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
    server, messages = server_of(request), _messages(asked.messages)
    tools, variables = _tools(server, asked), asked.chat_template_kwargs or {}
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


@routes.post("/v1/route", response_model=schema.RouteReply, tags=["answers"])
async def route(request: Request, asked: schema.RouteRequest) -> Response:
    """Say which edit a prompt would reach, and why, without answering it."""
    server, account = server_of(request), _account(request, answers=False)
    field, prompts = _routed(server.session, asked)
    with _Ended(account) as ended:
        loaded = server.memories.resolve(asked.model)
        made = await asyncio.to_thread(_rows, server, field, prompts, 1, _ROUTED, _MOST_ROUTED)
        account.begin(loaded, len(made), 1)
        await _unless_gone(request, _route(server, made, loaded, account))
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
            headers=_headers(account.id, found[0].routing),
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
        return given[0], lambda: _prompts(session, prompt)
    return given[0], lambda: [session.chat_prompt(_messages(each)) for each in several]


async def _route(
    server: Server, rows: Sequence[Completion], loaded: Loaded, account: Account
) -> None:
    """Decide rows, so many at a time that answers can go on between them."""
    together = min(_TOGETHER, server.settings.max_queue)
    for i in range(0, len(rows), together):
        part = rows[i : i + together]
        decided = await asyncio.to_thread(_decided, part, loaded.generation)
        if decided is None:  # only the graph can tell
            await _collect(_written(server, part, loaded, None, bare=True), account)
        else:
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
        Result(row.row, row.prompt.text, "", (), "length", len(row.prompt.row.ids), routing)
        for row, routing in zip(rows, routings, strict=True)
    ]


def _prompts(session: Session, given: schema.Given) -> list[Prompt]:
    """A request's prompts: one or several, each a text or token ids."""
    several = not isinstance(given, str) and not isinstance(given[0], int)
    each = cast(list[str | list[int]], given if several else [given])
    return [session.prompt(p) if isinstance(p, str) else session.token_prompt(p) for p in each]


def _messages(messages: Sequence[schema.Message]) -> list[dict[str, Any]]:
    """As chat templates take them: text parts joined, nothing where there is no text."""
    return [
        {
            "role": m.role,
            "content": m.content
            if isinstance(m.content, str)
            else "".join(part.text for part in m.content or ()) or m.refusal or "",
            **m.model_dump(
                include={"name", "tool_call_id", "reasoning_content"}, exclude_none=True
            ),
            **({"tool_calls": [_call(call) for call in m.tool_calls]} if m.tool_calls else {}),
        }
        for m in messages
    ]


def _call(call: schema.ToolCall) -> dict[str, Any]:
    """A call with its arguments as an object, which templates write out in their own way."""
    made = call.model_dump(exclude_none=True)
    given = call.function.get("arguments")
    if isinstance(given, str):
        with contextlib.suppress(ValueError, RecursionError):
            made["function"] = call.function | {"arguments": json.loads(given)}
    return made


def _tools(server: Server, asked: schema.ChatRequest) -> list[dict[str, Any]] | None:
    """The tools that the template is told of; refused where it takes none."""
    called = next((i for i, m in enumerate(asked.messages) if m.tool_calls), None)
    if called is not None and not server.session.takes_tools:
        param = f"messages.{called}.tool_calls"
        raise RequestError(f"{param}: the model's chat template takes no tools", param=param)
    if not asked.tools or asked.tool_choice == "none":
        return None
    if not server.session.takes_tools:
        raise RequestError(
            "tools are given, and the model's chat template takes none",
            param="tools",
            hint='leave them out, or send "tool_choice": "none"',
        )
    return [tool.model_dump(exclude_none=True) for tool in asked.tools]


async def _answer(
    request: Request,
    asked: schema.CompletionRequest | schema.ChatRequest,
    style: Style,
    prompts: Callable[[], list[Prompt]],
    *,
    logprobs: int | None,
    echo: bool = False,
) -> Response:
    server, account, n = server_of(request), _account(request), asked.n or 1
    with _Ended(account) as ended:
        loaded = server.memories.resolve(asked.model)
        room, most = asked.room(), server.settings.max_new_tokens
        options = _options(server, asked, logprobs)
        capped = most if room is not None and room > most else None
        rows = await asyncio.to_thread(_rows, server, style.asked, prompts, n, options)
        echoed = await asyncio.to_thread(_echoed, server, rows, loaded, n, logprobs) if echo else {}
        account.begin(loaded, len(rows), n)
        reply = Reply(
            account.id, loaded.model, n, logprobs is not None, style,
            server.session.language.tokenizer, capped, server.session.language.silent,
            echoed,
        )  # fmt: skip
        if not asked.stream:
            written = _written(server, rows, loaded, asked.deadline, bare=room == 0)
            tokens = await _unless_gone(request, _collect(written, account))
            document = reply.whole(tokens, account.results)
            ended.status = 200
            return JSONResponse(
                document, headers=_headers(account.id, _first(account.results).routing, capped)
            )
        events = _written(server, rows, loaded, asked.deadline, bare=room == 0)
        # Wait for the first token: an error before it still gets a status of its own, and by then
        # the route is known, which the headers tell.
        try:
            first = await _unless_gone(request, anext(events))
        except BaseException:
            await events.aclose()
            raise
        routing = rows[0].routing or Routing()
        usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        ended.later = True
        return _Stream(
            _parts(reply, account, first, events, len(rows), usage=usage),
            events,
            account,
            headers=_headers(account.id, routing, capped),
        )


def _echoed(
    server: Server, rows: Sequence[Completion], loaded: Loaded, n: int, logprobs: int | None
) -> dict[int, Echo]:
    """What each answer begins with; its tokens too, where their probabilities are asked for."""
    prompts = [row.prompt for row in rows[::n]]
    read: list[list[Token]] = [[] for _ in prompts]
    if logprobs is not None:
        read = server.session.read_prompts(prompts, logprobs, memory=loaded.generation)
    return {
        row.row: Echo(row.prompt.text, [replace(t, row=row.row) for t in read[i // n]])
        for i, row in enumerate(rows)
    }


def _options(
    server: Server,
    asked: schema.CompletionRequest | schema.ChatRequest,
    logprobs: int | None,
) -> Options:
    most, room = server.settings.max_new_tokens, asked.room()
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    return Options(
        max_new_tokens=max(1, most if room is None else min(room, most)),
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_k=max(asked.top_k or 0, 0),
        top_p=1.0 if asked.top_p is None else max(asked.top_p, sys.float_info.min),
        seed=None if asked.seed is None else asked.seed % 2**64,
        stop=stop,
        logprobs=logprobs,
        ignore_eos=bool(asked.ignore_eos),
    )


def _rows(
    server: Server,
    field: str,
    prompts: Callable[[], list[Prompt]],
    n: int,
    options: Options,
    most: int | None = None,
) -> list[Completion]:
    """A request's rows; what is wrong with its prompts is said of their field."""
    try:
        made = prompts()
        _check_prompts(server, field, made, n, most)
        return server.session.completions([p for p in made for _ in range(n)], options)
    except RequestError:
        raise
    except InputError as error:
        raise RequestError(
            str(error), param=field, hint=error.hint, code=errors.code(error)
        ) from error


def _check_prompts(
    server: Server, field: str, prompts: Sequence[Prompt], n: int, most: int | None
) -> None:
    most = most or min(server.settings.max_choices, server.settings.max_queue)
    if len(prompts) * n > most:
        param = "n" if n > 1 else field
        raise RequestError(
            f"{len(prompts) * n} answers in one request, at most {most}", param=param
        )
    longest, limit = max(len(p.row.ids) for p in prompts), server.settings.max_prompt_tokens
    if limit is not None and longest > limit:
        raise RequestError(
            f"the prompt is too long: {longest} tokens, at most {limit}",
            param=field,
            code="context_length_exceeded",
        )


async def _written(
    server: Server,
    rows: Sequence[Completion],
    loaded: Loaded,
    seconds: float | None,
    *,
    bare: bool = False,
) -> AsyncGenerator[Sequence[Token | Result]]:
    """The scheduler's events as they come; leaving early cancels the request.

    A bare request asks for no token; what is written to decide its route is left out.
    """
    loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Sequence[Event]]()

    def deliver(events: Sequence[Event]) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, events)

    ticket = server.scheduler.submit(
        rows,
        loaded.generation,
        deliver,
        seconds=min(seconds or server.settings.deadline, server.settings.deadline),
    )
    left = len(rows)
    try:
        while left:
            events: list[Token | Result] = []
            for event in await arrived.get():
                if isinstance(event, Failed) and isinstance(event.error, MemoirEdgeError):
                    raise event.error
                if isinstance(event, Failed):
                    raise ModelError("the model failed") from event.error
                if bare and isinstance(event, Result):
                    event = replace(event, text="", ids=(), finish_reason="length")
                if not (bare and isinstance(event, Token)):
                    events.append(event)
            left -= sum(isinstance(event, Result) for event in events)
            yield events
    finally:
        ticket.cancel()


async def _collect(
    written: AsyncIterator[Sequence[Token | Result]], account: Account
) -> list[Token]:
    tokens: list[Token] = []
    async for events in written:
        account.see(events)
        tokens += [event for event in events if isinstance(event, Token)]
    return tokens


async def _parts(
    reply: Reply,
    account: Account,
    first: Sequence[Token | Result],
    events: AsyncIterator[Sequence[Token | Result]],
    rows: int,
    *,
    usage: bool,
) -> AsyncIterator[bytes]:
    """A stream's body: server-sent events."""
    try:
        for document in reply.opening(rows):
            yield _sse(document)
        async for some in _alive(_after(first, events), _ALIVE):
            if some is None:
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


async def _alive(items: AsyncIterator[T], seconds: float) -> AsyncIterator[T | None]:
    """The items, and None whenever none has come for so long: proxies close what is silent."""
    while True:
        following = asyncio.ensure_future(anext(items, _END))
        try:
            while not (await asyncio.wait({following}, timeout=seconds))[0]:
                yield None
            item = following.result()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if item is _END:
            return
        yield cast(T, item)


def _sse(document: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


class _Stream(StreamingResponse):
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
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            self._account.end(_GONE)  # does nothing if the end has been recorded


class _Ended:
    """Ends an account with the status of what happens inside, unless a stream ends it later."""

    def __init__(self, account: Account) -> None:
        self._account, self.status, self.later = account, _GONE, False

    def __enter__(self) -> "_Ended":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, _GoneError):
            self._account.end(errors.refusal(error).status, error)
        elif not self.later:
            self._account.end(self.status)


class _GoneError(HTTPException):
    """The client closed the connection before its answer was ready."""

    def __init__(self) -> None:
        super().__init__(_GONE, "the client has gone")


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for work, and cancel it when the client closes the connection."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _GoneError
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _first(results: Sequence[Result]) -> Result:
    return min(results, key=lambda r: r.row)


def _headers(id: str, routing: Routing, capped: int | None = None) -> dict[str, str]:
    """The request's id, and what was decided for its first answer; a key's text is in the body.

    Also the limit that an answer's length was cut to, if it was.
    """
    said = asdict(routing)
    del said["key"]
    told = {k: _header(v) for k, v in said.items() if v is not None and v is not False}
    limit = {} if capped is None else {LIMIT: str(capped)}
    return {REQUEST_ID: id} | limit | {f"x-memory-{k}": v for k, v in told.items()}


def _header(value: str | float | bool) -> str:
    if value is True:
        return "true"
    # Ids of edits may be any text, headers may not.
    return quote(value) if isinstance(value, str) else f"{value:.4f}"
