"""Thresholds: the overlap from which each key answers, for a stated share of false fires.

Knows nothing of models or texts: packed masks go in, thresholds come out. A *miss* is a prompt that
a key must not answer; another edit's own prompt is one too.

A key's threshold is w times its highest overlap with a miss, plus a margin that all keys share and
that is estimated leave-one-out:

    base_i      = highest overlap of key i with any miss
    excess      = of a miss whose best key is j: its overlap with j, minus w base_j, where base_j
                  is computed without that miss
    margin      = the value that the excess of a share `bound` of the misses exceeds
    floor       = the overlap with the best key that a share `bound` of unrelated prompts exceeds
    threshold_i = max(w base_i + margin, floor)

With w = 0 all keys have one threshold, which must be high enough for the key that is missed most
narrowly; on some models a few keys are, because their prompts end in nearly the same state whatever
they are about. With w = 1 each key has a threshold of its own. Of `DEGREES`, the w is taken that
gives the lowest mean threshold, because low thresholds let paraphrases through.

A small sample says little about rare events, so both quantiles are taken one standard error
further out.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memoir_edge.tophash import GUARD, Bytes, Floats, Ints, overlap

# Highest threshold: a key's own prompt must answer, and its overlap of 1 may be less by what two
# runtimes round differently.
HIGHEST = 0.95
# From this overlap on, a miss with a key's own subject may be the key's paraphrase, and is no miss.
PARAPHRASE = 0.75
DEGREES = (0.0, 0.5, 1.0)  # w
# In place of the number of an edit or a subject; a guard's edit is `GUARD`, as in a bank.
NOBODY = -2  # a miss that is no edit's own prompt, or names no edit's subject
UNKNOWN = -3  # a key of an edit whose record is withheld


class Keys(NamedTuple):
    """The keys of a bank."""

    masks: Bytes  # [R, ceil(D/8)]
    edit: Ints  # [R] number of its edit, or `UNKNOWN` or `GUARD`
    subject: Ints  # [R] number of its edit's subject, or `UNKNOWN`


class Misses(NamedTuple):
    """Prompts that only the keys of their own edit may answer, if they have one."""

    masks: Bytes  # [n, ceil(D/8)]
    edit: Ints  # [n] number of the edit whose own text it is, or `NOBODY`
    subject: Ints  # [n] number of the subject it was made with, or `NOBODY`


def thresholds(keys: Keys, k: int, misses: Misses, unrelated: Bytes, bound: float) -> Floats | None:
    """A threshold for each key; None where there are too few misses to measure one.

    Args:
        keys: The keys of the bank.
        k: Number of ones in a mask.
        misses: Prompts that must not fire.
        unrelated: `[n, ceil(D/8)]` masks of prompts that have nothing to do with any edit.
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
    above = 0.5 / k  # a key answers at its threshold, so it must lie above what must not fire
    tried = []
    for w in DEGREES:
        margin = _exceeded(met.overlap - w * without, bound)
        tried.append(np.clip(np.maximum(w * met.base + margin, floor) + above, above, HIGHEST))
    lowest: Floats = min(tried, key=lambda found: float(found.mean())).astype(np.float32)
    return lowest


def _exceeded(values: NDArray[np.floating], share: float) -> float:
    """The quantile that a share of values exceeds, one standard error of that share further out."""
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
    """Compare misses and keys, but no key with its own prompt or what may be its paraphrase."""
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
