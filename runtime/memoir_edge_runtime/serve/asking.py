"""What is asked, as rows for the scheduler: prompts, conversations, options, and what is refused.

Knows nothing of HTTP, nor of what becomes of the rows.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

from memoir_edge.errors import InputError
from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._sampling import Options
from memoir_edge_runtime._session import Session
from memoir_edge_runtime._tokens import Prompt
from memoir_edge_runtime.serve import errors, schema
from memoir_edge_runtime.serve.errors import RequestError
from memoir_edge_runtime.serve.server import Server


def prompts_of(session: Session, given: schema.Given) -> list[Prompt]:
    """A request's prompts: one or several, each a text or token ids."""
    several = not isinstance(given, str) and not isinstance(given[0], int)
    each = cast(list[str | list[int]], given if several else [given])
    return [session.prompt(p) if isinstance(p, str) else session.token_prompt(p) for p in each]


def messages_of(messages: Sequence[schema.Message]) -> list[dict[str, Any]]:
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


def tools_of(server: Server, asked: schema.ChatRequest) -> list[dict[str, Any]] | None:
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
    return [tool.model_dump(exclude={"cache_control"}, exclude_none=True) for tool in asked.tools]


def options_of(
    server: Server,
    asked: schema.CompletionRequest | schema.ChatRequest,
    logprobs: int | None,
) -> Options:
    """A request's options, within the server's limits."""
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


def rows_of(
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
    longest, limit = max(len(p.row.prompt) for p in prompts), server.settings.max_prompt_tokens
    if limit is not None and longest > limit:
        raise RequestError(
            f"the prompt is too long: {longest} tokens, at most {limit}",
            param=field,
            code="context_length_exceeded",
        )
