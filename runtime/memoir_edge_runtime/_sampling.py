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
    """How a request is answered; the default is greedy.

    Raises:
        InputError: A value is out of its range.

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
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        good = math.isfinite(self.temperature) and self.temperature >= 0
        _require(good, "temperature", self.temperature, "0 or a positive number")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0 (0 cuts nothing)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.seed is None or self.seed >= 0, "seed", self.seed, "at least 0")
        good = isinstance(self.stop, tuple) and all(self.stop)
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


def choose(logits: Floats, options: Options, random: np.random.Generator) -> int:
    """The next token of one row.

    Drawn by an exponential race, which is the Gumbel trick in another form: each token waits for a
    time of its own, exponential with rate p, and the first to arrive is chosen. Batch mates may
    change the last bits of the logits, and this draw depends on those bits only where two tokens
    arrive at the same time. Drawing by inverse transform (one uniform number against the cumulative
    probabilities) would depend on them wherever the number falls near a boundary.

    Args:
        logits: `[V]`.
        options: Temperature 0 takes the first of the largest, as torch's argmax does.
        random: Asked for V numbers, and only when the temperature is above 0.

    >>> choose(np.array([0.5, 2.0, 2.0], np.float32), Options(), generator(0, 0))
    1
    """
    if options.temperature == 0:
        return int(np.argmax(logits))
    ids, p = distribution(logits, options)
    # Exp(1) / p is exponential with rate p; its minimum is the token's with probability p.
    waits = random.standard_exponential(len(logits))[ids]
    return int(ids[np.argmax(p / waits)])


def distribution(logits: Floats, options: Options) -> tuple[Ids, Doubles]:
    """Token ids that may be drawn and their probabilities: temperature, then top-k, then top-p.

    Of equal logits the lower id counts as likelier, so exactly k tokens survive top-k. Top-p keeps
    the likeliest tokens up to and including the one with which their sum reaches p.

    >>> ids, p = distribution(np.log([0.5, 0.3, 0.2]), Options(temperature=1.0, top_k=2))
    >>> ids.tolist(), p.round(3).tolist()
    ([0, 1], [0.625, 0.375])
    """
    ids = _largest(logits, options.top_k)
    if options.top_p < 1:
        ids = ids[np.argsort(-logits[ids], kind="stable")]
    with np.errstate(over="ignore"):  # a tiny temperature rightly sends all but the best to -inf
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
        logits: `[V]`, as the model gave them.
        token: An id.
        count: How many of the likeliest.
    """
    wide = logits.astype(np.float64) - logits.max()
    logprobs = wide - np.log(np.exp(wide).sum())
    ids = _largest(logits, count) if count else ()
    best = sorted(((int(i), float(logprobs[i])) for i in ids), key=lambda pair: -pair[1])
    return float(logprobs[token]), tuple(best)


def _largest(logits: Floats, k: int) -> Ids:
    """Ids of the k largest, lower ids first among equals; all ids if k is 0 or V or more."""
    if not 0 < k < len(logits):
        return np.arange(len(logits))
    above = np.flatnonzero(logits >= np.partition(logits, -k)[-k])  # k, or more where equals meet
    return above[np.argsort(-logits[above], kind="stable")[:k]]
