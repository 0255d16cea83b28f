"""What the tests of a history share: an empty memory to begin from, and edits of random bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memoir_edge import tophash
from memoir_edge.history import Change, Journal, Made, begin, load
from memoir_edge.memory import Base, Memory, Router, by_codes, from_dense, no_codes

D, d, K = 20, 3, 6


def _origin(router: Router | None = None, **changes: Any) -> Memory:
    """An empty memory."""
    given = {
        "site": "layer", "feature": "last", "k": K, "base": Base("tiny"),
        "bank": np.zeros((0, 3), np.uint8), "owner": np.zeros(0, np.int32),
        "thresholds": np.zeros(0, np.float32), "center": np.zeros(D, np.float32),
        "scale": np.ones(D, np.float32), "permutation": np.arange(D, dtype=np.int32), "edits": (),
    }  # fmt: skip
    if router:
        given |= {"codes": no_codes(router), **by_codes(given["bank"])}
    return from_dense(np.zeros((d, D), np.float32), **given | changes)


def _made(
    name: str,
    seed: int = 0,
    keys: int = 0,
    guards: int = 0,
    decay: float = 1.0,
    router: Router | None = None,
) -> Made:
    rng = np.random.default_rng([*name.encode(), seed])
    masks = packed(rng, D, K)
    found = masks if router is None else packed(rng, router.bits, router.weight)
    record = {"prompt": f"The {name} is", "target": name}
    others, stops = found[1 : 1 + keys], found[5 : 5 + guards]
    key = found[0] if router else None
    return Made(name, record, masks[0], others, stops, 0.5, _change(rng, decay), key)


def packed(rng: np.random.Generator, bits: int, weight: int) -> list[tophash.Bytes]:
    """Nine masks or codes."""
    return list(tophash.pack(rng.permuted(np.tile(np.arange(bits) < weight, (9, 1)), axis=1)))


def _change(rng: np.random.Generator, decay: float = 1.0) -> Change:
    r = int(rng.integers(1, 4))
    V, U = rng.normal(size=(K, r)), rng.normal(size=(r, d))
    return Change(V.astype(np.float32), U.astype(np.float32), decay, 0.01, 5, 0.001)


@pytest.fixture(scope="session")
def router() -> Router:
    """Its codes have 28 bits, 7 of them ones."""
    return Router("encoder", "0123456789abcdef" * 4, 28, 7)


@pytest.fixture(scope="session")
def origin() -> Callable[..., Memory]:
    return _origin


@pytest.fixture(scope="session")
def made() -> Callable[..., Made]:
    return _made


@pytest.fixture(scope="session")
def change() -> Callable[..., Change]:
    return _change


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., Journal]:
    def make(router: Router | None = None) -> Journal:
        return begin(tmp_path / "m.journal", _origin(router), {"model": "tiny"})

    return make


@pytest.fixture(scope="session")
def reopened() -> Callable[..., Journal]:
    def open_again(journal: Journal, **rest: Any) -> Journal:
        found = load(journal.path, **{"write": False} | rest)
        assert found
        return found

    return open_again
