"""Messages to one text, by the chat template that lies beside the tokenizer.

Knows nothing of tokens or models. A template is untrusted input: it runs in jinja2's sandbox, with
the helpers that transformers gives it and no others.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from memoir_edge.base import read_json
from memoir_edge.errors import InputError, first_line
from memoir_edge.text import Message, templated

GIVEN = frozenset({"messages", "tools", "documents"})  # what no further variable may be called


class _Generation(Extension):
    """`{% generation %}` marks what the model wrote, for training; here it is just its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def read_template(folder: Path) -> str | None:
    """The template of an export directory: chat_template.jinja, else the tokenizer's; or None."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {str(t.get("name")): t.get("template") for t in found}.get("default")
    return found if isinstance(found, str) else None


def render(
    template: str | None,
    messages: Sequence[Message],
    special: Mapping[str, str],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text that the model is to continue.

    Args:
        template: A jinja2 chat template.
        messages: Each with a `role` and a `content`.
        special: Special tokens by name, such as `bos_token`.
        tools: Descriptions of functions, as the template takes them.
        variables: What else the template is told; nothing of the above.

    Raises:
        InputError: No template, no messages, a variable that has another meaning, or the template
            refuses them.
    """
    if template is None:
        raise InputError(
            "the model has no chat template", hint="give it a plain prompt, or export a chat model"
        )
    if not messages or not all(isinstance(m, Mapping) and "role" in m for m in messages):
        raise InputError('messages must be a list of {"role": ..., "content": ...}, at least one')
    variables = dict(variables or {})
    if taken := sorted(GIVEN & variables.keys()):
        raise InputError(f"{taken[0]!r} is no further variable of the chat template")
    try:
        compiled = _environment().from_string(template)
        # As transformers calls it: a template may ask whether tools are none.
        given = {"add_generation_prompt": True, **special, **variables}
        given |= {"tools": tools or None, "documents": None}
        return templated(
            lambda chat: compiled.render({**given, "messages": chat}),
            _known(messages, template),
            asked(messages),
        )
    except Exception as error:  # a template can raise whatever it likes
        said = first_line(error)
        raise InputError(f"the chat template refuses these messages: {said}") from error


def _known(messages: Sequence[Message], template: str) -> list[Message]:
    """The messages; a developer is the system where the template knows no developers."""
    if "developer" in template:
        return list(messages)
    return [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]


def takes_tools(template: str | None) -> bool:
    """Whether a template reads descriptions of tools."""
    if template is None:
        return False
    try:
        return "tools" in meta.find_undeclared_variables(_environment().parse(template))
    except TemplateError:  # `render` will say what is wrong with it
        return False


def asked(messages: Sequence[Message]) -> str:
    """The last user message, stripped as most templates do; empty where there is none."""
    said = [m.get("content") for m in messages if m.get("role") == "user"]
    return said[-1].strip() if said and isinstance(said[-1], str) else ""


def last_user(text: str, messages: Sequence[Message]) -> int | None:
    """Where the last user message begins in the rendered text; None if it cannot be found."""
    content = asked(messages)
    begin = text.rfind(content) if content else -1
    return None if begin < 0 else begin


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which a prompt must not have.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
