"""The keys of a memory while it grows and shrinks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_edge import tophash
from memoir_edge.history.bank import Bank, bank_of
from memoir_edge.memory import Base, from_dense

D, K = 20, 6


def masks(count: int, seed: int = 0) -> list[tophash.Bytes]:
    rng = np.random.default_rng(seed)
    return list(tophash.pack(rng.permuted(np.tile(np.arange(D) < K, (count, 1)), axis=1)))


def filled(edits: int, seed: int = 0) -> Bank:
    """Each edit with a further key and a guard."""
    bank = Bank(D, K)
    for i in range(edits):
        primary, key, guard = masks(3, seed * 100 + i)
        bank.add(f"e{i}", {"n": i}, primary, [key], [guard], 0.5)
    return bank


def test_nothing_answers_from_an_empty_bank() -> None:
    routes = Bank(D, K).route(np.stack(masks(3)))
    assert routes.route.tolist() == [tophash.BASE] * 3
    assert routes.overlap.tolist() == [0] * 3


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 50), st.sets(st.integers(0, 5)))
def test_what_is_left_is_as_if_the_others_had_never_come(
    edits: int, seed: int, gone: set[int]
) -> None:
    bank = filled(edits, seed)
    gone = {i for i in gone if i < edits}
    bank.drop({f"e{i}" for i in gone})
    other = Bank(D, K)
    for i in set(range(edits)) - gone:
        primary, key, guard = masks(3, seed * 100 + i)
        other.add(f"e{i}", {"n": i}, primary, [key], [guard], 0.5)
    assert bank.records == other.records
    for ours, theirs in zip(bank.arrays(), other.arrays(), strict=True):
        assert np.array_equal(np.array(ours, object), np.array(theirs, object))
    for i in range(edits):
        asked = masks(3, seed * 100 + i)[0]
        assert (bank.asked_by(asked) is None) == (other.asked_by(asked) is None)


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(0, 50))
def test_a_file_brings_the_same_keys_back(edits: int, seed: int) -> None:
    bank = filled(edits, seed)
    memory = from_dense(
        np.zeros((2, D), np.float32), **bank.arrays()._asdict(), site="s", feature="last", k=K,
        base=Base("b"), center=np.zeros(D, np.float32), scale=np.ones(D, np.float32),
        permutation=np.arange(D, dtype=np.int32),
    )  # fmt: skip
    again = bank_of(memory)
    assert again.records == bank.records
    assert again.rows() == bank.rows()
    queries = np.stack(masks(5, seed + 1))
    assert (again.route(queries).route == bank.route(queries).route).all()


def test_a_later_edit_takes_over_the_keys_of_the_former() -> None:
    bank = filled(2)
    primary = masks(3, 0)[0]
    assert bank.asked_by(primary) == "e0"
    assert bank.add("new", None, primary, [], [], 0.9) == "e0"
    assert bank.asked_by(primary) == "new"
    assert bank.rows() == {"new": 0, "e1": 3}
    assert [k.edit for k in bank.keys[:3]] == ["new", "new", None]
    assert [k.threshold for k in bank.keys[:3]] == [0.9, 0.5, 0.5]
    bank.drop({"new"})
    assert bank.rows() == {"e1": 0}
    assert len(bank.keys) == 3


def test_what_is_taken_over_stands_once() -> None:
    bank = Bank(D, K)
    primary, same, other = masks(3)
    bank.add("old", None, primary, [same], [], 0.5)
    bank.add("new", None, primary, [same, other], [], 0.5)
    assert [key.mask.tobytes() for key in bank.keys] == [
        m.tobytes() for m in (primary, same, other)
    ]
    assert {key.edit for key in bank.keys} == {"new"}
