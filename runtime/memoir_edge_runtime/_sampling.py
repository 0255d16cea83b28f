"""From one row of logits to one token. Knows numpy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memoir_edge.errors import InputError

Logits = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the likeliest, the first among equals."""

    temperature: float = 0.0
    top_k: int = 0  # 0: all tokens
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing could be drawn with."""
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}, expected 0 or more")
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}, expected 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}, expected above 0 and at most 1")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"seed is {self.seed}, expected 0 or more")

    def generator(self, row: int) -> np.random.Generator:
        """The random numbers of one row: its own, so that batch mates change nothing."""
        return np.random.default_rng(None if self.seed is None else [self.seed, row])


def draw(logits: Logits, sampling: Sampling, random: np.random.Generator) -> int:
    """One token from `[V]` logits."""
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    kept, share = distribution(logits, sampling)
    return int(random.choice(kept, p=share))


def distribution(
    logits: Logits, sampling: Sampling
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that may be drawn, likeliest first, and their probabilities.

    Temperature first, then the `top_k` likeliest, then the fewest of those that hold `top_p` of
    their probability.
    """
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    scaled = logits[order].astype(np.float64) / sampling.temperature
    share = np.exp(scaled - scaled[0])
    share /= share.sum()
    before = np.cumsum(share) - share
    kept = before < sampling.top_p
    return order[kept], share[kept] / share[kept].sum()
