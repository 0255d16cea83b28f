"""The keys of a memory while it grows and shrinks."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoir_edge import tophash
from memoir_edge.errors import InputError
from memoir_edge.history.bank import Bank, bank_of
from memoir_edge.memory import (
    Base,
    Codes,
    Memory,
    Router,
    from_bytes,
    from_dense,
    to_bytes,
)
from memoir_edge.memory.limits import MAX_TILES

D, K = 20, 6
ROUTER = Router("encoder", "0123456789abcdef" * 4, 28, 7)


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


def memory_of(bank: Bank) -> Memory:
    """A memory that changes nothing, with these keys."""
    return from_dense(
        np.zeros((2, D), np.float32), **bank.arrays()._asdict(), site="s", feature="last", k=K,
        base=Base("b"), center=np.zeros(D, np.float32), scale=np.ones(D, np.float32),
        permutation=np.arange(D, dtype=np.int32),
    )  # fmt: skip


def test_nothing_answers_from_an_empty_bank() -> None:
    routes = Bank(D, K).route(np.stack(masks(3)))
    assert routes.route.tolist() == [tophash.BASE] * 3
    assert routes.overlap.tolist() == [0] * 3


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


@given(st.integers(0, 6), st.integers(0, 50))
def test_a_file_brings_the_same_keys_back(edits: int, seed: int) -> None:
    bank = filled(edits, seed)
    again = bank_of(memory_of(bank))
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


# --- With a router: keys are codes, and each edit has a mask that it is recalled with ------------


def codes(count: int, seed: int = 0) -> list[tophash.Bytes]:
    rng = np.random.default_rng([seed, 1])
    ones = np.arange(ROUTER.bits) < ROUTER.weight
    return list(tophash.pack(rng.permuted(np.tile(ones, (count, 1)), axis=1)))


class Coded(NamedTuple):
    """An edit's bits."""

    mask: tophash.Bytes
    key: tophash.Bytes
    other: tophash.Bytes
    guard: tophash.Bytes


def coded(i: int, seed: int = 0) -> Coded:
    return Coded(*masks(1, seed * 100 + i), *codes(3, seed * 100 + i))


def add(bank: Bank, i: int, seed: int = 0) -> None:
    """Edit `ei` with a further key and a guard."""
    bits = coded(i, seed)
    bank.add(f"e{i}", {"n": i}, bits.mask, [bits.other], [bits.guard], 0.5, bits.key)


def routed(edits: int, seed: int = 0) -> Bank:
    bank = Bank(D, K, router=ROUTER)
    for i in range(edits):
        add(bank, i, seed)
    return bank


def held(bank: Bank) -> Codes:
    found = bank.arrays().codes
    assert found
    return found


def test_a_router_s_bank_keeps_codes_and_masks_apart() -> None:
    bank = routed(2)
    a, b = coded(0), coded(1)
    assert (bank.bits, bank.weight) == (28, 7)
    arrays = bank.arrays()
    assert np.array_equal(arrays.bank, [a.mask, b.mask])
    assert [(entry.id, entry.row) for entry in arrays.edits] == [("e0", 0), ("e1", 1)]
    assert np.array_equal(held(bank).keys, [a.key, a.other, a.guard, b.key, b.other, b.guard])
    assert held(bank).owner.tolist() == [0, 0, -1, 1, 1, -1]
    assert {edit: mask.tolist() for edit, mask in bank.recalled().items()} == {
        "e0": a.mask.tolist(), "e1": b.mask.tolist()
    }  # fmt: skip
    assert bank.asked_by(a.mask) == "e0"
    assert bank.asked_by(a.key) is None


def test_a_code_routes_to_its_edit_and_a_guard_to_none() -> None:
    bank = routed(3)
    asked = [bits for i in range(3) for bits in coded(i)[1:]]
    found = bank.route(np.stack(asked))
    assert found.route.tolist() == [1, 1, tophash.BASE, 4, 4, tophash.BASE, 7, 7, tophash.BASE]
    assert found.overlap.tolist() == [1] * 9
    far = tophash.pack(np.arange(28)[None] >= 21)
    assert bank.route(far).overlap[0] < 1


def test_nothing_answers_from_an_empty_bank_of_codes() -> None:
    bank = routed(0)
    assert bank.route(np.stack(codes(3))).route.tolist() == [tophash.BASE] * 3
    assert (bank.packed().shape, bank.arrays().bank.shape) == ((0, 4), (0, 3))
    assert not bank_of(from_bytes(to_bytes(memory_of(bank)))).keys


@given(st.integers(1, 6), st.integers(0, 50), st.sets(st.integers(0, 5)))
def test_what_is_left_of_a_router_s_bank(edits: int, seed: int, gone: set[int]) -> None:
    """Keys, masks and guards of dropped edits are gone, as if they had never come."""
    bank, gone = routed(edits, seed), {i for i in gone if i < edits}
    bank.drop({f"e{i}" for i in gone})
    other = Bank(D, K, router=ROUTER)
    for i in sorted(set(range(edits)) - gone):
        add(other, i, seed)
    assert to_bytes(memory_of(bank)) == to_bytes(memory_of(other))
    for i in range(edits):
        mask = coded(i, seed).mask
        assert bank.asked_by(mask) == other.asked_by(mask) == (None if i in gone else f"e{i}")


@given(st.integers(0, 6), st.integers(0, 50))
def test_a_file_brings_the_same_codes_back(edits: int, seed: int) -> None:
    bank = routed(edits, seed)
    data = to_bytes(memory_of(bank))
    again = bank_of(from_bytes(data))
    assert again.router == ROUTER
    assert to_bytes(memory_of(again)) == data
    queries = np.stack(codes(5, seed + 1))
    for ours, theirs in zip(again.route(queries), bank.route(queries), strict=True):
        assert np.array_equal(ours, theirs)
    for i in range(edits):
        assert again.asked_by(coded(i, seed).mask) == f"e{i}"


def test_a_later_edit_takes_over_the_codes_of_the_former() -> None:
    bank = routed(2)
    a = coded(0)
    assert bank.add("new", None, a.mask, [a.other], [], 0.9, a.key) == "e0"
    assert bank.asked_by(a.mask) == "new"
    assert list(bank.masks) == ["e1", "new"]
    assert [key.edit for key in bank.keys] == ["new", "new", None, "e1", "e1", None]
    assert [(entry.id, entry.row) for entry in bank.arrays().edits] == [("new", 0), ("e1", 1)]
    assert np.array_equal(bank.arrays().bank, [a.mask, coded(1).mask])
    bank.drop({"new"})
    assert held(bank).owner.tolist() == [0, 0, -1]
    assert bank.arrays().bank.tolist() == [coded(1).mask.tolist()]


def test_an_edit_that_takes_over_is_reached_by_its_own_code() -> None:
    """Two spellings may have one mask and two codes."""
    bank = routed(1)
    [another] = codes(1, seed=9)
    bank.add("new", None, coded(0).mask, [], [], 0.5, another)
    assert bank.route(another[None]).route.tolist() == [1]
    assert bank.route(coded(0).key[None]).route.tolist() == [1]


def test_codes_get_thresholds_of_their_own() -> None:
    bank = routed(1)
    bank.calibrate(np.array([0.5, 0.75, 1], np.float32))
    assert held(bank).thresholds.tolist() == [0.5, 0.75, 1]


def test_masks_and_codes_do_not_mix() -> None:
    bits = coded(0)
    with pytest.raises(ValueError, match="edit 'a' has no code"):
        routed(0).add("a", None, bits.mask, [], [], 0.5)
    with pytest.raises(ValueError, match="edit 'a' has a code"):
        Bank(D, K).add("a", None, bits.mask, [], [], 0.5, bits.key)


# --- Tiles of columns ----------------------------------------------------------------------------


def tiled(tiles: list[int], sites: int = 1) -> Bank:
    """An edit in each of these tiles."""
    bank = Bank(D, K, router=ROUTER, sites=sites)
    for i, tile in enumerate(tiles):
        bits = coded(i)
        bank.add(f"e{i}", {"n": i}, bits.mask, [bits.other], [], 0.5, bits.key, tile)
    return bank


def test_a_tile_is_filled_before_another_is_begun() -> None:
    new = [coded(i).mask for i in range(7)]
    assert tiled([]).tiles_for(new, room=3) == [0, 0, 0, 1, 1, 1, 2]
    assert tiled([0, 0, 1]).tiles_for(new[3:], room=2) == [1, 2, 2, 3]
    assert tiled([0, 0]).tiles_for(new[2:], room=float("inf")) == [0] * 5


@pytest.mark.parametrize("sites", [1, 2])
def test_a_full_memory_takes_only_edits_of_prompts_that_it_holds(
    sites: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memoir_edge.history.bank.MAX_TILES", 8)
    bank = tiled([*range(0, 8, sites)], sites=sites)
    new = coded(9).mask
    assert bank.tiles_for([coded(3).mask], room=1) == [3 * sites]
    with pytest.raises(InputError, match="the memory is full") as caught:
        bank.tiles_for([new], room=1)
    assert "--columns-per-edit" in str(caught.value.hint)
    bank.drop(["e2"])
    assert bank.tiles_for([new], room=1) == [2 * sites]


def test_with_several_sites_a_mask_has_as_many_tiles() -> None:
    new = [coded(i).mask for i in range(7)]
    assert tiled([], sites=3).tiles_for(new[:5], room=2) == [0, 0, 3, 3, 6]
    assert tiled([0, 0, 2], sites=2).tiles_for(new[3:], room=2) == [2, 4, 4, 6]
    bits = coded(0)
    for tile in (1, MAX_TILES, MAX_TILES - 1):  # another site's, or without room for all of them
        with pytest.raises(ValueError, match=f"in tile {tile}"):
            Bank(D, K, router=ROUTER, sites=2).add("a", None, bits.mask, [], [], 1, bits.key, tile)
    tiled([MAX_TILES - 2], sites=2)


def test_room_that_was_left_is_taken_again() -> None:
    bank = tiled([0, 0, 1, 1])
    bank.drop(["e1"])
    assert bank.tiles_for([coded(i).mask for i in (1, 5)], room=2) == [0, 2]


def test_the_later_edit_of_a_prompt_stays_in_its_tile() -> None:
    """What was trained for the former one is there."""
    bank, again = tiled([0, 0, 1]), coded(2)
    other = coded(9).mask
    assert bank.tiles_for([again.mask, other, other], room=1) == [1, 2, 2]
    assert bank.add("new", None, again.mask, [], [], 0.5, again.key, 1) == "e2"
    assert bank.tile == {"e0": 0, "e1": 0, "new": 1}


def test_a_memory_says_its_tiles_where_there_are_several() -> None:
    assert tiled([0, 0]).arrays().tile is None
    bank = tiled([0, 2, 1])
    assert bank.arrays().tile.tolist() == [0, 2, 1]  # type: ignore[union-attr]
    memory = from_bytes(to_bytes(memory_of(bank)))
    assert memory.tiles == 3
    assert bank_of(memory).tile == bank.tile


def test_a_tile_that_wm_cannot_have_is_refused() -> None:
    bits = coded(0)
    for tile in (-1, MAX_TILES):
        with pytest.raises(ValueError, match=f"in tile {tile}"):
            tiled([]).add("a", None, bits.mask, [], [], 0.5, bits.key, tile)
