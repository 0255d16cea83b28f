"""What an edit's prompt asks: its subject, the kind of subject, and the relation if it is known.

Two things are compared with what the relations' files hold: the prompt with its subject masked,
with the phrasings masked in the same way; and the subject, with subjects of each kind. A kind fits
as well as its three nearest phrasings and its three nearest subjects do.

    index = Index(relations, router)
    [reading] = index.read(["The capital of France is"], ["France"])
    reading.relation.id, reading.kinds[0]       # country.capital, country
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memoir_edge import cache
from memoir_edge.relations import Relation, fill
from memoir_edge.router.encoder import Router
from memoir_edge.router.subjects import subjects
from memoir_edge.tophash import Bytes, Floats, overlap

MASK = "something"
NEAREST = 3
SUBJECT_WEIGHT = 4.0  # a subject tells its kind better than a phrasing does
RECOGNISED = 0.75  # overlap from which a phrasing's relation is the prompt's own
APART = 0.02  # by which the next relation must be farther
UNSURE = 0.65  # overlap from which a relation may be the prompt's own
LONGEST = 6  # words of a subject that is looked for


@dataclass(frozen=True)
class Reading:
    """What a prompt asks, as far as it is known."""

    subject: str | None
    relation: Relation | None
    alike: frozenset[str]  # ids of relations that may be the prompt's own
    kinds: tuple[str, ...]  # of the subject, the likeliest first
    score: float  # how well the likeliest fits


class Index:
    """The phrasings of relations and the subjects of kinds, as codes.

    Args:
        relations: What may be asked.
        router: Makes the codes.
    """

    def __init__(self, relations: Sequence[Relation], router: Router) -> None:
        self.router = router
        asked = [(relation, phrasing) for relation in relations for phrasing in relation.phrasings]
        named = [(kind, name) for kind, names in subjects().items() for name in names]
        self._relations = [relation for relation, _ in asked]
        self._templates = _remembered(router, [fill(phrasing, MASK) for _, phrasing in asked])
        self._names = _remembered(router, [name for _, name in named])
        self.kinds = tuple(dict.fromkeys([*(r.kind for r in relations), *subjects()]))
        self._kind_of_template = np.array([self.kinds.index(r.kind) for r in self._relations])
        known = {kind: i for i, kind in enumerate(self.kinds)}
        self._kind_of_name = np.array([known.get(kind, -1) for kind, _ in named])

    def read(self, prompts: Sequence[str], names: Sequence[str | None]) -> list[Reading]:
        """Read prompts whose subjects are given; one without a subject is read as a whole."""
        named = [name or "" for name in names]
        masked = [mask_subject(prompt, name) for prompt, name in zip(prompts, named, strict=True)]
        templates = self._near(self.router.codes(masked), self._templates)
        subject = self._near(self.router.codes(named), self._names)
        return [self._one(names[i], templates[i], subject[i]) for i in range(len(prompts))]

    def find_subject(self, prompt: str) -> str | None:
        """The span that, taken for the subject, makes the best reading."""
        spans = candidates(prompt)
        if not spans:
            return None
        readings = self.read([prompt] * len(spans), spans)
        return max(readings, key=lambda reading: reading.score).subject

    def _near(self, codes: Bytes, known: Bytes) -> Floats:
        return overlap(codes, known, self.router.weight)

    def _one(self, name: str | None, templates: Floats, names: Floats) -> Reading:
        fits = _nearest(templates, self._kind_of_template, len(self.kinds))
        if name:
            fits += SUBJECT_WEIGHT * _nearest(names, self._kind_of_name, len(self.kinds))
        order = np.argsort(-fits, kind="stable")
        kinds = [self.kinds[i] for i in order]
        best = self._best(templates)
        of_kind = {r: R for r, R in best.items() if r.kind == kinds[0]}
        relation = _recognised(of_kind)
        alike = {r.id for r, R in best.items() if R >= UNSURE}
        if relation is None and of_kind:
            alike.add(max(of_kind, key=lambda r: of_kind[r]).id)
        return Reading(name, relation, frozenset(alike), tuple(kinds), float(fits[order[0]]))

    def _best(self, templates: Floats) -> dict[Relation, float]:
        """Overlap with each relation's nearest phrasing."""
        best: dict[Relation, float] = {}
        for relation, R in zip(self._relations, templates.tolist(), strict=True):
            best[relation] = max(R, best.get(relation, 0.0))
        return best


def _remembered(router: Router, texts: Sequence[str]) -> Bytes:
    """Codes that are the same every time, kept in the cache: some seconds of an encoder."""
    name = hashlib.sha256("\0".join([router.digest, *texts]).encode()).hexdigest()[:32]

    def fill_(folder: Path) -> None:
        np.save(folder / "codes.npy", router.codes(texts))

    place = cache.made(cache.folder() / "codes" / name, fill_)
    return np.asarray(np.load(place / "codes.npy"), np.uint8)


def _recognised(best: dict[Relation, float]) -> Relation | None:
    """The nearest relation, if it is near and none else is about as near."""
    first, second = sorted([*best.values(), 0.0, 0.0], reverse=True)[:2]
    if first < RECOGNISED or first - second < APART:
        return None
    return max(best, key=lambda relation: best[relation])


def _nearest(overlaps: Floats, kind: np.ndarray, count: int) -> Floats:
    """Mean of the largest overlaps of each kind, `[count]`."""
    found = np.zeros(count, np.float32)
    for i in range(count):
        mine = np.sort(overlaps[kind == i])[-NEAREST:]
        found[i] = mine.mean() if len(mine) else 0
    return found


def mask_subject(prompt: str, name: str) -> str:
    """The prompt with its subject masked; as it is where the subject is not in it."""
    place = prompt.lower().find(name.lower()) if name else -1
    if place < 0:
        return prompt
    return prompt[:place] + MASK + prompt[place + len(name) :]


def candidates(prompt: str) -> list[str]:
    """Spans of words that may be the subject: those with a capital or a digit, else any."""
    words = list(re.finditer(r"[\w&.'’/-]*\w", prompt))
    spans = [
        (words[i].start(), words[j].end())
        for i in range(len(words))
        for j in range(i, min(i + LONGEST, len(words)))
    ]
    texts = [re.sub(r"['’]s?$", "", prompt[a:b]) for a, b in spans if not _broken(prompt[a:b])]
    telling = [t for t in texts if _telling(t[1:] if prompt.startswith(t) else t)]
    return list(dict.fromkeys(telling or texts))


def _broken(span: str) -> bool:
    return bool(re.search(r"[?:;,!]\s", span))


def _telling(span: str) -> bool:
    return any(c.isupper() or c.isdigit() for c in span)
