"""The way from a command to the runtime; says what to install where it is missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memoir_edge.answers import Answer, Forced
from memoir_edge.cli.extras import needs
from memoir_edge.memory import Memory

if TYPE_CHECKING:
    from memoir_edge_runtime import Session


def open_session(
    folder: Path, memory: Memory | Path | None = None, *, threads: int | None = None
) -> "Session":
    """A session on an export directory.

    Raises:
        InputError: The runtime is not installed.
    """
    with needs("the runtime", "run"):
        from memoir_edge_runtime import Session
    return Session(folder, memory=memory, threads=threads)


class OnnxModel:
    """A session in the shape that an evaluation asks (`memoir_edge.answers.Model`)."""

    def __init__(self, session: "Session") -> None:
        self.session = session

    def answer(self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool) -> list[Answer]:
        """Greedy answers to the prompts, in their order."""
        from memoir_edge_runtime import Options

        generation = self.session.generation if memory else self.session.base
        results = self.session.generate(prompts, Options(max_new_tokens), memory=generation)
        return [
            Answer(r.text, r.fired, r.routing.overlap, r.routing.key, r.routing.guard)
            for r in results
        ]

    def forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        """First choices at the places of each target behind its prompt."""
        generation = self.session.generation if memory else self.session.base
        found = self.session.teacher_forced(prompts, targets, memory=generation)
        return [Forced(each.target_ids, each.predicted_ids) for each in found]

    def shown(self, target: str) -> str:
        """What an answer shows of a target."""
        return self.session.language.tokenizer.shown(target)
