"""Thresholds: from which overlap on each key answers, for a stated share of false fires.

Codes go in, thresholds come out; knows nothing of texts and encoders. A miss is a text that must
not fire. What it meets is the nearest of the keys and guards, as at a request, but that

    a guard of the very relation and subject that a miss asks is left out: at a request, what is
        asked is seldom what a guard asks
    keys of other edits of the miss's own subject are left out: it may be their paraphrase
    a miss of an edit's own subject that is as near as `PARAPHRASE` to its keys is, likely, one

    base_i      = largest overlap of key i with any miss
    margin      = what a share `bound` of the misses exceeds of  overlap with the best key j, less
                  w base_j, with base_j as it is without that miss
    threshold_i = w base_i + margin

w is the degree that gives the lowest thresholds on average. Shares are taken a standard error
lower, because few misses tell little of a rare one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memoir_edge.tophash import Bytes, Floats, Ints, overlap

NOBODY = -1
HIGHEST = 0.95  # a key's own prompt overlaps it fully, up to rounding between runtimes
PARAPHRASE = 0.88
DEGREES = (0.0, 0.5, 1.0)  # w
_CHUNK = 256


class Keys(NamedTuple):
    """Everything that a query is compared with."""

    codes: Bytes  # [R, P/8]
    edit: Ints  # [R] number of its edit
    subject: Ints  # [R] number of its subject, `NOBODY` where it is unknown
    relation: Ints  # [R] number of the relation that a guard asks, else `NOBODY`
    guard: Ints  # [R] 1 for a guard


class Misses(NamedTuple):
    """What must not fire."""

    codes: Bytes  # [n, P/8]
    edit: Ints  # [n] number of the edit that it was made for
    subject: Ints  # [n]
    relation: Ints  # [n] `NOBODY` where it is the edit's own


def thresholds(keys: Keys, misses: Misses, weight: int, bound: float) -> Floats:
    """A threshold for each key, `[R]`.

    Args:
        keys: Keys and guards.
        misses: At least one.
        weight: Ones of a code.
        bound: Share of the misses that may fire.
    """
    met = _meet(keys, misses, weight)
    own = met.nearest[met.row] == np.arange(len(met.row))
    without = np.where(own, met.second[met.row], met.base[met.row])
    above = 0.5 / weight  # a key answers at its threshold: stay above what must not
    tried = []
    for w in DEGREES:
        margin = _exceeded(met.overlap - w * without, bound)
        tried.append(np.clip(w * met.base + margin + above, above, HIGHEST))
    lowest: Floats = min(tried, key=lambda found: float(found[keys.guard == 0].mean()))
    return lowest.astype(np.float32)


def _exceeded(values: NDArray[np.floating], share: float) -> float:
    """What at most that share of values exceeds, by the lower end of what the sample shows."""
    error = np.sqrt(share * (1 - share) / len(values))
    return float(np.quantile(values, min(1 - share + error, 1), method="higher"))


class _Met(NamedTuple):
    """How misses and keys meet."""

    overlap: Floats  # [n] of each miss with its best key; 0 where that is a guard
    row: Ints  # [n] that key
    base: Floats  # [R] largest overlap of each key with a miss that no guard stops
    nearest: Ints  # [R] that miss
    second: Floats  # [R] largest overlap with any other such miss


def _meet(keys: Keys, misses: Misses, weight: int) -> _Met:
    n, rows = len(misses.codes), len(keys.codes)
    found, row = np.zeros(n, np.float32), np.zeros(n, np.int64)
    base, second = np.zeros((2, rows), np.float32)
    nearest = np.full(rows, NOBODY)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        some = Misses(*(np.asarray(column)[part] for column in misses))  # type: ignore[arg-type]
        R = _overlaps(keys, some, weight)
        best = R.argmax(axis=1)
        stopped = keys.guard[best] == 1
        found[start : start + len(R)] = np.where(stopped, 0, R[np.arange(len(R)), best])
        row[start : start + len(R)] = best
        for i in np.flatnonzero(~stopped):
            second = np.maximum(second, np.minimum(base, R[i]))
            nearest[base < R[i]] = start + i
            base = np.maximum(base, R[i])
    return _Met(found, row, base, nearest, second)


def _overlaps(keys: Keys, misses: Misses, weight: int) -> Floats:
    """Overlaps of misses with keys, `[n, R]`, those that tell nothing set to 0."""
    R = overlap(misses.codes, keys.codes, weight)
    same = misses.subject[:, None] == keys.subject
    guard = keys.guard == 1
    mine = misses.edit[:, None] == keys.edit
    R[guard & same & (misses.relation[:, None] == keys.relation)] = 0
    R[~guard & same & ~mine] = 0
    R[~guard & same & mine & (R >= PARAPHRASE)] = 0
    return R
