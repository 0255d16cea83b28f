"""How the next token of each row is chosen from its logits.

Knows nothing of models or text: logits and random generators in, token ids out.
"""

import math
import numbers
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from memoir_edge.errors import InputError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]
Real = TypeVar("Real", Floats, Doubles)

_ROUNDING = 1e-3  # more than all roundings of a difference of logarithms


@dataclass(frozen=True)
class Options:
    """How a request is answered; the default is greedy.

    Raises:
        InputError: A value is out of its range, or no number where there must be one.

    >>> Options(temperature=0.8, top_p=0.9, seed=1, stop=("END",)).max_new_tokens
    64
    """

    max_new_tokens: int = 64  # most tokens a row grows by; the model's context may end it earlier
    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # draw among so many of the likeliest tokens; 0: all
    top_p: float = 1.0  # draw among the likeliest tokens that reach this probability together
    seed: int | None = None  # the same one draws the same tokens, whatever else is in the batch
    stop: tuple[str, ...] = ()  # strings that end a row; its text ends before them
    logprobs: int | None = None  # report log-probabilities, with so many of the likeliest tokens
    ignore_eos: bool = False  # go on to the limit, for measurements that need equal lengths

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed", "logprobs"):
            found = getattr(self, name)
            absent = found is None and name in ("seed", "logprobs")
            _require(absent or isinstance(found, numbers.Integral), name, found, "a whole number")
        for name in ("temperature", "top_p"):
            found = getattr(self, name)
            _require(isinstance(found, numbers.Real), name, found, "a number")
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        good = math.isfinite(self.temperature) and self.temperature >= 0
        _require(good, "temperature", self.temperature, "0 or a positive number")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0 (0 cuts nothing)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.seed is None or self.seed >= 0, "seed", self.seed, "at least 0")
        stops = isinstance(self.stop, tuple)
        good = stops and all(isinstance(each, str) and each for each in self.stop)
        _require(good, "stop", self.stop, "a tuple of strings that are not empty")
        _require((self.logprobs or 0) >= 0, "logprobs", self.logprobs, "at least 0")


def _require(good: bool, name: str, found: object, expected: str) -> None:
    if not good:
        raise InputError(f"{name} is {found!r}, expected {expected}")


def fresh_seed() -> int:
    """A seed for a request that named none."""
    return secrets.randbits(63)


def generator(seed: int, row: int) -> np.random.Generator:
    """The random numbers of one row: its own, so that batch mates cannot change them."""
    return np.random.default_rng([seed, row])


def choose(
    logits: Floats, options: Sequence[Options], randoms: Sequence[np.random.Generator]
) -> list[int]:
    """The next token of every row.

    Those that are greedy are found together. What is drawn is drawn row by row: a row of a large
    vocabulary stays in the processor's cache from pass to pass, many of them do not.

    Args:
        logits: `[B, V]`.
        options: Of each row. Temperature 0 takes the first of the largest, as torch's argmax does.
        randoms: Of each row; asked for V numbers where the temperature is above 0, else for none.

    >>> choose(np.array([[0.5, 2.0, 2.0]], np.float32), [Options()], [generator(0, 0)])
    [1]
    """
    chosen: list[int] = logits.argmax(axis=1).tolist()
    for i, its in enumerate(options):
        if its.temperature > 0:
            chosen[i] = _drawn(logits[i], its, randoms[i])
    return chosen


def _drawn(logits: Floats, options: Options, random: np.random.Generator) -> int:
    """A token drawn by an exponential race, which is the Gumbel trick in another form.

    Each token waits for a time of its own, exponential with rate p, and the first to arrive is
    chosen. Batch mates may change the last bits of the logits, and this draw depends on those bits
    only where two tokens arrive at the same time. Drawing by inverse transform (one uniform number
    against the cumulative probabilities) would depend on them wherever the number falls near a
    boundary.
    """
    # Exp(1) / p is exponential with rate p; its minimum is the token's with probability p.
    waits = random.standard_exponential(len(logits))
    if options.top_k or options.top_p < 1:
        ids, p = distribution(logits, options)
    else:
        ids = _rivals(logits, options.temperature, waits)
        p = _weights(logits[ids].astype(np.float64), options.temperature)
    return int(ids[np.argmax(p / waits[ids])])


def _rivals(logits: Floats, temperature: float, waits: Doubles) -> Ids:
    """Ids that may arrive first: the others come after the likeliest even with the least wait."""
    best = int(logits.argmax())
    lead = math.log(waits[best]) - math.log(max(waits.min(), sys.float_info.min))
    with np.errstate(over="ignore"):
        least = np.float32(logits[best] - temperature * (lead + _ROUNDING))
    return np.flatnonzero(logits >= least)


def distribution(logits: Floats, options: Options) -> tuple[Ids, Doubles]:
    """Token ids that may be drawn and their probabilities: temperature, then top-k, then top-p.

    Of equal logits the lower id counts as likelier, so exactly k tokens survive top-k. Top-p keeps
    the likeliest tokens up to and including the one with which their sum reaches p.

    >>> ids, p = distribution(np.log([0.5, 0.3, 0.2]), Options(temperature=1.0, top_k=2))
    >>> ids.tolist(), p.round(3).tolist()
    ([0, 1], [0.625, 0.375])
    """
    ids, total = _largest(logits, options.top_k), 0.0
    if options.top_p < 1 and len(ids) == len(logits):  # few of them need be sorted
        weights = _weights(logits, options.temperature)
        total = float(weights.sum(dtype=np.float64))
        # All that are smaller are, together, less than what top-p leaves out.
        ids = np.flatnonzero(weights >= (1 - options.top_p) / (2 * len(ids)) * total)
    if options.top_p < 1:
        ids = ids[np.argsort(-logits[ids], kind="stable")]
    p = _weights(logits[ids].astype(np.float64), options.temperature)
    p /= total or p.sum()
    if options.top_p < 1:
        kept = int(np.count_nonzero(np.cumsum(p) - p < options.top_p))
        ids, p = ids[:kept], p[:kept] / p[:kept].sum()
    return ids, p


def _weights(logits: Real, temperature: float) -> Real:
    """Probabilities but for a factor: 1 for the likeliest; in the logits' precision."""
    with np.errstate(over="ignore"):  # a tiny temperature rightly sends all but the best to -inf
        scale = logits.dtype.type(temperature)
        z = (logits - logits.max()) / (scale or np.finfo(logits.dtype).tiny)
        found: Real = np.exp(z)
    return found


def likeliest(
    logits: Floats, token: int, count: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """A token's log-probability, and the likeliest tokens with theirs, the likeliest first.

    Args:
        logits: `[V]`, as the model gave them.
        token: An id.
        count: How many of the likeliest.
    """
    total = math.log(_weights(logits, 1.0).sum(dtype=np.float64))
    ids = _largest(logits, count) if count else np.empty(0, np.intp)
    ids = ids[np.argsort(-logits[ids], kind="stable")]  # logits: a small lead is lost in logprobs
    logprobs = logits[[token, *ids]].astype(np.float64) - logits.max() - total
    return float(logprobs[0]), tuple(zip(ids.tolist(), logprobs[1:].tolist(), strict=True))


def _largest(logits: Floats, k: int) -> Ids:
    """Ids of the k largest, lower ids first among equals; all ids if k is 0 or V or more."""
    if not 0 < k < len(logits):
        return np.arange(len(logits))
    above = np.flatnonzero(logits >= np.partition(logits, -k)[-k])  # k, or more where equals meet
    return above[np.argsort(-logits[above], kind="stable")[:k]]
