"""Keys and thresholds of a bank, from near misses that are made of its edits."""

from collections.abc import Callable, Sequence

import numpy as np

from memoir_edge.calibrate import UNKNOWN, Keys, Misses, thresholds
from memoir_edge.editor.prompts import unrelated_prompts
from memoir_edge.edits import Edit
from memoir_edge.history.bank import Bank
from memoir_edge.history.events import Tabled
from memoir_edge.nearmiss import misses as near_misses
from memoir_edge.nearmiss import subjects
from memoir_edge.router import Asked, Router, tabulate
from memoir_edge.router.table import BOUND
from memoir_edge.router.table import GUARD as NO_EDIT
from memoir_edge.settings import Settings
from memoir_edge.tophash import GUARD, Bytes, Floats

Hashed = Callable[[Sequence[str]], Bytes]  # packed masks [n, ceil(D/8)] of n texts


def calibrated(bank: Bank, edits: Sequence[Edit], hashed: Hashed, bound: float) -> Floats | None:
    """The threshold that its near misses ask for, of each key (memoir_edge.calibrate).

    Args:
        bank: The keys.
        edits: Those that the bank holds; one that brought its own threshold keeps it.
        hashed: Gives the masks of texts.
        bound: Share of near misses that may reach an edit.

    Returns:
        `[R]`; None where too few records name their subject to make near misses from.
    """
    near = near_misses(edits)
    met = Misses(
        hashed([miss.text for miss in near]),
        np.array([miss.edit for miss in near]),
        np.array([miss.subject for miss in near]),
    )
    found = thresholds(_keys(bank, edits), bank.k, met, hashed(unrelated_prompts()), bound)
    if found is None:
        return None
    own = {edit.id: edit.threshold for edit in edits if edit.threshold is not None}
    for row, key in enumerate(bank.keys):
        if key.edit in own:
            found[row] = own[key.edit]
    return found


def _keys(bank: Bank, edits: Sequence[Edit]) -> Keys:
    place = {edit.id: i for i, edit in enumerate(edits)}
    owner = [GUARD if k.edit is None else place.get(k.edit, UNKNOWN) for k in bank.keys]
    of = subjects(edits)
    about = [of[i] if i >= 0 else UNKNOWN for i in owner]
    return Keys(bank.packed(), np.array(owner), np.array(about))


def tabled(
    edits: Sequence[Edit], asked: Sequence[Asked], router: Router, settings: Settings
) -> Tabled:
    """The keys and guards of edits, where a router's codes are the keys, and their thresholds.

    Args:
        edits: All that the memory holds; one that brought its own threshold keeps it.
        asked: What is asked of each of them.
        router: Makes the codes.
        settings: With a bound of 0 for false fires, one threshold for all.
    """
    table = tabulate(asked, router, settings.false_fires or BOUND)
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
