"""Events of a scheduler as the documents of OpenAI's API, whole or in parts.

Knows nothing of HTTP: documents are dictionaries. A `Style` holds all that completions and chats
say differently.
"""

import codecs
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from memoir_edge_runtime._results import Result, Routing, Token
from memoir_edge_runtime._tokens import Tokenizer

Document = dict[str, Any]


class Style(NamedTuple):
    """How one of the two APIs words an answer."""

    asked: str  # the field of a request that is answered
    prefix: str  # of reply ids
    whole: str  # what a reply is called
    part: str  # what a part of a stream is called
    answer: Callable[[str], Document]  # a text as a field of a choice
    opening: Document | None  # the field of a stream's first part, if it has one without text
    delta: Callable[[str], Document]  # a piece of text as a field of a part's choice
    # Tokens, where each begins in the text, and the tokenizer.
    logprobs: Callable[[Sequence[Token], Sequence[int], Tokenizer], Document]


def _completion_logprobs(
    tokens: Sequence[Token], offsets: Sequence[int], tokenizer: Tokenizer
) -> Document:
    return {
        "tokens": [tokenizer.show(t.id) for t in tokens],
        "token_logprobs": [t.logprob for t in tokens],
        "top_logprobs": [
            _named(t.likeliest, tokenizer) if t.logprob is not None else None for t in tokens
        ],
        "text_offset": list(offsets),
    }


def _named(likeliest: Sequence[tuple[int, float]], tokenizer: Tokenizer) -> dict[str, float]:
    """Log-probabilities by text; of tokens with one text, the less likely by their ids."""
    found: dict[str, float] = {}
    for id, logprob in likeliest:
        text = tokenizer.show(id)
        found[f"token_id:{id}" if text in found else text] = logprob
    return found


def _chat_logprobs(tokens: Sequence[Token], _: Sequence[int], tokenizer: Tokenizer) -> Document:
    def entry(token: int, logprob: float | None) -> Document:
        raw = tokenizer.bytes(token)
        return {"token": tokenizer.show(token), "logprob": logprob, "bytes": list(raw)}

    content = [
        entry(t.id, t.logprob) | {"top_logprobs": [entry(i, p) for i, p in t.likeliest]}
        for t in tokens
    ]
    return {"content": content, "refusal": None}


COMPLETION = Style(
    asked="prompt",
    prefix="cmpl",
    whole="text_completion",
    part="text_completion",
    answer=lambda text: {"text": text},
    opening=None,
    delta=lambda text: {"text": text},
    logprobs=_completion_logprobs,
)
CHAT = Style(
    asked="messages",
    prefix="chatcmpl",
    whole="chat.completion",
    part="chat.completion.chunk",
    answer=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    opening={"delta": {"role": "assistant", "content": ""}},
    delta=lambda text: {"delta": {"content": text} if text else {}},
    logprobs=_chat_logprobs,
)


def memory(routing: Routing) -> Document:
    """What the router decided."""
    return asdict(routing)


def explanation(routing: Routing) -> str:
    """The router's decision as a sentence."""
    if routing.digest is None:
        return "no memory is asked: the base model answers"
    if routing.threshold is None:
        return "the memory holds no edits: the base model answers"
    near = f"overlap {routing.overlap:.3f} with {routing.candidate or 'a guard'}"
    if routing.key is not None:
        near += f" ({routing.key!r})"
    if routing.cut:
        near += ", by the last part of a prompt longer than the router reads,"
    if routing.edit is not None:
        return f"{near} reaches its threshold {routing.threshold:.3f}: the edit answers"
    if routing.candidate is None:
        return f"{near} is the best: the base model answers"
    return f"{near} stays below its threshold {routing.threshold:.3f}: the base model answers"


class Echo(NamedTuple):
    """A prompt that its answer begins with."""

    text: str
    tokens: Sequence[Token]  # where log-probabilities are asked for


_NO_ECHO = Echo("", ())


class _Place:
    """How far a text has come, in characters."""

    def __init__(self) -> None:
        self.at, self.begun = 0, False
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, raw: bytes) -> int:
        """Where some more bytes begin; a part of a character, where that begins."""
        begin, self.begun = self.at, True
        self.at += len(self._characters.decode(raw))
        try:
            return self.at - len(raw.decode())
        except UnicodeDecodeError:
            return begin


@dataclass(frozen=True)
class Reply:
    """One request's documents.

    Args:
        id: The request's.
        model: The model's name as it was resolved.
        n: Answers of each prompt.
        logprobs: Whether they were asked for.
        style: Which API is spoken.
        tokenizer: The model's.
        capped: The limit of an answer's tokens, where more were asked for.
        silent: Ids that are no text.
        echoed: What answers begin with, by row.
        first: Rows whose first token stands behind no text.
        created: When it was made, in Unix seconds; all its parts say the same.
    """

    id: str
    model: str
    n: int
    logprobs: bool
    style: Style
    tokenizer: Tokenizer
    capped: int | None = None
    silent: frozenset[int] = frozenset()
    echoed: Mapping[int, Echo] = field(default_factory=dict)
    first: frozenset[int] = frozenset()
    created: int = field(default_factory=lambda: int(time.time()))
    _places: dict[int, "_Place"] = field(default_factory=dict)  # of each row, as far as it is told

    def _head(self, kind: str) -> Document:
        return {
            "id": f"{self.style.prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        } | ({} if self.capped is None else {"max_tokens": self.capped})

    def _logprobs(self, tokens: Sequence[Token]) -> Document | None:
        if not self.logprobs or not tokens:
            return None
        return self.style.logprobs(tokens, list(map(self._offset, tokens)), self.tokenizer)

    def _offset(self, token: Token) -> int:
        """Where a token's text begins in its choice's; called for each token once, in order."""
        place = self._places.setdefault(token.row, _Place())
        if token.id in self.silent and not self._spelled(token, place.at):
            return place.at
        raw = self.tokenizer.bytes(token.id)
        begins = token.row in self.first and not place.begun
        if begins and not self.tokenizer.decode([token.id]).startswith(" "):
            raw = raw.removeprefix(b" ")  # some decoders drop a text's first space
        return place.take(raw)

    def _spelled(self, token: Token, at: int) -> bool:
        """Whether an echoed prompt spells out a special token, as one in a chat's template does."""
        return self._echo(token.row).text.startswith(self.tokenizer.show(token.id), at)

    def usage(self, results: Sequence[Result]) -> Document:
        """Tokens read and written."""
        read = sum(r.prompt_tokens for r in results if r.row % self.n == 0)
        written = sum(r.completion_tokens for r in results)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }

    def whole(self, tokens: Sequence[Token], results: Sequence[Result]) -> Document:
        """The reply that is not streamed."""
        choices = [
            {
                "index": result.row,
                **self.style.answer(self._echo(result.row).text + result.text),
                "logprobs": self._logprobs(
                    [*self._echo(result.row).tokens, *(t for t in tokens if t.row == result.row)]
                ),
                "finish_reason": result.finish_reason,
                "memory": memory(result.routing),
            }
            for result in sorted(results, key=lambda r: r.row)
        ]
        return self._head(self.style.whole) | {
            "choices": choices,
            "usage": self.usage(results),
            "memory": choices[0]["memory"],
        }

    def _part(self, row: int, field: Document, tokens: Sequence[Token] = ()) -> Document:
        choice = {"index": row, **field, "logprobs": self._logprobs(tokens), "finish_reason": None}
        return self._head(self.style.part) | {"choices": [choice]}

    def opening(self, rows: int) -> list[Document]:
        """What a stream begins with."""
        opening = self.style.opening
        if opening is not None:
            return [self._part(row, opening) for row in range(rows)]
        return [
            self._part(row, self.style.delta(echo.text), echo.tokens)
            for row, echo in self.echoed.items()
        ]

    def _echo(self, row: int) -> Echo:
        return self.echoed.get(row, _NO_ECHO)

    def part(self, event: Token | Result) -> Document | None:
        """The part of a stream that an event makes; None for a token that shows nothing."""
        if isinstance(event, Token):
            if not event.text and not self.logprobs:
                return None
            return self._part(event.row, self.style.delta(event.text), [event])
        found = self._part(event.row, self.style.delta(""))
        routing = memory(event.routing)
        found["choices"][0] |= {"finish_reason": event.finish_reason, "memory": routing}
        return found | {"memory": routing}

    def last(self, results: Sequence[Result]) -> Document:
        """The part behind all choices, where usage was asked for."""
        first = min(results, key=lambda r: r.row)
        return self._head(self.style.part) | {
            "choices": [],
            "usage": self.usage(results),
            "memory": memory(first.routing),
        }
