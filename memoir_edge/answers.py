"""What is asked of a model, in PyTorch or on ONNX Runtime alike: two questions, two answers."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Answer(NamedTuple):
    """A freely generated answer and what the router decided for its prompt."""

    text: str
    edit: str | None = None  # id of the edit that fired
    overlap: float = 0.0  # of the best key, also when it did not fire


class Forced(NamedTuple):
    """Teacher forcing: the target's tokens and the model's first choice at each of their places."""

    target: tuple[int, ...]
    predicted: tuple[int, ...]


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
