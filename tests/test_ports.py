"""The ports' names, types and shapes; the empty memory; a memory as the ports take it."""

from typing import Any

import numpy as np
import pytest

from memoir_edge import ports, tophash
from memoir_edge.memory import Base, Entry, Memory


def memory(D: int = 10, **changes: Any) -> Memory:
    bits = np.zeros((3, D), np.bool_)
    for row, ones in enumerate(([0, 1], [1, 2], [3, 4])):
        bits[row, ones] = True
    given: dict[str, Any] = {
        "site": "layer",
        "feature": "mean",
        "k": 2,
        "base": Base("tiny"),
        "columns": np.array([0, 2], np.int32),
        "values": np.array([[1, 2, 3], [4, 5, 6]], np.float32),
        "bank": tophash.pack(bits),
        "owner": np.array([0, 0, -1], np.int32),
        "thresholds": np.array([0.5, 0.6, 0.7], np.float32),
        "center": np.ones(D, np.float32),
        "scale": np.full(D, 2, np.float32),
        "permutation": np.arange(D, dtype=np.int32)[::-1].copy(),
        "edits": (Entry("a", 0),),
    }
    return Memory(**(given | changes))


NO_KEYS: dict[str, Any] = {
    "bank": np.zeros((0, 2), np.uint8),
    "owner": np.zeros(0, np.int32),
    "thresholds": np.zeros(0, np.float32),
    "edits": (),
}
NO_COLUMNS: dict[str, Any] = {
    "columns": np.zeros(0, np.int32),
    "values": np.zeros((0, 3), np.float32),
}


def check(found: ports.Feeds, names: dict[str, ports.Port], **sizes: int) -> None:
    """Types and shapes are the declared ones; sizes that are not given are read off."""
    assert found.keys() == names.keys()
    for name, port in names.items():
        assert found[name].dtype.name == port.dtype, name
        assert found[name].ndim == len(port.shape), name
        for size, letter in zip(found[name].shape, port.shape, strict=True):
            expected = letter if isinstance(letter, int) else sizes.setdefault(letter, size)
            assert size == expected, (name, letter)


@pytest.mark.parametrize("D", [1, 7, 8, 9, 64])
def test_the_empty_memory_is_declared_right(D: int) -> None:
    check(
        ports.empty(D, 3), ports.MEMORY, **{"D": D, "d": 3, "C": 1, "R": 1, "ceil(D/8)": -(-D // 8)}
    )
    check(ports.run_defaults(), ports.RUN, B=1, T=1)


@pytest.mark.parametrize("D", [1, 8, 30])
def test_no_prompt_reaches_the_empty_memory(D: int) -> None:
    """Whatever the activations and the feature, routing gives the base model."""
    empty = {name.removeprefix("memory."): value for name, value in ports.empty(D, 3).items()}
    f = np.random.default_rng(D).normal(size=(20, D)).astype(np.float32)
    k = int(empty["k"][0])
    query = tophash.mask(f, empty["center"], empty["scale"], empty["permutation"], k)
    rest = (empty[name] for name in ("bank", "owner", "thresholds"))
    given = ports.run_defaults()["memory.route"]
    routes = tophash.route(tophash.pack(query), given, *rest, k)
    assert (routes.route == tophash.BASE).all()
    assert (routes.overlap == 0).all()
    assert not empty["values"].any()


@pytest.mark.parametrize("changes", [{}, NO_KEYS, NO_COLUMNS, NO_KEYS | NO_COLUMNS])
def test_feeds_are_declared_right(changes: dict[str, Any]) -> None:
    found = memory(**changes)
    R, C = max(1, len(found.bank)), max(1, len(found.columns))
    check(ports.feeds(found), ports.MEMORY, **{"D": 10, "d": 3, "C": C, "R": R, "ceil(D/8)": 2})


def test_feeds_are_the_memory() -> None:
    found = memory()
    feeds = ports.feeds(found)
    for name in (
        "columns",
        "values",
        "bank",
        "owner",
        "thresholds",
        "center",
        "scale",
        "permutation",
    ):
        assert np.array_equal(feeds[f"memory.{name}"], getattr(found, name)), name
    assert feeds["memory.k"].tolist() == [2]


def test_one_threshold_stands_for_every_key() -> None:
    feeds = ports.feeds(memory(thresholds=np.array([0.5], np.float32)))
    assert feeds["memory.thresholds"].tolist() == [0.5] * 3
    assert feeds["memory.thresholds"].flags.c_contiguous


def test_values_of_other_types_are_fed_as_float32() -> None:
    """The graph knows one type; scales are applied before."""
    plain = memory().values
    for changes in (
        {"values": plain.astype(np.float16)},
        {"values": (plain.view(np.uint32) >> 16).astype(np.uint16)},  # the bits of bfloat16
        {"values": (plain * 2).astype(np.int8), "scales": np.full(2, 0.5, np.float32)},
    ):
        fed = ports.feeds(memory(**changes))["memory.values"]
        assert fed.dtype == np.float32
        assert np.array_equal(fed, plain)


def test_a_memory_without_keys_or_columns_takes_them_from_the_empty_one() -> None:
    empty = ports.empty(10, 3)
    without = ports.feeds(memory(**NO_KEYS))
    for name in ("memory.bank", "memory.owner", "memory.thresholds"):
        assert np.array_equal(without[name], empty[name])
    assert len(without["memory.columns"]) == 2
    without = ports.feeds(memory(**NO_COLUMNS))
    assert not without["memory.values"].any()
    assert len(without["memory.bank"]) == 3


def test_names_are_unique_and_have_the_prefix() -> None:
    names = [*ports.MEMORY, *ports.RUN, *ports.OUTPUTS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("memory.") for name in names)
