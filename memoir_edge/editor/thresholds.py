"""Keys and thresholds where a router's codes are the keys."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from memoir_edge import __version__
from memoir_edge.edits import Edit
from memoir_edge.history.events import Measured, Tabled
from memoir_edge.relations import Relation
from memoir_edge.router import Asked, Router, tabulate
from memoir_edge.router.table import BOUND, Known, taken_in
from memoir_edge.router.table import GUARD as NO_EDIT
from memoir_edge.router.thresholds import FORMULA, Level
from memoir_edge.settings import Settings

GROWN = 0.1  # share of new edits up to which what thresholds were measured by stands


def rules(settings: Settings, relations: Sequence[Relation]) -> str:
    """A digest of what thresholds follow from, beside the edits and the router."""
    known = [(relation.id, relation.phrasings, relation.answers) for relation in relations]
    told = json.dumps([__version__, FORMULA, settings.false_fires, settings.threshold, known])
    return hashlib.sha256(told.encode()).hexdigest()


def stands(measured: Measured | None, since: int, rules: str) -> bool:
    """Whether thresholds of new edits may be as they were measured when there were none.

    So one more edit costs as much as it is, and a thousand, made one by one, are measured a few
    dozen times.

    Args:
        measured: When that was done last.
        since: Edits made since then, those of now included.
        rules: What they would follow from now.
    """
    return measured is not None and measured.rules == rules and since <= GROWN * measured.edits


def tabled(
    edits: Sequence[Edit],
    asked: Sequence[Asked],
    router: Router,
    settings: Settings,
    known: Known,
    rules: str,
    measured: Measured | None = None,
) -> Tabled:
    """The keys and guards of edits, where a router's codes are the keys, and their thresholds.

    Args:
        edits: All that the memory holds, or some; one that brought its own threshold keeps it.
        asked: What is asked of each of them.
        router: Makes the codes.
        settings: With a bound of 0 for false fires, one threshold for all.
        known: Codes `[P/8]` of texts that the memory holds.
        rules: What the thresholds follow from.
        measured: By what they were measured, where these are some; default: they are, now.
    """
    if measured is None:
        table = tabulate(asked, router, settings.false_fires or BOUND, known)
        level = table.level
        now = Measured(len(edits), **level._asdict(), rules=rules) if level else None
    else:
        level = Level(measured.above, measured.near, measured.near_name)
        table = taken_in(asked, router, level, known)
        now = None
    guard = (table.owner == NO_EDIT).astype(np.uint8)
    limits = table.thresholds.copy()
    if not settings.false_fires:
        limits[:] = settings.threshold
    for row, place in enumerate(table.edit):
        own = edits[place].threshold
        if own is not None and not guard[row]:
            limits[row] = own
    ids = [edit.id for edit in edits]
    return Tabled(ids, list(table.texts), table.codes, table.edit, guard, limits, now)
