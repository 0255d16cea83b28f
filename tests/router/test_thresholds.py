"""Thresholds against a plain reading of what they promise."""

import numpy as np
import pytest

from memoir_edge import tophash
from memoir_edge.router import thresholds as module
from memoir_edge.router.codes import codes
from memoir_edge.router.thresholds import (
    FLOOR,
    GUARD_LIFT,
    HIGHEST,
    NAME_LIFT,
    NOBODY,
    READ,
    UNREAD,
    Keys,
    Misses,
    guarded,
    level_of,
    thresholds,
)
from memoir_edge.tophash import Bytes

WEIGHT = 512
RANDOM = np.random.default_rng(0)


def near(center: np.ndarray, n: int, noise: float) -> np.ndarray:
    return center + noise * RANDOM.normal(size=(n, len(center)))


def made(vectors: np.ndarray) -> Bytes:
    return codes(vectors.astype(np.float32))


def keys(vectors: np.ndarray, **other: list[int] | list[float]) -> Keys:
    n = len(vectors)
    given = {"edit": list(range(n)), "subject": list(range(n)), "relation": [NOBODY] * n,
             "guard": [0] * n, "near_name": [np.nan] * n} | other  # fmt: skip
    return Keys(made(vectors), *(np.array(given[f]) for f in Keys._fields[1:]))


def misses(vectors: np.ndarray, **other: list[int]) -> Misses:
    n = len(vectors)
    given = {"edit": [0] * n, "subject": [99] * n, "relation": [NOBODY] * n} | other
    return Misses(made(vectors), *(np.array(given[f]) for f in Misses._fields[1:]))


def threshold(keys: Keys, misses: Misses, weight: int, bound: float) -> float:
    """That of the first key."""
    return float(thresholds(keys, weight, level_of(keys, misses, weight, bound))[0])


def test_as_many_misses_fire_as_may() -> None:
    centers = RANDOM.normal(size=(20, 32))
    wrong = np.concatenate([near(c, 100, 1.0) for c in centers])
    held = keys(centers)
    met = misses(wrong, edit=np.repeat(range(20), 100).tolist())
    for share in (0.1, 0.01):
        found = threshold(held, met, WEIGHT, share * UNREAD)
        fires = (tophash.overlap(met.codes, held.codes, WEIGHT).max(axis=1) >= found).mean()
        assert 0.8 * share < fires <= share


@pytest.fixture
def _no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows far apart are to tell what the misses say."""
    monkeypatch.setattr(module, "FLOOR", 0)


@pytest.mark.usefixtures("_no_floor")
def test_what_a_guard_stops_raises_nothing() -> None:
    center, guard = 5 * np.eye(32)[:2]
    around = near(center, 200, 25.0)
    stopped = near(guard + 0.7 * center, 200, 0.1)
    rows = np.stack([center, guard])
    bare = threshold(keys(rows[:1]), misses(np.concatenate([around, stopped])), WEIGHT, 0.01)
    held = keys(rows, edit=[0, 0], subject=[0, 0], relation=[NOBODY, 5], guard=[0, 1])
    guarded = threshold(held, misses(np.concatenate([around, stopped])), WEIGHT, 0.01)
    assert guarded < bare - 0.02


def test_what_few_misses_find_is_not_below_the_floor() -> None:
    """Random misses are far away: they would let anything about the subject fire."""
    held, met = keys(RANDOM.normal(size=(1, 32))), misses(RANDOM.normal(size=(20, 32)))
    assert threshold(held, met, WEIGHT, 0.01) == pytest.approx(FLOOR, abs=1 / WEIGHT)


@pytest.mark.usefixtures("_no_floor")
def test_a_guard_does_not_stop_the_miss_that_asks_the_very_same() -> None:
    center, guard = 5 * np.eye(32)[:2]
    rows = np.stack([center, guard])
    stopped = near(guard + 0.7 * center, 200, 0.1)
    held = keys(rows, edit=[0, 0], subject=[0, 0], relation=[NOBODY, 5], guard=[0, 1])
    same = threshold(held, misses(stopped, subject=[0] * 200, relation=[5] * 200), WEIGHT, 0.01)
    other = threshold(held, misses(stopped, subject=[0] * 200, relation=[6] * 200), WEIGHT, 0.01)
    assert same > other


def test_likely_paraphrases_raise_nothing() -> None:
    centers = RANDOM.normal(size=(2, 32))
    close = near(centers[0], 50, 0.05)
    far = near(centers[1], 300, 3.0)
    wrong = np.concatenate([close, far])
    held = keys(centers)
    own = misses(wrong, edit=[0] * 350, subject=[0] * 50 + [99] * 300)
    strange = misses(wrong, edit=[0] * 350, subject=[99] * 350)
    assert threshold(held, own, WEIGHT, 0.01) < 0.9
    assert threshold(held, strange, WEIGHT, 0.01) > 0.9


@pytest.mark.usefixtures("_no_floor")
def test_another_edit_of_the_subject_counts_where_it_is_known_to_ask_something_else() -> None:
    centers = RANDOM.normal(size=(2, 32))
    wrong = near(centers[0], 300, 0.7)

    def found(held: int, asked: int) -> float:
        met = misses(wrong, edit=[1] * 300, subject=[0] * 300, relation=[asked] * 300)
        return threshold(keys(centers, relation=[held, 7]), met, WEIGHT, 0.01)

    left_out = found(3, 3)
    assert found(NOBODY, 3) == found(3, NOBODY) == found(NOBODY, NOBODY) == left_out
    assert found(3, 4) > left_out + 0.1


@pytest.mark.parametrize(
    ("edit", "relation", "count"),
    [(0, NOBODY, UNREAD), (0, 3, READ), (1, NOBODY, READ), (1, 3, READ)],
)
def test_a_miss_counts_by_what_is_known_of_the_edit_that_it_meets(
    edit: int, relation: int, count: float
) -> None:
    """The adapter was trained on relations that are recognised, and to tell relations apart."""
    centers = RANDOM.normal(size=(2, 32))
    held, wrong = keys(centers, relation=[relation, NOBODY]), near(centers[0], 2000, 0.5)
    R = tophash.overlap(made(wrong), held.codes, WEIGHT).max(axis=1)
    found = threshold(held, misses(wrong, edit=[edit] * 2000), WEIGHT, 0.05)
    assert 0.5 * 0.05 / count < np.mean(found <= R) <= 0.05 / count


def test_a_key_can_always_be_reached() -> None:
    center = RANDOM.normal(size=(1, 32))
    found = threshold(keys(center), misses(near(center[0], 20, 0.0)), WEIGHT, 0.01)
    assert found == np.float32(HIGHEST)


def test_a_key_whose_guards_are_near_answers_less_readily() -> None:
    near_, far = 5 * np.eye(32)[:2]
    rows = np.stack([near_, far, near_ + 0.4 * far, far + 4 * np.eye(32)[2]])
    held = keys(rows, edit=[0, 1, 0, 1], subject=[0, 1, 0, 1], relation=[NOBODY, NOBODY, 5, 5],
                guard=[0, 0, 1, 1])  # fmt: skip
    R = tophash.overlap(held.codes, held.codes, WEIGHT)
    found = guarded(held, WEIGHT)
    np.testing.assert_allclose(found[:2], [R[0, 2], R[1, 3]])
    assert found[0] - found[1] > 0.08
    met = misses(near(far, 200, 9.0), edit=[1] * 200)
    asked = level_of(held, met, WEIGHT, 0.01)
    limits = thresholds(held, WEIGHT, asked)
    lifted = GUARD_LIFT * (found[0] - found[1])
    np.testing.assert_allclose(limits[0] - limits[1], lifted, rtol=1e-5)
    np.testing.assert_allclose(limits[:2].mean(), asked.above, rtol=1e-5)  # the mean key's


def test_a_key_whose_name_is_near_answers_less_readily() -> None:
    """By what is known: a guard's own name tells nothing, nor does an edit without a subject."""
    rows = 5 * np.eye(32)[:4]
    held = keys(rows, edit=[0, 1, 2, 0], guard=[0, 0, 0, 1], near_name=[0.8, 0.7, np.nan, 0.1])
    asked = level_of(held, misses(near(rows[1], 200, 9.0), edit=[1] * 200), WEIGHT, 0.01)
    assert asked.near_name == pytest.approx(0.75)
    limits = thresholds(held, WEIGHT, asked)[:3] - np.float32(asked.above)
    np.testing.assert_allclose(limits, NAME_LIFT * np.array([0.05, -0.05, 0]), atol=1e-6)


def test_guards_of_a_record_lift_nothing() -> None:
    rows = 5 * np.eye(32)[:3]
    held = keys(rows, edit=[0, 1, 0], guard=[0, 0, 1])
    assert np.isnan(guarded(held, WEIGHT)).all()
    met = misses(near(rows[0], 20, 1.0))
    assert len(set(thresholds(held, WEIGHT, level_of(held, met, WEIGHT, 0.01)).tolist())) == 1


def test_a_key_that_comes_later_answers_as_if_it_had_been_there() -> None:
    """With thresholds as they were measured before, and lifted by its own guards."""
    near_, far = 5 * np.eye(32)[:2]
    rows = np.stack([near_, far, near_ + 0.4 * far, far + 4 * np.eye(32)[2]])
    both = keys(rows, edit=[0, 1, 0, 1], relation=[NOBODY, NOBODY, 5, 5], guard=[0, 0, 1, 1])
    asked = level_of(both, misses(near(far, 200, 9.0), edit=[1] * 200), WEIGHT, 0.01)
    later = Keys(*(column[[0, 2]] for column in both))
    np.testing.assert_array_equal(
        thresholds(later, WEIGHT, asked), thresholds(both, WEIGHT, asked)[[0, 2]]
    )
