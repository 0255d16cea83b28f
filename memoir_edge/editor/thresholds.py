"""Keys and thresholds where a router's codes are the keys."""

from collections.abc import Sequence

import numpy as np

from memoir_edge.edits import Edit
from memoir_edge.history.events import Tabled
from memoir_edge.router import Asked, Router, tabulate
from memoir_edge.router.table import BOUND, Known
from memoir_edge.router.table import GUARD as NO_EDIT
from memoir_edge.settings import Settings


def tabled(
    edits: Sequence[Edit],
    asked: Sequence[Asked],
    router: Router,
    settings: Settings,
    known: Known,
) -> Tabled:
    """The keys and guards of edits, where a router's codes are the keys, and their thresholds.

    Args:
        edits: All that the memory holds; one that brought its own threshold keeps it.
        asked: What is asked of each of them.
        router: Makes the codes.
        settings: With a bound of 0 for false fires, one threshold for all.
        known: Codes `[P/8]` of texts that the memory holds.
    """
    table = tabulate(asked, router, settings.false_fires or BOUND, known)
    guard = (table.owner == NO_EDIT).astype(np.uint8)
    limits = table.thresholds.copy()
    if not settings.false_fires:
        limits[:] = settings.threshold
    for row, place in enumerate(table.edit):
        own = edits[place].threshold
        if own is not None and not guard[row]:
            limits[row] = own
    ids = [edit.id for edit in edits]
    return Tabled(ids, list(table.texts), table.codes, table.edit, guard, limits)
