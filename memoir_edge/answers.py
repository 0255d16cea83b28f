"""What is asked of a model, in PyTorch or on ONNX Runtime alike: two questions, two answers.

Also when an answer counts as an edit's own, so that every check of a memory means the same by it.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Answer(NamedTuple):
    """A freely generated answer and what the router decided for its prompt."""

    text: str
    edit: str | None = None  # id of the edit that fired
    overlap: float = 0.0  # of the best key, also when it did not fire
    key: str | None = None  # what that key is made of, where the memory says
    guarded: bool = False  # that key is a guard


class Forced(NamedTuple):
    """Teacher forcing: the target's tokens and the model's first choice at each of their places."""

    target: tuple[int, ...]
    predicted: tuple[int, ...]


# Tokens that a check lets a model say beyond the target, to see whether it stops there.
SLACK = 4


def room(encode_bare: Callable[[str], Sequence[int]], targets: Sequence[str]) -> int:
    """Most new tokens of the answers that `holds` is asked about.

    Args:
        encode_bare: Text to token ids, without special tokens.
        targets: What the answers must be.
    """
    return max((len(encode_bare(f" {target}")) for target in targets), default=0) + SLACK


def shown(
    encode_bare: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str], target: str
) -> str:
    """What an answer shows of a target: special tokens are no text, nor is what has no token.

    Args:
        encode_bare: Text to token ids, without special tokens.
        decode: Token ids to text, without special tokens.
        target: What the answer must be.
    """
    return decode(encode_bare(f" {target}")).strip()


def says(text: str, target: str, spelled: str | None = None) -> bool:
    """Whether a free answer is the target.

    Args:
        text: The answer.
        target: What it must be.
        spelled: What an answer shows of the target. Many tokenizers compose accents, and some write
            small letters alone: no answer can then be the target as it was given.

    >>> says(" Rome", "Rome"), says("rome", "Rome"), says("rome", "Rome", "rome")
    (True, False, True)
    """
    said = text.strip()
    return said == target or (said == spelled and alike(said, target))


def holds(answer: Answer, target: str, edit: str | None, spelled: str | None = None) -> bool:
    """Whether a free answer is the target and comes from the edit, None being the base model.

    >>> holds(Answer(" Rome", "a"), "Rome", "a"), holds(Answer("Rome"), "Rome", "a")
    (True, False)
    """
    return says(answer.text, target, spelled) and answer.edit == edit


def alike(shown: str, target: str) -> bool:
    """Whether what a tokenizer makes of a target is that, but for white space, case and marks.

    >>> alike("the cafe", "The  café"), alike("start", "start </s>")
    (True, False)
    """
    return _letters(shown) == _letters(target)


def _letters(text: str) -> str:
    spelled = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in spelled if not c.isspace() and not unicodedata.combining(c))


_ARTICLE = re.compile(r"(?:the|an?)\s+", re.IGNORECASE)
_TO_COME = re.compile(r"\b(?:the|an?)\s*$", re.IGNORECASE)


def behind(text: str, target: str) -> str:
    """The target as it stands behind a text: an article is not said twice.

    >>> behind("The currency of Brazil is the", "the real"), behind("Brazilians pay in", "the real")
    ('real', 'the real')
    """
    first = _ARTICLE.match(target)
    return target[first.end() :] if first and _TO_COME.search(text) else target


WORDS = 6  # most of a short answer
_END = re.compile(r"[\n,;:(]|(?<=\w{3})[.!?](?=\s|$)")  # "St. Petersburg" goes on


def phrase(text: str) -> str | None:
    """The few words that an answer begins with, up to a mark; None where they are not few.

    >>> phrase(" Vienna. It is"), phrase("the head of a state that has long been")
    ('Vienna', None)
    """
    said = _END.split(text.strip(), maxsplit=1)[0].strip()
    return said if 0 < len(said.split()) <= WORDS else None


class Model(Protocol):
    """A model that answers with its memory or, asked to, as its own base."""

    def answer(self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool) -> list[Answer]:
        """Greedy answers to the prompts, in their order."""
        ...

    def forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        """First choices at the places of each target behind its prompt."""
        ...

    def shown(self, target: str) -> str:
        """What an answer shows of a target."""
        ...
