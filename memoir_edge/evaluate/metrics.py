"""Reliability, generalization, locality, hard negatives and routing of an edited model.

Knows a model only as `memoir_edge.answers.Model`. Shares are of 1; a share of nothing is None.
Teacher forcing is the paper's measure; free generation is what users see.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import sqrt
from typing import Any, NamedTuple, TypeVar

from memoir_edge.answers import SLACK, Answer, Forced, Model, behind, holds, says
from memoir_edge.edits import Edit, plain_name
from memoir_edge.notebook import table

Share = float | None
T = TypeVar("T")


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
class Detail:
    """How sure the recall is, which hard negatives fire, and which keys decided."""

    recall_low: Share  # ends of the recall's 95 % interval
    recall_high: Share
    same_template: Share  # hard negatives that reach any: the prompt asked of another subject
    same_subject: Share  # the subject asked something else
    other: Share  # neither
    by_own_prompt: Share  # of the rephrasings that reach their edit, by the key of its own prompt
    by_guard: Share  # of the hard negatives, those whose nearest key is a guard


OWN, REPHRASED, UNRELATED, HARD = "own prompt", "rephrasing", "unrelated", "hard negative"


class Said(NamedTuple):
    """One prompt of an evaluation and what was answered, freely."""

    kind: str  # OWN, REPHRASED, UNRELATED or HARD
    edit: str  # id of the edit that it was asked for
    prompt: str
    target: str | None
    answer: Answer
    base: str | None = None  # the base model's text, where that was asked too

    @property
    def fired(self) -> bool:
        """Whether it reached any edit."""
        return self.answer.edit is not None


@dataclass(frozen=True)
class Report:
    """One evaluation."""

    edits: int
    prompts: dict[str, int]
    teacher_forced: Scores
    free: Free
    routing: Routing
    detail: Detail
    failed: list[str] = field(default_factory=list)  # ids of edits that do not hold
    said: tuple[Said, ...] = ()

    def _repr_html_(self) -> str:
        """The shares, as a notebook shows them."""
        forced = asdict(self.teacher_forced)
        answers = [
            (name.replace("_", " "), forced.get(name), share)
            for name, share in asdict(self.free).items()
        ]
        reach = [(name.replace("_", " "), share) for name, share in asdict(self.routing).items()]
        return table(
            f"{self.edits} edits", ["", "teacher-forced", "free generation"], answers
        ) + table("routing", ["", "share"], reach)

    def as_json(self) -> dict[str, Any]:
        """The shares, for programs."""
        document = asdict(replace(self, said=()))
        del document["said"]
        return document


class _Asked(NamedTuple):
    """A prompt of some kind, belonging to one edit; its target where there is one."""

    edit: Edit
    prompt: str
    target: str | None


# Told of each group of prompts that is done: how many.
OnProgress = Callable[[int], None]
GROUP = 64


@dataclass(frozen=True)
class _Asker:
    """Asks a model in groups, and tells of each."""

    model: Model
    max_new_tokens: int
    on_progress: OnProgress

    def free(self, asked: Sequence[_Asked], *, memory: bool) -> list[Answer]:
        out: list[Answer] = []
        for part in _parts(asked):
            prompts = [a.prompt for a in part]
            out += self.model.answer(prompts, self.max_new_tokens, memory=memory)
            self.on_progress(len(part))
        return out

    def told(self, asked: Sequence[_Asked], forced: Sequence[Forced]) -> list[Answer]:
        """Free answers, with room for the targets that were forced and to go on behind them."""
        out: list[Answer] = []
        for part in _parts(list(zip(asked, forced, strict=True))):
            most = max(len(each.target) for _, each in part) + SLACK
            prompts = [a.prompt for a, _ in part]
            out += self.model.answer(prompts, max(most, self.max_new_tokens), memory=True)
            self.on_progress(len(part))
        return out

    def forced(
        self, asked: Sequence[_Asked], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        out: list[Forced] = []
        for part in _parts(list(zip(asked, targets, strict=True))):
            prompts, texts = [a.prompt for a, _ in part], [text for _, text in part]
            out += self.model.forced(prompts, texts, memory=memory)
            self.on_progress(len(part))
        return out

    def says(self, asked: _Asked, answer: Answer) -> bool:
        target = str(asked.target)
        return says(answer.text, target, self.model.shown(target))


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
    rephrased = [_Asked(e, text, behind(text, e.target)) for e in edits for text in e.rephrase]
    unrelated = [_Asked(e, probe.prompt, probe.target) for e in edits for probe in e.locality]
    hard = [_Asked(e, text, None) for e in edits for text in hard_negatives(e, edits)]
    ask = _Asker(model, max_new_tokens, on_progress)
    own_forced, rephrased_forced = (
        ask.forced(asked, [str(a.target) for a in asked], memory=True) for asked in (own, rephrased)
    )
    own_free, rephrased_free = ask.told(own, own_forced), ask.told(rephrased, rephrased_forced)
    unrelated_base, unrelated_free = (ask.free(unrelated, memory=m) for m in (False, True))
    hard_base, hard_free = (ask.free(hard, memory=m) for m in (False, True))
    counts = {"rephrase": rephrased, "locality": unrelated, "hard_negatives": hard}
    return Report(
        edits=len(edits),
        prompts={name: len(asked) for name, asked in counts.items()},
        teacher_forced=Scores(
            share(map(_accuracy, own_forced)),
            share(map(_accuracy, rephrased_forced)),
            _stays(ask, unrelated, unrelated_base),
        ),
        free=Free(
            share(map(ask.says, own, own_free)),
            share(map(ask.says, rephrased, rephrased_free)),
            share(a.text == b.text for a, b in zip(unrelated_base, unrelated_free, strict=True)),
            share(a.text != b.text for a, b in zip(hard_base, hard_free, strict=True)),
        ),
        routing=Routing(
            share(map(_reaches, rephrased, rephrased_free)),
            share(new.edit is not None for new in hard_free),
            share(new.edit is not None for new in unrelated_free),
        ),
        detail=_detail(rephrased, rephrased_free, hard, hard_free),
        failed=[
            e.id
            for e, new in zip(edits, own_free, strict=True)
            if not holds(new, e.target, e.id, model.shown(e.target))
        ],
        said=(
            *_said(OWN, own, own_free),
            *_said(REPHRASED, rephrased, rephrased_free),
            *_said(UNRELATED, unrelated, unrelated_free, unrelated_base),
            *_said(HARD, hard, hard_free, hard_base),
        ),
    )


def _said(
    kind: str, asked: Sequence[_Asked], new: Sequence[Answer], old: Sequence[Answer] = ()
) -> Iterator[Said]:
    texts: Sequence[str | None] = [answer.text for answer in old] or [None] * len(new)
    for a, answer, text in zip(asked, new, texts, strict=True):
        yield Said(kind, a.edit.id, a.prompt, a.target, answer, text)


def _stays(ask: _Asker, unrelated: Sequence[_Asked], base: Sequence[Answer]) -> Share:
    """Locality by teacher forcing; the base model's answer stands where none is given."""
    answers = [a.target or old.text.strip() for a, old in zip(unrelated, base, strict=True)]
    asked = [(a, text) for a, text in zip(unrelated, answers, strict=True) if text]
    known, texts = [a for a, _ in asked], [text for _, text in asked]
    stayed = zip(*(ask.forced(known, texts, memory=m) for m in (False, True)), strict=True)
    return share(_same(old.predicted, new.predicted) for old, new in stayed)


def _detail(
    rephrased: Sequence[_Asked],
    answers: Sequence[Answer],
    hard: Sequence[_Asked],
    hard_answers: Sequence[Answer],
) -> Detail:
    reached = [new for a, new in zip(rephrased, answers, strict=True) if _reaches(a, new)]
    prompts = {a.edit.id: a.edit.prompt for a in rephrased}
    low, high = wilson(len(reached), len(rephrased))
    kinds = [kind_of(a.edit, a.prompt) for a in hard]

    def fires(kind: str) -> Share:
        return share(
            new.edit is not None for k, new in zip(kinds, hard_answers, strict=True) if k == kind
        )

    return Detail(
        low,
        high,
        fires(SAME_TEMPLATE),
        fires(SAME_SUBJECT),
        fires(OTHER),
        share(new.key == prompts[str(new.edit)] for new in reached if new.key is not None),
        share(new.guarded for new in hard_answers),
    )


SAME_TEMPLATE, SAME_SUBJECT, OTHER = "same template", "same subject", "other"


def kind_of(edit: Edit, text: str) -> str:
    """How a hard negative resembles an edit: by its subject, by its prompt's template, or neither.

    >>> edit = Edit(prompt="The capital of France is", target="", subject="France", tags={})
    >>> kind_of(edit, "The currency of France is"), kind_of(edit, "The capital of Spain is")
    ('same subject', 'same template')
    """
    subject = edit.subject or ""
    if not subject or subject not in edit.prompt:
        return OTHER
    if subject in text:
        return SAME_SUBJECT
    before, after = edit.prompt.split(subject, 1)
    same = text.startswith(before) and text.endswith(after) and text != edit.prompt
    return SAME_TEMPLATE if same and before + after else OTHER


def wilson(hits: int, count: int) -> tuple[Share, Share]:
    """Ends of a share's 95 % interval by Wilson's score, good for small counts and near 0 and 1.

    >>> [round(end or 0, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    if not count:
        return None, None
    z, p = 1.959964, hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(min(middle - half, p), 0.0), min(max(middle + half, p), 1.0)


def prompt_count(edits: Sequence[Edit]) -> int:
    """How many prompts `evaluate` asks, counted as it reports them."""
    return sum(
        2 + 2 * len(e.rephrase) + 4 * len(e.locality) + 2 * len(hard_negatives(e, edits))
        for e in edits
    )


def hard_negatives(edit: Edit, edits: Sequence[Edit]) -> tuple[str, ...]:
    """Prompts that look like an edit's and must not reach it.

    The record's own; else those that the other edits give, where subjects are known: the same
    template with another subject, and the same subject in another template. Texts that must reach
    an edit are left out.
    """
    if edit.hard_negatives or not edit.subject or edit.subject not in edit.prompt:
        return edit.hard_negatives
    own = plain_name(edit.subject)
    others = [o for o in edits if o.subject and o.subject in o.prompt]
    near = [o for o in others if plain_name(o.subject) != own][:BUILT]
    built = [edit.prompt.replace(edit.subject, str(other.subject)) for other in near]
    built += [other.prompt.replace(str(other.subject), edit.subject) for other in near]
    reach = {text for e in edits for text in (e.prompt, *e.keys, *e.rephrase)}
    return tuple(dict.fromkeys(text for text in built if text not in reach))


BUILT = 5  # neighbours that hard negatives are built from


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + GROUP] for start in range(0, len(items), GROUP))


def _reaches(asked: _Asked, answer: Answer) -> bool:
    return answer.edit == asked.edit.id


def _accuracy(forced: Forced) -> float:
    return _same(forced.target, forced.predicted)


def _same(a: Sequence[int], b: Sequence[int]) -> float:
    return sum(x == y for x, y in zip(a, b, strict=True)) / max(len(a), 1)


def share(values: Iterable[float | bool | None]) -> Share:
    """Mean of what is known, a share where it is true or false; None of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
