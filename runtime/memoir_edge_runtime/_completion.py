"""One row from its first token to its end.

Knows nothing of graphs, batches or swaps: it is told its route, and then its logits token by token.
"""

import time
from dataclasses import dataclass
from functools import cached_property

from memoir_edge_runtime._results import Result, Routing, Token
from memoir_edge_runtime._sampling import Floats, Options, generator, likeliest
from memoir_edge_runtime._tokens import Prompt, Tokenizer
from memoir_edge_runtime._writing import Writer

CANCELLED = "cancelled"  # why a row ends that nobody waits for


@dataclass(frozen=True)
class Language:
    """How a model's ids become text, and what ends a row; the same for every request."""

    tokenizer: Tokenizer
    eos: frozenset[int]
    context: int  # most tokens of a sequence

    @cached_property
    def silent(self) -> frozenset[int]:
        """Ids that are no text."""
        return self.tokenizer.special | self.eos


@dataclass
class Times:
    """When a row came how far, in nanoseconds since the epoch; 0: not yet."""

    joined: int = 0  # a batch took it
    routed: int = 0  # it was known which edit answers
    read: int = 0  # its first token
    ended: int = 0


class Completion:
    """One row being written.

    Args:
        row: Its number in the request. Together with `seed` it seeds the row's random numbers.
        prompt: What is continued.
        options: The request's.
        seed: The request's, or a fresh one if it named none.
        language: The model's.
    """

    def __init__(
        self, row: int, prompt: Prompt, options: Options, seed: int, language: Language
    ) -> None:
        self.row, self.prompt = row, prompt
        self.ids: list[int] = []
        self.finish_reason: str | None = None
        self.routing: Routing | None = None  # as soon as its prompt is read
        self.times = Times()
        self.options, self._language = options, language
        self.random = generator(seed, row)
        self._room = min(options.max_new_tokens, language.context - len(prompt.row.ids))
        tokenizer = language.tokenizer
        before = () if self.begins else tokenizer.plain  # any text will do
        self._writer = Writer(tokenizer.decode, tokenizer.is_byte, options.stop, before)

    @property
    def begins(self) -> bool:
        """Whether its text stands behind no other."""
        return self._language.silent.issuperset(self.prompt.row.ids)

    @property
    def done(self) -> bool:
        """Whether no further token is wanted."""
        return self.finish_reason is not None

    def advance(self, token: int, logits: Floats) -> Token:
        """Take the next token, which was chosen from logits `[V]`."""
        self.ids.append(token)
        text = "" if token in self._language.silent else self._writer.push(token)
        ended = token in self._language.eos and not self.options.ignore_eos
        if ended or self._writer.stopped:
            self.finish_reason = "stop"
        elif len(self.ids) >= self._room:
            self.finish_reason = "length"
        if self.done and not self._writer.stopped:
            text += self._writer.finish()
        if self.done:
            self.times.ended = time.time_ns()
        if self.options.logprobs is None:
            return Token(self.row, token, text)
        return Token(self.row, token, text, *likeliest(logits, token, self.options.logprobs))

    def cancel(self) -> None:
        """Stop here: no further token is wanted, and no result."""
        self.finish_reason = CANCELLED

    def result(self) -> Result:
        """What has come of it; a row that has not ended is given up."""
        assert self.routing is not None
        return Result(
            row=self.row,
            prompt=self.prompt.text,
            text=self._writer.text,
            ids=tuple(self.ids),
            finish_reason=self.finish_reason or CANCELLED,
            prompt_tokens=len(self.prompt.row.prompt),
            routing=self.routing,
        )
