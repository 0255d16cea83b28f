"""Thresholds hold what they promise on the misses that they were measured with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_edge import tophash
from memoir_edge.calibrate import HIGHEST, NOBODY, PARAPHRASE, UNKNOWN, Keys, Misses, thresholds
from memoir_edge.tophash import GUARD

D, K = 64, 16


def masks(seed: int, n: int, near: tophash.Bytes | None = None, moved: int = 4) -> tophash.Bytes:
    """Random masks, or such that differ from given ones in a few places."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        bits = np.zeros(D, bool)
        if near is None:
            bits[random.choice(D, K, replace=False)] = True
        else:
            bits = tophash.unpack(near[i % len(near)], D).copy()
            bits[random.choice(np.flatnonzero(bits), moved, replace=False)] = False
            free = np.flatnonzero(~bits)
            bits[random.choice(free, moved, replace=False)] = True
        rows.append(bits)
    return tophash.pack(np.array(rows))


def each_its_own(bank: tophash.Bytes) -> Keys:
    return Keys(bank, np.arange(len(bank)), np.arange(len(bank)))


def stray(made: tophash.Bytes) -> Misses:
    nobody = np.full(len(made), NOBODY)
    return Misses(made, nobody, nobody)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.05, 0.2]), st.integers(1, 12))
def test_no_more_misses_fire_than_the_bound(seed: int, bound: float, moved: int) -> None:
    bank = masks(seed, 12)
    near = masks(seed + 1, 300, bank, moved)
    found = thresholds(each_its_own(bank), K, stray(near), masks(seed + 2, 200), bound)
    assert found is not None
    assert found.dtype == np.float32
    for asked in (near, masks(seed + 2, 200)):
        R = tophash.overlap(asked, bank, K)
        fires = R.max(axis=1) >= found[R.argmax(axis=1)]
        # Thresholds never rise above HIGHEST: a key answers its own prompt.
        sure = R.max(axis=1) < HIGHEST
        assert (fires & sure).mean() <= bound


def test_few_misses_ask_for_more_than_many_of_the_same_sort() -> None:
    def height(seed: int, n: int) -> float:
        bank = masks(seed, 12)
        met = stray(masks(seed + 100, n, bank, 7))
        found = thresholds(each_its_own(bank), K, met, masks(seed + 200, 60), 0.05)
        assert found is not None
        return float(found.mean())

    assert np.mean([height(seed, 60) - height(seed, 2000) for seed in range(30)]) > 0.5 / K


def test_each_key_has_its_own() -> None:
    bank = masks(0, 2)
    near = np.concatenate([masks(1, 150, bank[:1], 3), masks(2, 150, bank[1:], 12)])
    found = thresholds(each_its_own(bank), K, stray(near), masks(3, 50), 0.01)
    assert found is not None
    assert found[0] > 13 / K
    assert found[1] < found[0] - 0.1


def test_own_prompts_and_paraphrases_do_not_count() -> None:
    bank = masks(0, 2)
    far = masks(5, 200)
    plain = thresholds(each_its_own(bank), K, stray(far), far, 0.05)
    own = Misses(
        np.concatenate([bank, bank, far]),
        np.concatenate([[0, 1, NOBODY, NOBODY], np.full(200, NOBODY)]),
        np.concatenate([[0, 1, 0, 1], np.full(200, NOBODY)]),
    )
    same = thresholds(each_its_own(bank), K, own, far, 0.05)
    assert plain is not None
    assert same is not None
    assert PARAPHRASE > 0.5
    assert np.abs(plain - same).max() < 2 / K


def test_what_may_be_a_paraphrase_of_another_edit_about_the_same_subject_does_not_count() -> None:
    bank = masks(0, 12)
    near = masks(1, 300, bank, 3)  # 13 of 16 shared: as near as a paraphrase
    of, nobody = np.arange(300) % 12, np.full(300, NOBODY)
    keys, far = Keys(bank, np.arange(12), np.arange(12) // 2), masks(2, 60)
    high = thresholds(keys, K, Misses(near, nobody, nobody), far, 0.05)
    low = thresholds(keys, K, Misses(near, nobody, of // 2), far, 0.05)
    assert high is not None
    assert low is not None
    assert 13 / K >= PARAPHRASE
    assert (high > 13 / K).all()
    assert (low < 13 / K).all()


def test_what_comes_nearest_to_a_guard_fires_nothing() -> None:
    bank = np.concatenate([masks(0, 1), masks(1, 1, masks(0, 1), 4)])
    near, far = masks(2, 300, bank[1:], 2), masks(3, 60)
    guarded = Keys(bank, np.array([0, GUARD]), np.array([0, UNKNOWN]))
    high = thresholds(each_its_own(bank), K, stray(near), far, 0.05)
    low = thresholds(guarded, K, stray(near), far, 0.05)
    assert high is not None
    assert low is not None
    assert high[0] - low[0] > 2 / K


@pytest.mark.parametrize("count", [0, 99])
def test_too_few_misses_measure_nothing(count: int) -> None:
    bank = masks(0, 2)
    none = masks(1, count) if count else np.zeros((0, D // 8), np.uint8)
    assert thresholds(each_its_own(bank), K, stray(none), masks(2, 10), 0.01) is None
