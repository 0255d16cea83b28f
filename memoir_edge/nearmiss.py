"""Near misses: prompts that look like an edit's and must not reach it, made from the edits alone.

Knows nothing of models. Where records name their subject there are two kinds: the same template
with another subject ("The capital of Spain is"), and another edit's template with the same subject
("The currency of France is"). The prompts of other edits are misses too. The fields that a record
holds for evaluation are never read here. Beside them are unrelated prompts, about anything.
"""

import random
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from importlib import resources
from typing import NamedTuple

from memoir_edge.calibrate import NOBODY
from memoir_edge.edits import Edit, plain_name

HOLE = "\0"  # where a template's subject stands; a text that holds it makes none


FEW = 3  # where there are fewer likely near misses, unlikely ones are made too

# How many near misses of each kind an edit gets, at least and at most, and about how many all get.
EACH = (2, 12)
IN_ALL = 12_000

# A template suits a subject if it is asked of this share of the subjects alike. One alone would not
# do: Georgia is a state and a country, so "The governor of" would suit every country.
LIKELY = 0.05


def unrelated_prompts() -> list[str]:
    """About a hundred everyday prompts that the routing feature is centred on."""
    text = resources.files("memoir_edge").joinpath("unrelated.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line]


class NearMisses(NamedTuple):
    """The near misses of one edit."""

    template: dict[str, str]  # text to subject: the template of the prompt or a key, other subjects
    subject: tuple[str, ...]  # texts: the same subject, other templates


class Miss(NamedTuple):
    """A prompt that only the edit whose own it is may answer, if there is one."""

    text: str
    edit: int = NOBODY  # place of the edit whose own prompt this is
    subject: int = NOBODY  # number of its subject; it may paraphrase another edit about that


def misses(edits: Sequence[Edit]) -> list[Miss]:
    """The near misses of all edits, and the edits' own prompts; each text once.

    Further keys are no misses: many are made from a prompt, and would count it several times.
    """
    pool = Pool(edits)
    number = {plain_name(e.subject): i for e, i in zip(edits, subjects(edits), strict=True)}
    count = min(max(IN_ALL // max(len(edits), 1), EACH[0]), EACH[1])
    found: dict[str, Miss] = {}
    for edit in edits:
        near = pool.of(edit, count)
        found |= {
            text: Miss(text, subject=number[plain_name(name)])
            for text, name in near.template.items()
        }
        found |= {
            text: Miss(text, subject=number[plain_name(edit.subject)]) for text in near.subject
        }
    for edit in edits:
        for key in edit.keys:
            found.pop(key, None)
    found |= {edit.prompt: Miss(edit.prompt, edit=i) for i, edit in enumerate(edits)}
    return list(found.values())


def subjects(edits: Sequence[Edit]) -> list[int]:
    """A number for each edit's subject: the place of the first edit that names it.

    An edit that names none has a number of its own.

    >>> from memoir_edge.edits import from_record
    >>> asked = {"prompt": "The Nile is in", "target": "Asia"}
    >>> subjects([from_record(asked | {"subject": name}) for name in ("Nile", None, "the Nile")])
    [0, 1, 0]
    """
    first: dict[str, int] = {}
    return [
        i if edit.subject is None else first.setdefault(plain_name(edit.subject), i)
        for i, edit in enumerate(edits)
    ]


def template(text: str, subject: str | None) -> str | None:
    """The text with `HOLE` for its subject; None where the subject is unknown or not in it.

    >>> str(template("The capital of France is", "France")).replace(HOLE, "{}")
    'The capital of {} is'
    """
    if not subject or HOLE in text:
        return None
    found = subject if subject in text else _capital(subject)
    return text.replace(found, HOLE) if found in text else None


class Pool:
    """Subjects and templates of many edits, to make near misses from.

    Likely near misses come first: those of subjects that other edits put into the same template,
    and of templates that other edits fill with such subjects. Unlikely ones ("The capital of gold
    is") are made only where there are few of those. A subject is written as the first edit does.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._written: dict[str, str] = {}  # by the plain name
        self._subjects: dict[str, set[str]] = {}  # by template
        self._templates: dict[str, set[str]] = {}  # by subject
        for edit in edits:
            shape = template(edit.prompt, edit.subject)
            if shape is not None:
                subject = self._written.setdefault(plain_name(edit.subject), str(edit.subject))
                self._subjects.setdefault(shape, set()).add(subject)
                self._templates.setdefault(subject, set()).add(shape)

    def of(self, edit: Edit, count: int) -> NearMisses:
        """Up to `count` near misses of each kind, the same ones each time.

        The templates of further keys are filled as well, each with the same other subjects.
        """
        shape = template(edit.prompt, edit.subject)
        if shape is None:
            return NearMisses({}, ())
        own = self._written.get(plain_name(edit.subject), str(edit.subject))
        chosen = random.Random(edit.prompt)
        like = self._subjects.get(shape, set()) | {own}
        others = _likely_first(like - {own}, self._templates.keys() - {own}, count, chosen)
        asked = Counter(t for other in like for t in self._templates.get(other, ()))
        near = {t for t, times in asked.items() if times >= LIKELY * len(like)}
        shapes = _likely_first(near - {shape}, self._subjects.keys() - {shape}, count, chosen)
        keys = [key for text in edit.keys if (key := template(text, edit.subject)) is not None]
        return NearMisses(
            {_filled(t, other): other for t in (shape, *keys) for other in others},
            tuple(_filled(t, own) for t in shapes),
        )


def _likely_first(
    likely: AbstractSet[str], any_: AbstractSet[str], count: int, chosen: random.Random
) -> list[str]:
    found = chosen.sample(sorted(likely), min(count, len(likely)))
    rest = sorted(any_ - likely)
    return found + chosen.sample(rest, min(max(min(count, FEW) - len(found), 0), len(rest)))


def _filled(shape: str, subject: str) -> str:
    return shape.replace(HOLE, _capital(subject) if shape.startswith(HOLE) else subject)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
