"""What an edit's prompt asks: its subject, the kind of subject, and the relation if it is known.

Two things are compared with what the relations' files hold: the prompt with its subject masked,
with the phrasings masked in the same way; and the subject, with subjects of each kind. A kind fits
as well as its nearest phrasings and subjects do. Within the likeliest kind the prompt is compared
with the phrasings once more, both asked of the same few subjects: what one name adds to an
embedding, the others do not. Some phrasings are near to much that is asked, and count for less (as
hubs do in nearest-neighbour search). What the prompt is to be answered by tells, too: a date, a
city, a person. A relation that does not say "former" or "deputy" is none of a prompt that does.

    index = Index(relations, router)
    [reading] = index.read(["The capital of France is"], ["France"], ["Lyon"])
    reading.relation.id, reading.kinds[0]       # country.capital, country
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from memoir_edge import cache
from memoir_edge.edits import plain_name
from memoir_edge.relations import Relation, answers, fill
from memoir_edge.router.encoder import Router
from memoir_edge.router.names import candidates, put, speaks
from memoir_edge.router.subjects import subjects
from memoir_edge.tophash import Bytes, Floats, overlap

MASK = "something"
NEAREST = 3  # phrasings of a kind that tell how well it fits
NAMES = 6  # subjects of a kind that do
SUBJECT_WEIGHT = 3.0  # a subject tells its kind better than a phrasing does
TYPICAL = 3  # subjects of a kind that phrasings are compared by, beside the mask
CROWD = 5  # phrasings of other relations that tell how near to much a phrasing is
CROWD_WEIGHT = 0.75
CROWDED = 0.72  # how near they are, about: for kinds with fewer phrasings than tell it
ALIKE = 2  # answers of a sort that tell how well one fits
ANSWER_WEIGHT = 0.8  # of how much better an answer fits a relation than others of its kind
RECOGNISED = 0.23  # score from which a phrasing's relation is the prompt's own
UNSURE = 0.10  # score from which a relation may be the prompt's own
# Words that make another fact of one: who the former CEO is does not tell who the CEO is.
_OTHER = re.compile(
    r"(?<!\w)(?:former|previous|ex|deputy|vice|assistant|honorary)(?!\w)", re.IGNORECASE
)


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
        self._asked = [
            _remembered(router, [fill(phrasing, typical(r.kind)[i]) for r, phrasing in asked])
            for i in range(1 + TYPICAL)
        ]
        self._names = _remembered(router, [name for _, name in named])
        self.kinds = tuple(dict.fromkeys([*(r.kind for r in relations), *subjects()]))
        self._kind = np.array([self.kinds.index(r.kind) for r in self._relations], np.int64)
        self._kind_of_name = np.array([self.kinds.index(kind) for kind, _ in named])
        self._crowd = self._crowds()
        told = [(sort, answer) for sort, some in answers().items() for answer in some]
        self._answers = _remembered(router, [answer for _, answer in told])
        self.sorts = tuple(answers())
        self._sort = np.array([self.sorts.index(sort) for sort, _ in told])

    def read(
        self, prompts: Sequence[str], names: Sequence[str | None], targets: Sequence[str]
    ) -> list[Reading]:
        """Read prompts whose subjects are given; one without a subject is read as a whole.

        What each is to be answered by tells its relation; where that is nothing, the prompt alone.

        One subject may be a product in one prompt and a service in another. So a prompt's relation
        is looked for among those of each kind that a prompt of its subject is read as. The kind of
        one that is recognised is then the likeliest; of a subject's other prompts, that which
        most of those are of.
        """
        kinds, fits, masked = self._fits(prompts, names)
        together: dict[str, dict[str, None]] = {}
        for name, of in zip(names, kinds, strict=True):
            together.setdefault(plain_name(name), {})[of[0]] = None
        found: list[dict[Relation, float]] = [{} for _ in prompts]
        asked = [
            (i, kind)
            for i, (name, of) in enumerate(zip(names, kinds, strict=True))
            for kind in (together[plain_name(name)] if name else of[:1])
            if not speaks(prompts[i], name)
        ]
        others = self.router.codes(
            [
                put(prompts[i], names[i] or "", other)
                for i, kind in asked
                for other in typical(kind)[1:]
            ]
        ).reshape(len(asked), TYPICAL, masked.shape[1])
        codes = np.concatenate([masked[[i for i, _ in asked], None], others], axis=1)
        likeness = self._likeness(targets)
        for (i, kind), code in zip(asked, codes, strict=True):
            said = put(prompts[i], names[i] or "", MASK)
            found[i] |= _possible(said, self._scores(kind, code, likeness[i]))
        return _agreed(
            [
                _reading(name, tuple(of), float(fit), scores)
                for name, of, fit, scores in zip(names, kinds, fits, found, strict=True)
            ]
        )

    def find_subject(self, prompt: str) -> str | None:
        """The span that, taken for the subject, makes the best reading."""
        spans = candidates(prompt)
        if not spans:
            return None
        _, fits, _ = self._fits([prompt] * len(spans), spans)
        return spans[int(np.argmax(fits))]

    def _fits(
        self, prompts: Sequence[str], names: Sequence[str | None]
    ) -> tuple[list[list[str]], Floats, Bytes]:
        """Kinds of each subject, the likeliest first, how well that one fits, and masked prompts.

        Returns:
            Kinds of each, their fit `[n]`, and the codes of the masked prompts `[n, b]`.
        """
        named = [name or "" for name in names]
        masked = [put(prompt, name, MASK) for prompt, name in zip(prompts, named, strict=True)]
        codes, own = np.split(self.router.codes([*masked, *named]), 2)
        templates, subject = self._near(codes, self._asked[0]), self._near(own, self._names)
        kinds, best = [], np.zeros(len(prompts), np.float32)
        for i, name in enumerate(named):
            fits = _nearest(templates[i], self._kind, len(self.kinds), NEAREST)
            if name:
                near = _nearest(subject[i], self._kind_of_name, len(self.kinds), NAMES)
                # Of a kind that somebody's own relations are about no subjects are known.
                own = near == 0
                near[own] = near.max()
                asked = _nearest(templates[i], self._kind, len(self.kinds), of=1) == 1
                if any(own & asked):  # in their words: of kinds asked in just these the name tells
                    fits[asked] = 1
                fits += SUBJECT_WEIGHT * near
            kinds.append([self.kinds[k] for k in np.argsort(-fits, kind="stable")])
            best[i] = fits.max()
        return kinds, best, codes

    def _near(self, codes: Bytes, known: Bytes) -> Floats:
        return overlap(codes, known, self.router.weight)

    def _likeness(self, targets: Sequence[str]) -> Floats:
        """How well each answer fits each sort of answers, `[n, sorts]`; an empty one fits none."""
        near = self._near(self.router.codes(targets), self._answers)
        fits = np.array([_nearest(row, self._sort, len(self.sorts), ALIKE) for row in near])
        return fits * np.array([[bool(target.strip())] for target in targets], np.float32)

    def _scores(self, kind: str, codes: Bytes, likeness: Floats) -> dict[Relation, float]:
        """How near a prompt is to each relation of a kind.

        Args:
            kind: Of subject.
            codes: `[1 + TYPICAL, b]` of the prompt, asked of each of the kind's `typical`.
            likeness: `[sorts]` how well its answer fits each sort.
        """
        mine = np.flatnonzero(self._kind == self.kinds.index(kind))
        near = [self._near(codes[i : i + 1], known[mine]) for i, known in enumerate(self._asked)]
        scores = np.mean(near, axis=0)[0] - CROWD_WEIGHT * self._crowd[mine]
        best: dict[Relation, float] = {}
        for i, score in zip(mine, scores.tolist(), strict=True):
            relation = self._relations[i]
            best[relation] = max(score, best.get(relation, score))
        fits = {
            relation: max(float(likeness[self.sorts.index(sort)]) for sort in relation.answers)
            for relation in best
            if relation.answers
        }
        usual = sum(fits.values()) / max(len(fits), 1)
        for relation, fit in fits.items():
            best[relation] += ANSWER_WEIGHT * (fit - usual)
        return best

    def _crowds(self) -> Floats:
        """Mean overlap of each phrasing with the `CROWD` nearest of its kind's other relations."""
        found = np.zeros(len(self._relations), np.float32)
        ids = np.array([relation.id for relation in self._relations])
        for kind in range(len(self.kinds)):
            mine = np.flatnonzero(self._kind == kind)
            R = np.mean([self._near(known[mine], known[mine]) for known in self._asked], axis=0)
            for i, row in zip(mine, R, strict=True):
                others = np.sort(row[ids[mine] != ids[i]])[-CROWD:]
                found[i] = others.mean() if len(others) == CROWD else CROWDED
        return found


def _possible(prompt: str, scores: dict[Relation, float]) -> dict[Relation, float]:
    """The relations that say all that makes what a prompt asks another fact."""
    said = _others(prompt)
    return {r: score for r, score in scores.items() if said <= _others(*r.phrasings)}


def _others(*texts: str) -> set[str]:
    return {word.lower() for text in texts for word in _OTHER.findall(text)}


def _reading(
    name: str | None, kinds: tuple[str, ...], fit: float, scores: dict[Relation, float]
) -> Reading:
    nearest = max(scores, key=lambda relation: scores[relation], default=None)
    known = nearest if nearest and scores[nearest] >= RECOGNISED else None
    bar = RECOGNISED if known else UNSURE
    alike = frozenset(r.id for r, score in scores.items() if r is nearest or score >= bar)
    return Reading(name, known, alike, kinds, fit)


def _agreed(readings: Sequence[Reading]) -> list[Reading]:
    """Readings whose likeliest kind is what is recognised of their subject."""
    known: dict[str, Counter[str]] = {}
    for one in readings:
        if one.relation:
            known.setdefault(plain_name(one.subject), Counter())[one.relation.kind] += 1
    found = []
    for one in readings:
        others = known.get(plain_name(one.subject)) if one.subject else None
        first = one.relation.kind if one.relation else others.most_common(1)[0][0] if others else ""
        found.append(replace(one, kinds=tuple(dict.fromkeys([first or one.kinds[0], *one.kinds]))))
    return found


def _remembered(router: Router, texts: Sequence[str]) -> Bytes:
    """Codes that are the same every time, kept in the cache: some seconds of an encoder."""
    name = hashlib.sha256("\0".join([router.digest, *texts]).encode()).hexdigest()[:32]

    def fill_(folder: Path) -> None:
        np.save(folder / "codes.npy", router.codes(texts))

    place = cache.made(cache.folder() / "codes" / name, fill_)
    return np.asarray(np.load(place / "codes.npy"), np.uint8)


def typical(kind: str) -> tuple[str, ...]:
    """What phrasings of a kind are asked of to be compared: the mask, then subjects of the kind."""
    names = subjects().get(kind, [])[:TYPICAL]
    return (MASK, *names, *[MASK] * (TYPICAL - len(names)))


def _nearest(overlaps: Floats, kind: np.ndarray, count: int, of: int) -> Floats:
    """Mean of the largest overlaps of each kind, `[count]`."""
    found = np.zeros(count, np.float32)
    for i in range(count):
        mine = np.sort(overlaps[kind == i])[-of:]
        found[i] = mine.mean() if len(mine) else 0
    return found
