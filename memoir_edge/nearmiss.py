"""Near misses: prompts that look like an edit's and must not reach it, made from the edits alone.

Knows nothing of models. Two kinds, wherever records name their subject: the same template with
another subject ("The capital of Spain is"), and the same subject in another edit's template ("The
currency of France is"). The prompts of other edits are misses too. What a record keeps for
evaluation is never read here.
"""

import random
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from memoir_edge.calibrate import NOBODY
from memoir_edge.edits import Edit

HOLE = "\0"  # where a template's subject stands; no prompt holds it


FEW = 3  # near misses of the likely sort below which unlikely ones are made too


# Near misses of each kind that a text gets, at least and at most, and about how many in all.
EACH = (2, 12)
IN_ALL = 12_000


# Share of like subjects that a template must be asked of: Georgia is a state and a country.
LIKELY = 0.05


class NearMisses(NamedTuple):
    """Of one edit."""

    template: dict[str, str]  # the same template as its prompt or a key of it: text, its subject
    subject: tuple[str, ...]  # the same subject, other templates


class Miss(NamedTuple):
    """A prompt that no edit may answer, but for the one whose own it is."""

    text: str
    edit: int = NOBODY  # place of the edit whose prompt it is
    subject: int = NOBODY  # number of the subject it was made with: it may be its paraphrase


def misses(edits: Sequence[Edit]) -> list[Miss]:
    """Near misses of every edit, and the edits' own prompts; each text once.

    No key is a miss: keys that were made of a prompt would only count it several times.
    """
    pool = Pool(edits)
    number = {str(e.subject): i for e, i in zip(edits, subjects(edits), strict=True)}
    count = min(max(IN_ALL // max(len(edits), 1), EACH[0]), EACH[1])
    found: dict[str, Miss] = {}
    for edit in edits:
        near = pool.of(edit, count)
        found |= {text: Miss(text, subject=number[name]) for text, name in near.template.items()}
        found |= {text: Miss(text, subject=number[str(edit.subject)]) for text in near.subject}
    for edit in edits:
        for key in edit.keys:
            found.pop(key, None)
    found |= {edit.prompt: Miss(edit.prompt, edit=i) for i, edit in enumerate(edits)}
    return list(found.values())


def subjects(edits: Sequence[Edit]) -> list[int]:
    """Number of each edit's subject: place of the first edit that names it, else its own."""
    first: dict[str, int] = {}
    return [
        i if edit.subject is None else first.setdefault(edit.subject, i)
        for i, edit in enumerate(edits)
    ]


def template(text: str, subject: str | None) -> str | None:
    """The text with a hole for its subject; None where the subject is unknown or not in it."""
    if not subject:
        return None
    found = subject if subject in text else _capital(subject)
    return text.replace(found, HOLE) if found in text else None


class Pool:
    """Subjects and templates of many edits, to make near misses from.

    Likely near misses come first: subjects that are asked about in the same template, templates
    that are asked of like subjects. Others ("The capital of gold is") only where those are few.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._subjects: dict[str, set[str]] = {}  # by template
        self._templates: dict[str, set[str]] = {}  # by subject
        for edit in edits:
            shape, subject = template(edit.prompt, edit.subject), str(edit.subject)
            if shape is not None:
                self._subjects.setdefault(shape, set()).add(subject)
                self._templates.setdefault(subject, set()).add(shape)

    def of(self, edit: Edit, count: int) -> NearMisses:
        """Up to `count` near misses of each kind; the same for the same edit and the same pool.

        A key gets as many of its own template as the prompt does.
        """
        shape, own = template(edit.prompt, edit.subject), str(edit.subject)
        if shape is None:
            return NearMisses({}, ())
        chosen = random.Random(edit.prompt)
        like = self._subjects.get(shape, set()) | {own}
        others = _some(like - {own}, self._templates.keys() - {own}, count, chosen)
        asked = Counter(t for other in like for t in self._templates.get(other, ()))
        near = {t for t, times in asked.items() if times >= LIKELY * len(like)}
        shapes = _some(near - {shape}, self._subjects.keys() - {shape}, count, chosen)
        keys = [key for text in edit.keys if (key := template(text, own)) is not None]
        return NearMisses(
            {_filled(t, other): other for t in (shape, *keys) for other in others},
            tuple(_filled(t, own) for t in shapes),
        )


def _some(
    likely: AbstractSet[str], any_: AbstractSet[str], count: int, chosen: random.Random
) -> list[str]:
    found = chosen.sample(sorted(likely), min(count, len(likely)))
    rest = sorted(any_ - likely)
    return found + chosen.sample(rest, min(max(min(count, FEW) - len(found), 0), len(rest)))


def _filled(shape: str, subject: str) -> str:
    return shape.replace(HOLE, _capital(subject) if shape.startswith(HOLE) else subject)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
