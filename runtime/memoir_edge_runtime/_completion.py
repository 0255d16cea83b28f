"""One row from its first token to its end, and the plain loop over a batch of rows.

Knows nothing of sessions or swaps: a decoder, a generation and prompts go in, events come out. A
scheduler of its own needs `Completion` alone: it is told each row's logits, whoever batched them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memoir_edge_runtime._decoder import Decoder, Floats
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._results import Result, Routing, Token
from memoir_edge_runtime._sampling import Options, choose, generator
from memoir_edge_runtime._tokens import Prompt, Tokenizer
from memoir_edge_runtime._writing import Writer


@dataclass(frozen=True)
class Language:
    """What turns ids to text and ends a row: the same for every request of a model."""

    tokenizer: Tokenizer
    eos: frozenset[int]
    context: int | None  # most tokens of a sequence


class Completion:
    """One row being written.

    Args:
        row: Its number in the request; seeds its random numbers together with `seed`.
        prompt: What is continued.
        options: The request's.
        seed: The request's, drawn where it named none.
        language: The model's.
    """

    def __init__(
        self, row: int, prompt: Prompt, options: Options, seed: int, language: Language
    ) -> None:
        self.row, self.prompt = row, prompt
        self.ids: list[int] = []
        self.finish_reason: str | None = None
        self._options, self._language = options, language
        self._random = generator(seed, row)
        self._room = options.max_new_tokens
        if language.context is not None:
            self._room = min(self._room, language.context - len(prompt.row.ids))
        tokenizer = language.tokenizer
        self._writer = Writer(tokenizer.decode, tokenizer.is_byte, options.stop)

    @property
    def done(self) -> bool:
        """Whether no further token is wanted."""
        return self.finish_reason is not None

    def advance(self, logits: Floats) -> Token:
        """Choose the next token from logits `[V]`."""
        token = choose(logits, self._options, self._random)
        self.ids.append(token)
        silent = token in self._language.tokenizer.special | self._language.eos
        text = "" if silent else self._writer.push(token)
        if token in self._language.eos or self._writer.stopped:
            self.finish_reason = "stop"
        elif len(self.ids) >= self._room:
            self.finish_reason = "length"
        if self.done and not self._writer.stopped:
            text += self._writer.finish()
        return Token(self.row, token, text)

    def result(self, routing: Routing) -> Result:
        """The finished row."""
        assert self.finish_reason is not None
        return Result(
            row=self.row,
            prompt=self.prompt.text,
            text=self._writer.text,
            ids=tuple(self.ids),
            finish_reason=self.finish_reason,
            prompt_tokens=len(self.prompt.row.ids),
            routing=routing,
        )


def complete(
    decoder: Decoder,
    generation: Generation,
    completions: Sequence[Completion],
    context: int | None = None,
) -> Iterator[Token | Result]:
    """Write a batch of rows to their ends: each row's tokens in order, then its result.

    Args:
        decoder: The graph.
        generation: The memory that the whole batch is answered with.
        completions: The rows.
        context: Most tokens that the model can take; a batch is never wider.
    """
    live = list(completions)
    state, logits = decoder.prefill([c.prompt.row for c in live], generation)
    while True:
        for i, row in enumerate(live):
            if not row.done:
                yield row.advance(logits[i])
                if row.finish_reason is not None:
                    yield row.result(generation.routing(state.routes, i))
        on = [i for i, row in enumerate(live) if not row.done]
        if not on:
            return
        # Dropping rows copies the others' caches, so it waits until half are done: then it pays.
        full = context is not None and state.attention.shape[1] >= context
        if 2 * len(on) <= len(live) or (full and len(on) < len(live)):
            state, live = decoder.take(state, on), [live[i] for i in on]
        state, logits = decoder.step(state, [row.ids[-1] for row in live])
