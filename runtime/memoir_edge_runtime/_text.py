"""Tokens and text: encoding, chat templates, incremental decoding, stop strings.

Knows nothing of models: folders and strings in, ids and strings out.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from memoir_edge.errors import GraphError, InputError

Message = Mapping[str, Any]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an absent file is an empty one.

    Raises:
        GraphError: The file is there and is none.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GraphError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise GraphError(f"{path} holds {type(found).__name__}, expected an object")
    return found


class Codec:
    """The tokenizer of an export directory.

    Args:
        folder: The directory.

    Raises:
        InputError: It holds no tokenizer.json.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise InputError(f"{folder} holds no tokenizer.json", hint="export the model again")
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"{path} is no tokenizer: {error}") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._config = read_json(folder / "tokenizer_config.json")
        self._template = _template(folder, self._config)
        self.eos = _eos(folder)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids; `special` adds what the tokenizer adds by itself (BOS)."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def render_chat(self, messages: Sequence[Message]) -> str:
        """A conversation as the model's prompt text, its special tokens written out.

        Raises:
            InputError: The model has no chat template, or it refuses the messages.
        """
        if self._template is None:
            raise InputError("the model has no chat template", hint="give plain prompts")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        tokens = {name: _token(self._config.get(name)) for name in ("bos_token", "eos_token")}
        try:
            template = environment.from_string(self._template)
            return template.render(messages=messages, add_generation_prompt=True, **tokens)
        except TemplateError as error:
            raise InputError(f"the chat template refuses the messages: {error}") from error


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def _token(found: Any) -> str:
    return str(found["content"]) if isinstance(found, dict) else str(found or "")


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _eos(folder: Path) -> frozenset[int]:
    """End-of-text ids: generation_config.json's, else config.json's."""
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name).get("eos_token_id")
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


class TextStream:
    """Turns one row's tokens into text as they come.

    Never gives half a character, nor a part of a stop string: what could still become one is held
    back. All pieces together are `text`, cut before the first stop string.
    """

    def __init__(self, codec: Codec, stop: Sequence[str]) -> None:
        self._codec = codec
        self._stop = [text for text in stop if text]
        self._decode = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._pending = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token makes certain."""
        self._ids.append(token)
        return self._take(self._decode.step(self._codec.tokenizer, token) or "", last=False)

    def finish(self) -> str:
        """What was held back, at the end of the row."""
        if self.stopped:
            return ""
        whole = self._codec.decode(self._ids)
        return self._take(whole[len(self.text) + len(self._pending) :], last=True)

    def _take(self, piece: str, *, last: bool) -> str:
        self._pending += piece
        found = [at for text in self._stop if (at := self._pending.find(text)) >= 0]
        if found:
            self.stopped = True
            certain = min(found)
        else:
            certain = len(self._pending) if last else len(self._pending) - self._held()
        given, self._pending = self._pending[:certain], self._pending[certain:]
        self.text += given
        return given

    def _held(self) -> int:
        """Length of the longest end of the pending text that begins a stop string."""
        return max(
            (
                n
                for text in self._stop
                for n in range(1, min(len(text), len(self._pending) + 1))
                if self._pending.endswith(text[:n])
            ),
            default=0,
        )
