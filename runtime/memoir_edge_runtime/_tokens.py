"""Text to token ids and back, by the tokenizer that lies in the export directory.

Knows nothing of models or memories. Needs `tokenizers` alone, no transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from memoir_edge.answers import shown
from memoir_edge.base import read_json, special_tokens, start_of_answer
from memoir_edge.errors import InputError, first_line
from memoir_edge.text import routed


def _letters() -> dict[str, int]:
    """The letter that byte-level vocabularies write for each byte: itself, if it can be seen."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return {chr(byte if byte in seen else next(others)): byte for byte in range(256)}


_LETTERS = _letters()


class ContextError(InputError):
    """A prompt that the model's context has no room for."""


def check_length(what: str, length: int, context: int, *, reserve: int = 0) -> None:
    """Raise ContextError unless so many tokens fit a context, with room for some more."""
    room = context - reserve
    if length > room:
        raise ContextError(
            # Clients know this error by these words.
            f"{what} is {length} tokens long; this model's maximum context length is "
            f"{context}, which leaves room for {room}",
            hint="shorten it",
        )


class Row(NamedTuple):
    """Token ids of one sequence, and which of them count for routing; by default all.

    Where an encoder reads the prompt, `ids` begin with the decoder's start token.
    """

    ids: tuple[int, ...]
    counted: slice = slice(None)
    source: tuple[int, ...] = ()  # what the encoder reads; of a decoder alone nothing

    @property
    def prompt(self) -> tuple[int, ...]:
        """The prompt's tokens, whoever reads them."""
        return self.source or self.ids


@dataclass(frozen=True)
class Prompt:
    """A text ready to be continued.

    `asked` is what a router beside the graph reads of it; a session fills it in where it is empty,
    with the text, or with what the token ids say.
    """

    text: str
    row: Row
    asked: str = ""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with the special tokens that its configuration names."""

    core: tokenizers.Tokenizer
    special: frozenset[int]
    named: dict[str, str]  # bos_token, eos_token, ... as text
    start: int | None = None  # of a decoder whose prompt an encoder reads

    def encode(self, text: str) -> list[int]:
        """Ids with the special tokens that the tokenizer adds, BOS once.

        A BOS that a chat template has already written into the text is not doubled.
        """
        ids: list[int] = self._encoding(text).ids
        bos = self.id("bos_token")
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def prompt(self, text: str) -> Row:
        """A prompt's ids as `encode` gives them; spaces at its end do not count for routing."""
        ids, end = routed(self.encode, text)
        return self.row(ids, slice(0, end))

    def given(self, ids: Sequence[int]) -> Row:
        """A prompt that comes as ids; as in `prompt`, spaces at its end do not count."""
        spaces = sum(1 for _ in takewhile(self._is_space, reversed(ids)))
        words = ids[: len(ids) - spaces]
        return self.row(ids, slice(0, len(words) if self.decode(words) else len(ids)))

    def _is_space(self, id: int) -> bool:
        return set(self.bytes(id)) == {ord(" ")}

    def row(self, ids: Sequence[int], counted: slice = slice(None)) -> Row:
        """Token ids of a prompt as they are read, and which of them count for routing.

        Where an encoder reads them, the decoder's start token counts alone.
        """
        if self.start is None:
            return Row(tuple(ids), counted)
        return Row((self.start,), slice(0, 1), tuple(ids))

    def encode_bare(self, text: str) -> list[int]:
        """Ids without added special tokens."""
        return list(self._encoding(text, special=False).ids)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of ids; special tokens are a part of it only where `special` says so."""
        return str(self.core.decode(list(ids), skip_special_tokens=not special))

    def shown(self, target: str) -> str:
        """What an answer shows of a target."""
        return shown(self.encode_bare, self.decode, target)

    def show(self, id: int) -> str:
        """Text of one id within a text, special tokens included; half a character as its bytes."""
        raw = self.bytes(id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def bytes(self, id: int) -> bytes:
        """What an id adds to a text, which need not be whole characters."""
        name = self.core.id_to_token(id) or ""
        if id in self._added:
            return self._added[id].encode()
        if id in self._byte_of:
            return bytes([self._byte_of[id]])
        if self._is_byte_level and all(letter in _LETTERS for letter in name):
            return bytes(_LETTERS[letter] for letter in name)
        whole = self.core.decode([*self.plain, id], skip_special_tokens=False)
        return str(whole)[len(self.core.decode(self.plain)) :].encode()

    @cached_property
    def plain(self) -> list[int]:
        """Ids of a letter that others can stand behind."""
        return self.encode_bare("a")[-1:]

    @cached_property
    def _added(self) -> dict[int, str]:
        return {id: token.content for id, token in self.core.get_added_tokens_decoder().items()}

    @cached_property
    def _is_byte_level(self) -> bool:
        """Whether a token's name has a letter for each byte."""
        return self.core.decoder is not None and b'"ByteLevel"' in self.core.decoder.__getstate__()

    def id(self, name: str) -> int | None:
        """Id of a named special token, such as `eos_token`."""
        text = self.named.get(name)
        found = None if text is None else self.core.token_to_id(text)
        return None if found is None else int(found)

    def is_byte(self, token: int) -> bool:
        """Whether an id stands for a single byte."""
        return token in self._byte_of

    @cached_property
    def _byte_of(self) -> dict[int, int]:
        """The byte of each id that stands for one, as SentencePiece-like vocabularies name it."""
        ids = [self.core.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        return {id: byte for byte, id in enumerate(ids) if id is not None}

    def counted(self, text: str, begin: int) -> Row:
        """A text's ids without added special tokens; those from character `begin` on count.

        As in `prompt`, spaces at the end do not.
        """
        first = next(
            (i for i, (_, end) in enumerate(self._encoding(text, special=False).offsets)
             if end > begin), 0
        )  # fmt: skip
        ids, end = routed(self.encode_bare, text)
        return self.row(ids, slice(first, end))

    def _encoding(self, text: str, *, special: bool = True) -> Any:
        if not isinstance(text, str):
            raise InputError(
                f"a text is of type {type(text).__name__}, expected a string",
                hint="decode bytes as UTF-8, and make token ids a prompt by token_prompt",
            )
        try:
            # A batch of one: alone, a long text would keep the interpreter from all other threads.
            return self.core.encode_batch([text], add_special_tokens=special)[0]
        except TypeError as error:  # the library's way to say so
            raise InputError(
                "the text holds half of a surrogate pair, which is no character",
                hint="read it as UTF-8",
            ) from error


def load(folder: Path) -> Tokenizer:
    """The tokenizer of an export directory.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{folder} holds no tokenizer: tokenizer.json not found",
            hint="save one there with tokenizer.save_pretrained, or export the model again",
        )
    try:
        core = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path} is no tokenizer: {first_line(error)}") from error
    core.no_truncation()
    core.no_padding()
    special = (i for i, token in core.get_added_tokens_decoder().items() if token.special)
    start = start_of_answer(read_json(folder / "config.json"))
    return Tokenizer(core, frozenset(special), special_tokens(folder), start)
