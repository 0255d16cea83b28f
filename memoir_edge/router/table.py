"""The table that a prompt's code is looked up in: keys and guards with their thresholds.

    asked = asks(edits, relations, router)
    table = tabulate(asked, router)
    tophash.route(router.codes(["What is France's capital?"]), np.zeros(1), table.codes,
                  table.owner, table.thresholds, router.weight)

Rows stand edit by edit, the prompt's own key first and guards last. A later row wins among equals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memoir_edge.edits import plain_name
from memoir_edge.relations import name_of
from memoir_edge.router.asks import Asked
from memoir_edge.router.encoder import Router
from memoir_edge.router.thresholds import (
    HIGHEST,
    NOBODY,
    Keys,
    Level,
    Misses,
    level_of,
    thresholds,
)
from memoir_edge.tophash import Bytes, Floats
from memoir_edge.views import bare

BOUND = 0.01  # share of near misses that may fire
GUARD = -1  # owner
Known = Mapping[str, Bytes]  # codes by text
NOTHING: Known = MappingProxyType({})


@dataclass(frozen=True)
class Table:
    """Rows of keys and guards."""

    texts: tuple[str, ...]  # [R]
    codes: Bytes  # [R, P/8]
    owner: NDArray[np.int32]  # [R] place of the key's edit, `GUARD` for a guard
    edit: NDArray[np.int32]  # [R] place of the edit that the row was made for
    thresholds: Floats  # [R]
    level: Level | None = None  # that near misses ask for; None: there were none


class Coded(NamedTuple):
    """What is asked of edits, as codes."""

    texts: tuple[str, ...]  # [R] of keys and guards
    keys: Keys
    misses: Misses

    def only(self, rows: NDArray[np.bool_]) -> "Coded":
        """Some of the rows, with all misses."""
        texts = tuple(text for text, kept in zip(self.texts, rows, strict=True) if kept)
        return self._replace(texts=texts, keys=Keys._make(column[rows] for column in self.keys))


def tabulate(
    asked: Sequence[Asked], router: Router, bound: float = BOUND, known: Known = NOTHING
) -> Table:
    """Keys and guards of edits, and their thresholds; none is measured without any near miss.

    Args:
        asked: What is asked of each edit, as `memoir_edge.router.asks.asks` gives it.
        router: Makes the codes.
        bound: Share of near misses that may fire.
        known: Codes that the router made before.
    """
    return limited(coded(asked, router, known), router.weight, bound)


def taken_in(asked: Sequence[Asked], router: Router, level: Level, known: Known = NOTHING) -> Table:
    """The same by what near misses asked for before, so that none is looked up."""
    made = coded([replace(one, misses=()) for one in asked], router, known)
    return _table(made, thresholds(made.keys, router.weight, level), level)


def coded(asked: Sequence[Asked], router: Router, known: Known = NOTHING) -> Coded:
    """Keys, guards and near misses of edits as codes, their names as numbers."""
    read = [one.reading.relation for one in asked]
    own = [relation.id if relation else None for relation in read]
    rows = [
        (text, i, relation, guard)
        for i, one in enumerate(asked)
        for text, relation, guard in [
            *((key, own[i], 0) for key in one.keys),
            *((guard.text, guard.relation, 1) for guard in one.guards),
        ]
    ]
    subjects, relations = _Numbers(plain_name), _Numbers(name_of)
    texts = tuple(text for text, *_ in rows)
    held = _codes(texts, router, known)
    keys = Keys(
        held,
        np.array([i for _, i, *_ in rows]),
        np.array([subjects.of(asked[i].reading.subject) for _, i, *_ in rows]),
        np.array([relations.of(relation) for *_, relation, _ in rows]),
        np.array([guard for *_, guard in rows]),
        _near_names(held, [asked[i].reading.subject for _, i, *_ in rows], router),
    )
    near = [(miss, i) for i, one in enumerate(asked) for miss in one.misses]
    misses = Misses(
        _codes([miss.text for miss, _ in near], router, known),
        np.array([i for _, i in near]),
        np.array([subjects.of(miss.subject) for miss, _ in near]),
        np.array([relations.of(miss.relation or own[i]) for miss, i in near]),
    )
    return Coded(texts, keys, misses)


def limited(coded: Coded, weight: int, bound: float) -> Table:
    """Keys and guards with their thresholds."""
    if not len(coded.misses.codes):
        return _table(coded, np.full(len(coded.texts), HIGHEST, np.float32), None)
    found = level_of(coded.keys, coded.misses, weight, bound)
    return _table(coded, thresholds(coded.keys, weight, found), found)


def _table(coded: Coded, limits: Floats, level: Level | None) -> Table:
    texts, keys, _ = coded
    edit = keys.edit.astype(np.int32)
    owner = np.where(keys.guard == 1, np.int32(GUARD), edit)
    return Table(texts, keys.codes, owner, edit, limits, level)


def _codes(texts: Sequence[str], router: Router, known: Known) -> Bytes:
    """Packed codes `[n, P/8]`; what is not known is read once."""
    new = [text for text in dict.fromkeys(texts) if text not in known]
    found = {**known, **dict(zip(new, router.codes([bare(text) for text in new]), strict=True))}
    return np.array([found[text] for text in texts], np.uint8).reshape(-1, router.bits // 8)


def _near_names(codes: Bytes, subjects: Sequence[str | None], router: Router) -> Floats:
    """Overlap `[R]` of each text with its subject's name; not a number where that is unknown."""
    found = np.full(len(codes), np.nan, np.float32)
    named = [(i, subject) for i, subject in enumerate(subjects) if subject]
    if named:
        rows = [i for i, _ in named]
        shared = codes[rows] & router.codes([subject for _, subject in named])
        found[rows] = np.bitwise_count(shared).sum(axis=1) / router.weight
    return found


class _Numbers:
    """Numbers in place of names; those that mean the same, as `plain` spells them, share one."""

    def __init__(self, plain: Callable[[str], str]) -> None:
        self._plain, self._known = plain, dict[str, int]()

    def of(self, name: str | None) -> int:
        if name is None:
            return NOBODY
        return self._known.setdefault(self._plain(name), len(self._known))
