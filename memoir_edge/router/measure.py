"""How well a router tells the edits at hand from their near misses: what `calibrate` prints.

    for row in measure(asks(edits, relations, router), router):
        print(row.routing, row.nearest, row.at_5, row.at_1, row.own, row.fires)

Asked are the further keys that the edits would get, in place of what people will ask: a router
that was trained on the relations knows those better than it will know others.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from memoir_edge.router.asks import Asked
from memoir_edge.router.encoder import Router
from memoir_edge.router.table import BOUND, GUARD, Coded, coded, limited
from memoir_edge.router.thresholds import meet
from memoir_edge.tophash import Bytes, Floats, Ints, overlap

TOLD = 2  # further keys of a row that is given some; none of them is asked in any row


class Row(NamedTuple):
    """One way to route, measured; shares of 1."""

    routing: str
    nearest: float  # asked texts whose own edit is nearest
    at_5: float  # that reach it while 5 % of the near misses reach any: with hindsight
    at_1: float  # the same at 1 %
    own: float  # that reach it by the keys' own thresholds
    fires: float  # near misses that reach any, by the same


def hindsight(right: np.ndarray, above: Floats, missed: Floats, bound: float) -> float:
    """Share that reaches its edit, all thresholds moved together until `bound` of misses fire.

    Args:
        right: Which texts are nearest to the edit that they ask for.
        above: By how much each passes; its overlap where there is one threshold for all.
        missed: The same of what must not fire; -inf for what a guard stops.
        bound: Share of those that may fire.

    >>> above, missed = np.array([0.9, 0.7, 0.3]), np.array([0.8, 0.5, 0.4, 0.2])
    >>> round(hindsight(np.array([True, True, True]), above, missed, 0.25), 2)
    0.67
    """
    limit = np.sort(missed)[::-1][int(bound * len(missed))] if len(missed) else -np.inf
    return float((right & (above > limit)).mean())


def further(one: Asked) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """An edit's further keys: those that rows may be given, and those that are asked."""
    texts = one.keys[1:]
    told = min(TOLD, len(texts) // 2)
    return texts[:told], texts[told:]


def measure(asked: Sequence[Asked], router: Router, bound: float = BOUND) -> list[Row]:
    """The prompt's code alone, guards beside it, and further keys beside both.

    Args:
        asked: What is asked of each edit, as `memoir_edge.router.asks.asks` gives it.
        router: Makes the codes.
        bound: Share of near misses that may fire.

    Returns:
        No row where the edits have nothing that could be asked, or no near misses.
    """
    texts = [(i, text) for i, one in enumerate(asked) for text in further(one)[1]]
    if not texts or not any(one.misses for one in asked):
        return []
    query = router.codes([text for _, text in texts])
    of = np.array([i for i, _ in texts])
    made = coded([replace(one, keys=(one.keys[0], *further(one)[0])) for one in asked], router)
    guard = made.keys.guard == 1
    prompt = np.append(True, np.diff(made.keys.edit) > 0)
    rows = {
        "the prompt": prompt,
        "the prompt, guards": prompt | guard,
        f"the prompt, guards, {TOLD} further keys": np.ones_like(guard),
    }
    return [_row(name, made.only(kept), router, bound, of, query) for name, kept in rows.items()]


def _row(name: str, made: Coded, router: Router, bound: float, of: Ints, query: Bytes) -> Row:
    table = limited(made, router.weight, bound)
    R = np.concatenate([overlap(code[None], table.codes, router.weight) for code in query])
    best = R.argmax(axis=1)
    above = R.max(axis=1) - table.thresholds[best]
    right = table.owner[best] == of
    met, near = meet(made.keys, made.misses, router.weight)
    passed = np.where(table.owner[met] == GUARD, -np.inf, near - table.thresholds[met])
    return Row(
        name,
        float(right.mean()),
        hindsight(right, above, passed, 0.05),
        hindsight(right, above, passed, 0.01),
        float((right & (above >= 0)).mean()),
        float((passed >= 0).mean()),
    )
