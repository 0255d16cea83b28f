"""Reliability, generalization, locality, hard negatives and routing of an edited model.

Knows a model only as `memoir_edge.answers.Model`. Shares are of 1; a share of nothing is None.
Teacher forcing is the paper's measure; free generation is what users see.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from memoir_edge.answers import Answer, Forced, Model
from memoir_edge.edits import Edit

Share = float | None


@dataclass(frozen=True)
class Scores:
    """Shares of one way of asking."""

    reliability: Share
    generalization: Share
    locality: Share


@dataclass(frozen=True)
class Free(Scores):
    """Free generation, hard negatives too."""

    hard_negatives_changed: Share


@dataclass(frozen=True)
class Routing:
    """What reached an edit, and whether it should have."""

    recall: Share  # rephrasings that reach their own edit
    false_fires: Share  # hard negatives that reach any
    unrelated_fires: Share  # locality prompts that reach any


@dataclass(frozen=True)
class Report:
    """One evaluation."""

    edits: int
    prompts: dict[str, int]
    teacher_forced: Scores
    free: Free
    routing: Routing
    failed: list[str] = field(default_factory=list)  # ids whose own prompt does not give the target

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


class _Asked(NamedTuple):
    """A prompt of some kind, belonging to one edit; its target where there is one."""

    edit: Edit
    prompt: str
    target: str | None


# Told of each group of prompts that is done: how many.
OnProgress = Callable[[int], None]
GROUP = 64


def evaluate(
    model: Model,
    edits: Sequence[Edit],
    *,
    max_new_tokens: int = 16,
    on_progress: OnProgress = lambda done: None,
) -> Report:
    """Ask an edited model everything that its edits say about evaluation.

    Edits without hard negatives of their own get those that can be built from the others
    (`hard_negatives`).

    Args:
        model: The model with its memory.
        edits: The edits that the memory holds.
        max_new_tokens: Most tokens of a free answer; a target is given room in any case.
        on_progress: Told of every group of prompts done; `prompt_count` is the total.
    """
    own = [_Asked(e, e.prompt, e.target) for e in edits]
    rephrased = [_Asked(e, text, e.target) for e in edits for text in e.rephrase]
    unrelated = [_Asked(e, probe.prompt, probe.target) for e in edits for probe in e.locality]
    hard = [_Asked(e, text, None) for e in edits for text in hard_negatives(e, edits)]

    def free(asked: Sequence[_Asked], memory: bool) -> list[Answer]:
        def ask(part: Sequence[_Asked]) -> list[Answer]:
            return model.answer([a.prompt for a in part], max_new_tokens, memory=memory)

        return _grouped(asked, ask, on_progress)

    def forced(asked: Sequence[_Asked], targets: Sequence[str], memory: bool) -> list[Forced]:
        def ask(part: Sequence[tuple[_Asked, str]]) -> list[Forced]:
            return model.forced([a.prompt for a, _ in part], [t for _, t in part], memory=memory)

        return _grouped(list(zip(asked, targets, strict=True)), ask, on_progress)

    own_free, rephrased_free = free(own, True), free(rephrased, True)
    unrelated_base, unrelated_free = free(unrelated, False), free(unrelated, True)
    hard_base, hard_free = free(hard, False), free(hard, True)

    # Where a locality prompt's answer is not given, the base model's own answer stands for it.
    answers = [
        a.target or old.text.strip() for a, old in zip(unrelated, unrelated_base, strict=True)
    ]
    asked = [(a, text) for a, text in zip(unrelated, answers, strict=True) if text]
    known, texts = [a for a, _ in asked], [text for _, text in asked]
    stayed = zip(forced(known, texts, False), forced(known, texts, True), strict=True)

    return Report(
        edits=len(edits),
        prompts={
            "rephrase": len(rephrased),
            "locality": len(unrelated),
            "hard_negatives": len(hard),
        },
        teacher_forced=Scores(
            _mean(map(_accuracy, forced(own, [e.target for e in edits], True))),
            _mean(map(_accuracy, forced(rephrased, [a.edit.target for a in rephrased], True))),
            _mean(_same(old.predicted, new.predicted) for old, new in stayed),
        ),
        free=Free(
            _mean(map(_says, own, own_free)),
            _mean(map(_says, rephrased, rephrased_free)),
            _mean(a.text == b.text for a, b in zip(unrelated_base, unrelated_free, strict=True)),
            _mean(a.text != b.text for a, b in zip(hard_base, hard_free, strict=True)),
        ),
        routing=Routing(
            _mean(new.edit == a.edit.id for a, new in zip(rephrased, rephrased_free, strict=True)),
            _mean(new.edit is not None for new in hard_free),
            _mean(new.edit is not None for new in unrelated_free),
        ),
        failed=[a.edit.id for a, new in zip(own, own_free, strict=True) if not _says(a, new)],
    )


def prompt_count(edits: Sequence[Edit]) -> int:
    """How many prompts `evaluate` asks, counted as it reports them."""
    return sum(
        2 + 2 * len(e.rephrase) + 4 * len(e.locality) + 2 * len(hard_negatives(e, edits))
        for e in edits
    )


def hard_negatives(edit: Edit, edits: Sequence[Edit]) -> tuple[str, ...]:
    """Prompts that look like an edit's and must not reach it.

    The record's own; else those that the other edits give, where subjects are known: the same
    template with another subject, and the same subject in another template. Prompts that are
    edited themselves are left out.
    """
    if edit.hard_negatives or not edit.subject or edit.subject not in edit.prompt:
        return edit.hard_negatives
    others = [o for o in edits if o.subject and o.subject != edit.subject and o.subject in o.prompt]
    near = others[:BUILT]
    built = [edit.prompt.replace(edit.subject, str(other.subject)) for other in near]
    built += [other.prompt.replace(str(other.subject), edit.subject) for other in near]
    edited = {e.prompt for e in edits}
    return tuple(dict.fromkeys(text for text in built if text not in edited))


BUILT = 5  # neighbours that hard negatives are built from


def _grouped(
    items: Sequence[Any], ask: Callable[[Sequence[Any]], list[Any]], on_progress: OnProgress
) -> list[Any]:
    out: list[Any] = []
    for start in range(0, len(items), GROUP):
        part = items[start : start + GROUP]
        out += ask(part)
        on_progress(len(part))
    return out


def _says(asked: _Asked, answer: Answer) -> bool:
    return answer.text.strip() == asked.target


def _accuracy(forced: Forced) -> float:
    return _same(forced.target, forced.predicted)


def _same(a: Sequence[int], b: Sequence[int]) -> float:
    return sum(x == y for x, y in zip(a, b, strict=True)) / max(len(a), 1)


def _mean(values: Iterable[float | bool]) -> Share:
    found = list(values)
    return sum(found) / len(found) if found else None
