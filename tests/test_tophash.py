"""TopHash and routing against brute force: Python sets and loops, one row at a time."""

import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_edge import tophash
from memoir_edge.tophash import BASE, UNDECIDED


class Keys(NamedTuple):
    """B queries and R stored masks of D bits, k of them set."""

    D: int
    k: int
    query: np.ndarray  # [B, D] bool
    bank: np.ndarray  # [R, D] bool


def masks(rng: np.random.Generator, rows: int, D: int, k: int) -> np.ndarray:
    """`[rows, D]` bool of weight k; few enough bits differ that overlaps tie often."""
    return rng.permuted(np.tile(np.arange(D) < k, (rows, 1)), axis=1)


@st.composite
def keys(draw: st.DrawFn, least: int = 1) -> Keys:
    D = draw(st.integers(1, 24))
    k = draw(st.integers(1, D))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    B, R = draw(st.integers(1, 4)), draw(st.integers(least, 8))
    return Keys(D, k, masks(rng, B, D, k), masks(rng, R, D, k))


def ones(mask: np.ndarray) -> set[int]:
    return set(np.flatnonzero(mask).tolist())


# --- Masks ---------------------------------------------------------------------------------------


@given(keys(least=0))
def test_unpack_undoes_pack(found: Keys) -> None:
    packed = tophash.pack(found.bank)
    assert packed.dtype == np.uint8
    assert packed.shape == (len(found.bank), -(-found.D // 8))
    assert (tophash.unpack(packed, found.D) == found.bank).all()
    assert (tophash.pack(tophash.unpack(packed, found.D)) == packed).all()


@given(keys())
def test_pack_puts_bit_j_at_bit_j_mod_8_of_byte_j_div_8(found: Keys) -> None:
    for mask, packed in zip(found.bank, tophash.pack(found.bank), strict=True):
        expected = [0] * len(packed)
        for j in ones(mask):
            expected[j // 8] |= 1 << j % 8
        assert packed.tolist() == expected  # padding bits are 0


NUMBERS = st.floats(-4, 4, width=16)  # narrow and few: ties are common


@st.composite
def features(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    D = draw(st.integers(1, 20))
    rows = draw(st.integers(1, 3))
    f = draw(st.lists(st.lists(NUMBERS, min_size=D, max_size=D), min_size=rows, max_size=rows))
    center = draw(st.lists(st.sampled_from([0, 0.5, -1]), min_size=D, max_size=D))
    scale = draw(st.lists(st.sampled_from([1, 2, 0, -0.5]), min_size=D, max_size=D))
    permutation = draw(st.permutations(range(D)))
    arrays = [np.array(values, np.float32) for values in (f, center, scale)]
    return *arrays, np.array(permutation, np.int32), draw(st.integers(0, D))


@given(features())
def test_a_mask_has_weight_k_at_the_permuted_places_of_the_largest(
    given: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int],
) -> None:
    f, center, scale, permutation, k = given
    found = tophash.mask(f, center, scale, permutation, k)
    assert (found.sum(axis=1) == k).all()
    for row, bits in zip(f, found, strict=True):
        size = [abs(float((v - c) * s)) for v, c, s in zip(row, center, scale, strict=True)]
        largest = sorted(range(len(row)), key=lambda i: (-size[i], i))[:k]  # lower index first
        assert ones(bits) == {int(permutation[i]) for i in largest}


def test_ties_of_the_top_k_go_to_the_lower_index() -> None:
    f = np.array([[1, -2, 2, 1, -1, 2]], np.float32)
    identity = np.arange(6, dtype=np.int32)
    found = [
        tophash.mask(f, np.zeros(6, np.float32), np.ones(6, np.float32), identity, k)
        for k in range(7)
    ]
    assert [sorted(ones(m[0])) for m in found] == [
        [],
        [1],
        [1, 2],
        [1, 2, 5],
        [0, 1, 2, 5],
        [0, 1, 2, 3, 5],
        [0, 1, 2, 3, 4, 5],
    ]
    flat = tophash.mask(
        np.zeros((1, 6), np.float32), np.zeros(6, np.float32), np.ones(6, np.float32), identity, 2
    )
    assert ones(flat[0]) == {0, 1}


def test_a_mask_does_not_depend_on_batch_mates() -> None:
    rng = np.random.default_rng(0)
    f = rng.normal(size=(7, 50)).astype(np.float32)
    center, scale = rng.normal(size=(2, 50)).astype(np.float32)
    permutation = rng.permutation(50).astype(np.int32)
    together = tophash.mask(f, center, scale, permutation, 13)
    for i in range(7):
        assert (tophash.mask(f[i : i + 1], center, scale, permutation, 13) == together[i]).all()


# --- Spans and features --------------------------------------------------------------------------

PADDED = {
    "none": ([1, 1, 1, 1], [0, 0, 0, 1]),
    "left": ([0, 0, 1, 1], [0, 0, 0, 1]),
    "right": ([1, 1, 0, 0], [0, 1, 0, 0]),
    "both": ([0, 1, 1, 0], [0, 0, 1, 0]),
    "one token": ([0, 1, 0, 0], [0, 1, 0, 0]),
    "no token": ([0, 0, 0, 0], [0, 0, 0, 0]),
}


@pytest.mark.parametrize(("attention", "last"), PADDED.values(), ids=PADDED)
def test_span_of_padded_rows(attention: list[int], last: list[int]) -> None:
    for dtype in (np.int64, np.int32):
        rows = np.array([attention, [1, 1, 1, 1]], dtype)
        assert tophash.span("mean", rows).tolist() == rows.tolist()
        assert tophash.span("last", rows).tolist() == [last, [0, 0, 0, 1]]
        assert tophash.span("last", rows).dtype == np.int64


@pytest.mark.parametrize("name", tophash.FEATURES)
def test_a_span_of_a_long_prompt_takes_no_square_of_it(name: str) -> None:
    attention = np.ones((1, T := 1 << 14), np.int64)
    tracemalloc.start()
    try:
        span = tophash.span(name, attention)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert span[0, -1] == 1
    assert peak < 100 * T


@given(
    st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 4), st.sampled_from(["mean", "last"])
)
def test_a_feature_does_not_depend_on_padding(seed: int, T: int, more: int, name: str) -> None:
    """The same tokens, padded left or right with anything, NaN too."""
    a = np.random.default_rng(seed).normal(size=(1, T, 6)).astype(np.float32)
    alone = tophash.feature(a, tophash.span(name, np.ones((1, T), np.int64)))
    expected = a[0].mean(axis=0) if name == "mean" else a[0, -1]
    np.testing.assert_allclose(alone[0], expected, rtol=1e-6, atol=1e-6)
    for junk in (0, 1e30, np.nan, np.inf):
        padding = np.full((1, more, 6), junk, np.float32)
        attention = np.array([[0] * more + [1] * T])
        left = tophash.feature(np.concatenate([padding, a], 1), tophash.span(name, attention))
        right = np.concatenate([a, padding], 1), tophash.span(name, attention[:, ::-1])
        np.testing.assert_allclose(left, alone, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(tophash.feature(*right), alone, rtol=1e-6, atol=1e-6)


def test_a_feature_of_no_tokens_is_zero() -> None:
    a = np.full((1, 3, 2), np.nan, np.float32)
    assert tophash.feature(a, np.zeros((1, 3), np.int64)).tolist() == [[0, 0]]


def test_a_feature_is_formed_in_float32() -> None:
    a = np.full((1, 4096, 1), 100, np.float16)  # the sum is beyond float16
    found = tophash.feature(a, np.ones((1, 4096), np.int64))
    assert found.dtype == np.float32
    assert found.tolist() == [[100]]


# --- Overlap and routing -------------------------------------------------------------------------


@given(keys(least=0))
def test_overlap_is_the_share_of_common_ones(found: Keys) -> None:
    R = tophash.overlap(tophash.pack(found.query), tophash.pack(found.bank), found.k)
    assert R.dtype == np.float32
    for i, query in enumerate(found.query):
        for j, key in enumerate(found.bank):
            common = len(ones(query) & ones(key))
            hamming = len(ones(query) ^ ones(key))
            assert R[i, j] == np.float32(common) / np.float32(found.k)
            assert R[i, j] == pytest.approx(1 - hamming / (2 * found.k), abs=1e-6)


@st.composite
def routings(draw: st.DrawFn) -> tuple[Keys, np.ndarray, np.ndarray, np.ndarray]:
    found = draw(keys())
    R, k = len(found.bank), found.k
    owner: list[int] = []
    for row in range(R):
        primary = [i for i, own in enumerate(owner) if own == i]
        owner.append(draw(st.sampled_from([row, -1, *primary])))
    # thresholds that overlaps reach exactly, and some that they never or always reach
    steps = st.sampled_from([-1.0, 2.0, *(i / k for i in range(k + 1))])
    count = draw(st.sampled_from([1, R]))
    thresholds = np.array(draw(st.lists(steps, min_size=count, max_size=count)), np.float32)
    B = len(found.query)
    rows = draw(st.sampled_from([1, B]))
    given = draw(st.lists(st.integers(-2, R), min_size=rows, max_size=rows))
    return found, np.array(owner, np.int32), thresholds, np.array(given, np.int64)


@settings(max_examples=300)
@given(routings())
def test_route_against_a_loop(case: tuple[Keys, np.ndarray, np.ndarray, np.ndarray]) -> None:
    found, owner, thresholds, given = case
    query, bank = tophash.pack(found.query), tophash.pack(found.bank)
    routes = tophash.route(query, given, bank, owner, thresholds, found.k)
    for i in range(len(query)):
        asked = int(given[i % len(given)])
        if asked != UNDECIDED:
            expected: tuple[int, float, int] = (asked, 0, -1)
        else:
            best, candidate = np.float32(-1), -1
            for row, key in enumerate(found.bank):
                R = np.float32(len(ones(found.query[i]) & ones(key))) / np.float32(found.k)
                if best <= R:  # not <: the newest among equals
                    best, candidate = R, row
            reached = best >= thresholds[candidate % len(thresholds)]
            fires = reached and owner[candidate] >= 0
            expected = (int(owner[candidate]) + 1 if fires else BASE, best, candidate)
        assert (routes.route[i], routes.overlap[i], routes.candidate[i]) == expected


def bank_of(*rows: list[int]) -> np.ndarray:
    bits = np.zeros((len(rows), 10), np.bool_)
    for row, places in enumerate(rows):
        bits[row, places] = True
    return tophash.pack(bits)


def routed(query: list[int], bank: np.ndarray, owner: list[int], threshold: float = 0.5) -> list:
    found = tophash.route(
        bank_of(query),
        np.zeros(1, np.int64),
        bank,
        np.array(owner, np.int32),
        np.array([threshold], np.float32),
        2,
    )
    return [values.tolist()[0] for values in found]


def test_the_newest_wins_among_equals() -> None:
    bank = bank_of([0, 1], [0, 1], [0, 2])
    assert routed([0, 1], bank, [0, 1, 2]) == [2, 1, 1]
    assert routed([1, 3], bank, [0, 1, 2]) == [2, 0.5, 1]
    assert routed([0, 3], bank, [0, 1, 2]) == [3, 0.5, 2]


def test_a_guard_that_is_best_holds_the_base_model() -> None:
    """Its overlap and row are reported; an edit that is nearly as good does not fire instead."""
    bank = bank_of([0, 1], [0, 2])
    assert routed([0, 2], bank, [0, -1]) == [BASE, 1, 1]
    assert routed([0, 1], bank, [0, -1]) == [1, 1, 0]


def test_an_extra_key_routes_to_its_edit() -> None:
    assert routed([5, 6], bank_of([0, 1], [2, 3], [5, 6]), [0, 1, 0]) == [1, 1, 2]


def test_at_the_threshold_a_key_is_taken() -> None:
    bank = bank_of([0, 1])
    assert routed([0, 5], bank, [0], 0.5) == [1, 0.5, 0]
    assert routed([0, 5], bank, [0], np.nextafter(0.5, 1, dtype=np.float32)) == [BASE, 0.5, 0]


def test_nothing_in_common_is_the_base_model() -> None:
    """A candidate there is, but with overlap 0 it is reached by a threshold of 0 alone."""
    bank = bank_of([0, 1], [2, 3])
    assert routed([7, 8], bank, [0, 1]) == [BASE, 0, 1]
    assert routed([7, 8], bank, [0, 1], 0) == [2, 0, 1]


def test_an_empty_mask_in_the_bank_is_never_reached() -> None:
    """The empty memory of the ports: one guard without a bit."""
    assert routed([0, 1], bank_of([]), [-1], 2) == [BASE, 0, 0]


def test_given_routes_are_held() -> None:
    bank = bank_of([0, 1], [2, 3])
    query = np.concatenate([bank_of([0, 1])] * 3)
    owner, thresholds = np.arange(2, dtype=np.int32), np.array([0.5], np.float32)
    held = tophash.route(query, np.array([BASE, 2, UNDECIDED]), bank, owner, thresholds, 2)
    assert held.route.tolist() == [BASE, 2, 1]
    assert held.overlap.tolist() == [0, 0, 1]
    assert held.candidate.tolist() == [-1, -1, 0]
    all_base = tophash.route(query, np.array([BASE]), bank, owner, thresholds, 2)
    assert all_base.route.tolist() == [BASE] * 3


def test_routing_does_not_depend_on_batch_mates() -> None:
    rng = np.random.default_rng(1)
    query, bank = (tophash.pack(masks(rng, n, 40, 9)) for n in (20, 30))
    rest = bank, np.arange(30, dtype=np.int32), np.array([0.4], np.float32), 9
    together = tophash.route(query, np.zeros(1, np.int64), *rest)
    assert {*together.route.tolist()} > {BASE}
    for i in range(20):
        alone = tophash.route(query[i : i + 1], np.zeros(1, np.int64), *rest)
        assert [v[0] for v in alone] == [v[i] for v in together]
