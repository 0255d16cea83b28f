"""Thresholds: from which overlap on each key answers, for a stated share of false fires.

Knows nothing of models or texts: packed masks go in, thresholds come out. On some models all keys
are missed about as nearly; on others some prompts end in nearly the same state whatever they are
about, and one threshold for all would have to be high enough for the worst. So each key is told to
some degree w how near a miss comes to it, and what is added to that, the same for all keys, is
measured by leaving each miss out:

    base_i   = largest overlap of key i with any miss
    margin   = what a share `bound` of the misses exceeds of  overlap with the best key j, less
               w base_j, with base_j as it is without that miss
    floor    = what a share `bound` of unrelated prompts exceeds of the overlap with the best key
    threshold_i = w base_i + margin, at least the floor

w is the degree that gives the lowest thresholds: they let the most paraphrases through.
The prompt of an edit is a miss too, of every key but its own. Few misses tell little of a rare
one, so both shares are taken a standard error lower.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memoir_edge.tophash import GUARD, Bytes, Floats, Ints, overlap

# A key's own prompt overlaps it fully, up to rounding between runtimes; it must answer.
HIGHEST = 0.95
# A miss with a key's own subject that overlaps it as much as this may be its paraphrase.
PARAPHRASE = 0.75
DEGREES = (0.0, 0.5, 1.0)  # w
# In place of the number of an edit or a subject; a guard's edit is `GUARD`, as in a bank.
NOBODY = -2  # a miss that was made for no edit of its own
UNKNOWN = -3  # a key whose edit no record tells of


class Keys(NamedTuple):
    """The keys of a bank."""

    masks: Bytes  # [R, ceil(D/8)]
    edit: Ints  # [R] number of its edit, or `UNKNOWN` or `GUARD`
    subject: Ints  # [R] number of its edit's subject, or `UNKNOWN`


class Misses(NamedTuple):
    """Prompts that no key may answer, but for those of their own edit."""

    masks: Bytes  # [n, ceil(D/8)]
    edit: Ints  # [n] number of the edit whose own text it is, or `NOBODY`
    subject: Ints  # [n] number of the subject it was made with, or `NOBODY`


def thresholds(keys: Keys, k: int, misses: Misses, unrelated: Bytes, bound: float) -> Floats | None:
    """A threshold for each key; None where there are too few misses to measure one.

    Args:
        keys: What may answer.
        k: Weight of a mask.
        misses: What must not fire.
        unrelated: `[n, ceil(D/8)]` masks of prompts that no edit is about.
        bound: Share of the misses that may fire.
    """
    if len(misses.masks) < 1 / bound:
        return None
    met = _meet(keys, k, misses)
    without = np.where(
        met.nearest[met.row] == np.arange(len(met.row)), met.second[met.row], met.base[met.row]
    )
    floor = 0.0
    if len(unrelated):
        stray = Misses(unrelated, *np.full((2, len(unrelated)), NOBODY))
        floor = _exceeded(_meet(keys, k, stray).overlap, bound)
    above = 0.5 / k  # a key answers at its threshold: stay above what must not
    tried = []
    for w in DEGREES:
        margin = _exceeded(met.overlap - w * without, bound)
        tried.append(np.clip(np.maximum(w * met.base + margin, floor) + above, above, HIGHEST))
    lowest: Floats = min(tried, key=lambda found: float(found.mean())).astype(np.float32)
    return lowest


def _exceeded(values: NDArray[np.floating], share: float) -> float:
    """What at most that share of values exceeds, by the lower end of what the sample shows."""
    error = np.sqrt(share * (1 - share) / len(values))
    return float(np.quantile(values, min(1 - share + error, 1), method="higher"))


class _Met(NamedTuple):
    """How misses and keys meet."""

    overlap: Floats  # [n] of each miss with its best key
    row: Ints  # [n] that key
    base: Floats  # [R] largest overlap of each key with a miss
    nearest: Ints  # [R] that miss
    second: Floats  # [R] largest overlap with any other miss


def _meet(keys: Keys, k: int, misses: Misses) -> _Met:
    """Compare all misses with all keys, but where one is the key's own prompt or paraphrase."""
    found, rows = [], []
    base, second = np.zeros((2, len(keys.masks)), np.float32)
    nearest = np.full(len(keys.masks), NOBODY)
    for i, mask in enumerate(misses.masks):
        R = overlap(mask[None], keys.masks, k)[0]
        R[misses.edit[i] == keys.edit] = 0
        R[(misses.subject[i] == keys.subject) & (R >= PARAPHRASE)] = 0
        second = np.maximum(second, np.minimum(base, R))
        nearest[base < R] = i
        base = np.maximum(base, R)
        best = int(R.argmax())
        rows.append(best)
        found.append(0.0 if keys.edit[best] == GUARD else R[best])  # a guard fires nothing
    return _Met(np.array(found, np.float32), np.array(rows), base, nearest, second)
