"""How the next token is chosen from one row of logits.

Knows nothing of models, text or batches: logits and a random generator in, a token id out.
"""

import math
import secrets
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memoir_edge.errors import InputError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Options:
    """One request's wishes; temperature 0 is greedy, top_k 0 and top_p 1 cut nothing.

    Raises:
        InputError: A value out of its range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # report log-probabilities, with so many of the likeliest tokens
    ignore_eos: bool = False  # go on to the limit: answers of one length, to measure by

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        good = math.isfinite(self.temperature) and self.temperature >= 0
        _require(good, "temperature", self.temperature, "0 or a positive number")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0 (0 cuts nothing)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.seed is None or self.seed >= 0, "seed", self.seed, "at least 0")
        _require(all(self.stop), "stop", self.stop, "strings that are not empty")
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


def choose(logits: Floats, options: Options, random: np.random.Generator) -> int:
    """The next token of one row.

    Tokens race, each with a waiting time of its own: a draw then turns on rounding only where two
    of them arrive together. (One number laid on the sums of all probabilities would turn on it
    wherever it falls near a border, and a batch mate may change the logits' last bits.)

    Args:
        logits: `[V]`.
        options: Temperature 0 takes the first of the largest, as torch's argmax does.
        random: Asked for V numbers, and only when the temperature is above 0.
    """
    if options.temperature == 0:
        return int(np.argmax(logits))
    ids, p = distribution(logits, options)
    # The minimum of Exp(1) / p falls to a token with probability p.
    waits = random.standard_exponential(len(logits))[ids]
    return int(ids[np.argmax(p / waits)])


def distribution(logits: Floats, options: Options) -> tuple[Ids, Doubles]:
    """Token ids that may be drawn and their probabilities: temperature, then top-k, then top-p.

    Equal logits are told apart by the lower id, so exactly k tokens survive top-k. Top-p keeps the
    likeliest tokens up to and including the one that brings their sum to p.
    """
    ids = _largest(logits, options.top_k)
    if options.top_p < 1:
        ids = ids[np.argsort(-logits[ids], kind="stable")]
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to -inf: right
        p = np.exp((logits[ids].astype(np.float64) - logits.max()) / options.temperature)
    p /= p.sum()
    if options.top_p < 1:
        kept = int(np.count_nonzero(np.cumsum(p) - p < options.top_p))
        ids, p = ids[:kept], p[:kept] / p[:kept].sum()
    return ids, p


def likeliest(
    logits: Floats, token: int, count: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """A token's log-probability, and the likeliest tokens with theirs, the likeliest first.

    Args:
        logits: `[V]`; no temperature, no cuts.
        token: An id.
        count: How many of the likeliest.
    """
    wide = logits.astype(np.float64) - logits.max()
    logprobs = wide - np.log(np.exp(wide).sum())
    ids = _largest(logits, count) if count else ()
    best = sorted(((int(i), float(logprobs[i])) for i in ids), key=lambda pair: -pair[1])
    return float(logprobs[token]), tuple(best)


def _largest(logits: Floats, k: int) -> Ids:
    """Ids of the k largest, lower ids first among equals; all of them where k is 0 or too large."""
    if not 0 < k < len(logits):
        return np.arange(len(logits))
    above = np.flatnonzero(logits >= np.partition(logits, -k)[-k])  # k, or more where equals meet
    return above[np.argsort(-logits[above], kind="stable")[:k]]
