"""Thresholds: from which overlap on keys answer, for a stated share of false fires.

Codes go in, thresholds come out; knows nothing of texts and encoders. A miss is a text that must
not fire. What it meets is the nearest of the keys and guards, as at a request, but that

    a guard of the very relation and subject that a miss asks is left out: at a request, what is
        asked is seldom what a guard asks
    keys of another edit of the miss's own subject are left out unless both are known to ask
        different relations: it may be their paraphrase
    a miss of an edit's own subject that is as near as `PARAPHRASE` to its keys is, likely, one

A key's threshold is one number, which a stated share of the misses exceeds, and what the key is
lifted by: some subjects' names weigh so much in an embedding that whatever is asked of them is
near. Then the name by itself is near to the key, and guards are, too. The misses are made of
relations that the encoder's adapter was trained on and errs on less than on others, by a factor
that was measured with relations kept out of training. So a miss that is nearest to the edit that it
was made for counts `UNREAD` times, unless that edit's own relation is recognised: then it is,
likely, one that the adapter was trained on, too. That one counts `READ` times, and so does one that
is nearest to another edit: most often it takes one subject for another, to which training matters
less.
"""

from typing import NamedTuple

import numpy as np

from memoir_edge.tophash import Bytes, Floats, Ints, overlap

FORMULA = "lifted by names and guards"  # another formula must have another name
NOBODY = -1
HIGHEST = 0.95  # a key's own prompt overlaps it fully, up to rounding between runtimes
PARAPHRASE = 0.88
# How often a miss counts (docs/routing.md): one that is nearest to its own edit, whose relation is
# not recognised, and any other.
UNREAD, READ = 1 / 0.15, 2.0
FLOOR = 0.76  # what a few edits' misses find below this is chance (docs/routing.md)
# By how much a key is lifted (docs/routing.md): of what its subject's name is nearer to it than to
# other keys theirs, and of what guards are.
NAME_LIFT, GUARD_LIFT = 0.25, 0.2
NEAREST = 3  # guards that tell it
_PAIRS = 1 << 20  # of a miss and a key that are compared at a time: 4 MiB of overlaps


class Keys(NamedTuple):
    """Everything that a query is compared with."""

    codes: Bytes  # [R, P/8]
    edit: Ints  # [R] number of its edit
    subject: Ints  # [R] number of its subject, `NOBODY` where it is unknown
    relation: Ints  # [R] number of the relation that is asked, `NOBODY` where it is unknown
    guard: Ints  # [R] 1 for a guard
    near_name: Floats  # [R] overlap with the subject's name; not a number where that is unknown


class Misses(NamedTuple):
    """What must not fire."""

    codes: Bytes  # [n, P/8]
    edit: Ints  # [n] number of the edit that it was made for
    subject: Ints  # [n]
    relation: Ints  # [n] that is asked, `NOBODY` where it is unknown


class Level(NamedTuple):
    """What near misses ask of a key: the overlap from which it answers.

    Of one whose subject's name is as near to it as `near_name`, and whose guards as `near`. A key
    with nearer ones is lifted above that.
    """

    above: float
    near: float
    near_name: float


def level_of(keys: Keys, misses: Misses, weight: int, bound: float) -> Level:
    """What misses ask of keys.

    Args:
        keys: Keys and guards.
        misses: At least one.
        weight: Ones of a code.
        bound: Share of what must not fire that may.
    """
    near = guarded(keys, weight)
    mean = Level(0, _mean(near), _mean(keys.near_name[keys.guard == 0]))
    lift = _lifts(near, keys.near_name, mean)
    best, R = meet(keys, misses, weight)
    passes = np.where(keys.guard[best] == 1, -1, R - lift[best])
    unread = (keys.edit[best] == misses.edit) & (keys.relation[best] == NOBODY)
    counts = np.where(unread, UNREAD, READ)
    order = np.argsort(-passes)
    allowed = np.cumsum(counts[order]) <= bound * len(passes)
    found = passes[order][~allowed].max(initial=FLOOR)
    return mean._replace(above=float(found + 0.5 / weight))  # a key answers at its threshold


def thresholds(keys: Keys, weight: int, level: Level) -> Floats:
    """The overlap from which each key answers, `[R]`."""
    lift = _lifts(guarded(keys, weight), keys.near_name, level)
    return np.asarray(np.minimum(np.float32(level.above) + lift, HIGHEST), np.float32)


def _lifts(near: Floats, near_name: Floats, mean: Level) -> Floats:
    """By how much each key's threshold is above the mean key's, `[R]`; what is unknown adds 0."""
    lifts = GUARD_LIFT * (near - mean.near), NAME_LIFT * (near_name - mean.near_name)
    return np.asarray(sum(map(np.nan_to_num, lifts)), np.float32)


def _mean(near: Floats) -> float:
    known = near[~np.isnan(near)]
    return float(known.mean()) if len(known) else 0.0


def guarded(keys: Keys, weight: int) -> Floats:
    """How near its edit's guards are to each key, `[R]`; not a number without any.

    A guard that a record brought itself tells nothing of the subject.
    """
    near = np.full(len(keys.edit), np.nan, np.float32)
    order = np.argsort(keys.edit, kind="stable")
    starts = np.flatnonzero(np.diff(keys.edit[order])) + 1
    for rows in np.split(order, starts):  # of one edit
        mine = rows[keys.guard[rows] == 0]
        guards = rows[(keys.guard[rows] == 1) & (keys.relation[rows] != NOBODY)]
        if len(guards):
            R = np.sort(overlap(keys.codes[mine], keys.codes[guards], weight), axis=1)
            near[mine] = R[:, -NEAREST:].mean(axis=1)
    return near


def meet(keys: Keys, misses: Misses, weight: int) -> tuple[Ints, Floats]:
    """The key or guard that is nearest to each miss, and their overlap, `[n]` both."""
    best = np.zeros(len(misses.codes), np.int64)
    met = np.zeros(len(best), np.float32)
    step = max(_PAIRS // len(keys.codes), 1)
    for start in range(0, len(best), step):
        part = slice(start, start + step)
        some = Misses(*(np.asarray(column)[part] for column in misses))  # type: ignore[arg-type]
        R = _overlaps(keys, some, weight)
        best[part] = R.argmax(axis=1)
        met[part] = R[np.arange(len(R)), best[part]]
    return best, met


def _overlaps(keys: Keys, misses: Misses, weight: int) -> Floats:
    """Overlaps of misses with keys, `[n, R]`, those that tell nothing set to 0."""
    R = overlap(misses.codes, keys.codes, weight)
    miss, key = np.nonzero(misses.subject[:, None] == keys.subject)
    asked, held = misses.relation[miss], keys.relation[key]
    own = misses.edit[miss] == keys.edit[key]
    different = (asked != held) & (asked != NOBODY) & (held != NOBODY)
    no_paraphrase = (own | different) & (R[miss, key] < PARAPHRASE)
    tells = np.where(keys.guard[key] == 1, asked != held, no_paraphrase)
    R[miss[~tells], key[~tells]] = 0
    return R
