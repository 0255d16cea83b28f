"""The threshold: from which overlap on keys answer, for a stated share of false fires.

Codes go in, thresholds come out; knows nothing of texts and encoders. A miss is a text that must
not fire. What it meets is the nearest of the keys and guards, as at a request, but that

    a guard of the very relation and subject that a miss asks is left out: at a request, what is
        asked is seldom what a guard asks
    keys of other edits of the miss's own subject are left out: it may be their paraphrase
    a miss of an edit's own subject that is as near as `PARAPHRASE` to its keys is, likely, one

One threshold serves all keys: what a stated share of the misses exceeds. On codes of an encoder,
thresholds of single keys by how near misses come to each did no better, unlike on a model's own
activations. The misses are made of relations that the encoder's adapter was trained on and errs on
less than on others, by a factor that was measured with relations kept out of training.
"""

from typing import NamedTuple

import numpy as np

from memoir_edge.tophash import Bytes, Floats, Ints, overlap

NOBODY = -1
HIGHEST = 0.95  # a key's own prompt overlaps it fully, up to rounding between runtimes
PARAPHRASE = 0.88
KNOWN = 0.25  # how often what was trained on fires, in proportion to what was not
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


def threshold(keys: Keys, misses: Misses, weight: int, bound: float) -> float:
    """The overlap from which keys answer.

    Args:
        keys: Keys and guards.
        misses: At least one.
        weight: Ones of a code.
        bound: Share of what must not fire that may.
    """
    met = _meet(keys, misses, weight)
    share = KNOWN * bound
    found = float(np.quantile(met, 1 - share, method="higher"))
    return min(found + 0.5 / weight, HIGHEST)  # a key answers at its threshold: stay above


def _meet(keys: Keys, misses: Misses, weight: int) -> Floats:
    """Overlap of each miss with its best key, `[n]`; 0 where that is a guard."""
    found = np.zeros(len(misses.codes), np.float32)
    for start in range(0, len(found), _CHUNK):
        part = slice(start, start + _CHUNK)
        some = Misses(*(np.asarray(column)[part] for column in misses))  # type: ignore[arg-type]
        R = _overlaps(keys, some, weight)
        best = R.argmax(axis=1)
        found[part] = np.where(keys.guard[best] == 1, 0, R.max(axis=1))
    return found


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
