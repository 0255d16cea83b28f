"""Choosing tokens, against a naive reference."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memoir_edge.errors import InputError
from memoir_edge_runtime import Options
from memoir_edge_runtime._sampling import choose, distribution, generator, likeliest

logits = st.lists(
    st.floats(-20, 20, width=32) | st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=12
)


def naive(logits, temperature, top_k, top_p):
    """Token to probability, in plain Python."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    order = order[: top_k or None]
    weights = [math.exp((logits[i] - logits[order[0]]) / temperature) for i in order]
    whole = sum(weights)
    shares = [w / whole for w in weights]
    kept, total = [], 0.0
    for token, share in zip(order, shares, strict=True):
        if top_p < 1 and total >= top_p:
            break
        kept.append((token, share))
        total += share
    whole = sum(share for _, share in kept)
    return {token: share / whole for token, share in kept}


@given(logits, st.floats(0.05, 5), st.integers(0, 14), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_distribution_equals_the_naive_reference(values, temperature, top_k, top_p):
    options = Options(temperature=temperature, top_k=top_k, top_p=top_p)
    # A sum that meets top_p to the last bit may fall on either side of it.
    sums = np.cumsum(list(naive(values, temperature, top_k, 1).values()))
    assume(not (np.abs(sums - top_p) < 1e-6).any() or top_p == 1)
    ids, p = distribution(np.array(values, np.float32), options)
    expected = naive(values, temperature, top_k, top_p)
    found = dict(zip(ids.tolist(), p.tolist(), strict=True))
    assert found.keys() == expected.keys()
    assert all(found[i] == pytest.approx(expected[i], abs=1e-9) for i in found)


def alone(row, options, random):
    [token] = choose(row[None], [options], [random])
    return token


def twin(row, options, random):
    """One row's choice, with nothing left out: every token's probability and wait."""
    if options.temperature == 0:
        return int(np.argmax(row))
    shares = naive(row.tolist(), options.temperature, options.top_k, options.top_p)
    waits = random.standard_exponential(len(row))
    return max(shares, key=lambda i: shares[i] / waits[i])


wishes = st.builds(
    Options,
    temperature=st.just(0.0) | st.floats(0.05, 5),
    top_k=st.just(0) | st.integers(1, 60),
    top_p=st.just(1.0) | st.floats(0.05, 0.999),
)


@settings(max_examples=100)
@given(st.lists(wishes, min_size=1, max_size=6), st.integers(0, 2**32), st.integers(1, 50))
def test_all_rows_are_chosen_as_each_alone(options, seed, width):
    values = np.random.default_rng(seed)
    rows = values.normal(0, values.choice([0.1, 2, 9]), (len(options), width)).astype(np.float32)
    rows = rows.round(values.integers(0, 6))  # some are equal
    for row, its in zip(rows, options, strict=True):
        sums = np.cumsum(list(naive(row.tolist(), its.temperature or 1, its.top_k, 1).values()))
        assume(its.top_p == 1 or (np.abs(sums - its.top_p) > 1e-6).all())
    ours, theirs = ([generator(seed, i) for i in range(len(options))] for _ in range(2))
    for _ in range(3):  # the random numbers go on alike
        expected = list(map(twin, rows, options, theirs))
        assert choose(rows, options, ours) == expected


def test_a_large_vocabulary_is_drawn_from_as_a_small_one():
    values = np.random.default_rng(0)
    rows = (values.standard_exponential((4, 6_000)) * 2).astype(np.float32)
    options = [Options(temperature=t, top_p=p) for t, p in ((1, 1), (0.5, 1), (1, 0.9), (2, 0.5))]
    for seed in range(3):
        ours, theirs = ([generator(seed, i) for i in range(4)] for _ in range(2))
        assert choose(rows, options, ours) == list(map(twin, rows, options, theirs))


@given(logits, st.integers(0, 14), st.data())
def test_the_likeliest_equal_the_naive_reference(values, count, data):
    token = data.draw(st.integers(0, len(values) - 1))
    logprob, best = likeliest(np.array(values, np.float32), token, count)
    top = max(values)
    total = top + math.log(sum(math.exp(v - top) for v in values))
    assert logprob == pytest.approx(values[token] - total, abs=1e-5)
    assert [i for i, _ in best] == list(naive(values, 1, count, 1))[:count]
    assert all(p == pytest.approx(values[i] - total, abs=1e-5) for i, p in best)


def test_a_lead_that_logprobs_lose_still_leads():
    _, best = likeliest(np.array([0.0, 1e-28], np.float32), 0, 2)
    assert [token for token, _ in best] == [1, 0]


@given(logits)
def test_temperature_zero_takes_the_first_of_the_largest(values):
    row = np.array(values, np.float32)
    assert alone(row, Options(), generator(0, 0)) == values.index(max(values))


@given(logits, st.integers(0, 2**63 - 1))
def test_top_k_one_and_a_tiny_temperature_are_greedy(values, seed):
    row = np.array(values, np.float32)
    for options in (Options(temperature=3, top_k=1), Options(temperature=1e-300, top_k=1)):
        assert alone(row, options, generator(seed, 0)) == values.index(max(values))


def test_draws_follow_the_distribution():
    row, options = np.array([1.0, 0.0, 2.0, -50.0], np.float32), Options(temperature=1.5)
    random, n = generator(5, 0), 20_000
    counts = np.bincount([alone(row, options, random) for _ in range(n)], minlength=4) / n
    ids, p = distribution(row, options)
    np.testing.assert_allclose(counts[ids], p, atol=0.015)  # four standard errors


def test_a_seed_repeats_and_rows_differ():
    row, options = np.zeros(1000, np.float32), Options(temperature=1)
    draws = {key: alone(row, options, generator(*key)) for key in ((1, 0), (1, 1), (2, 0))}
    assert draws[1, 0] == alone(row, options, generator(1, 0))
    assert len(set(draws.values())) == 3


def test_a_draw_does_not_turn_on_the_last_bits():
    """A batch mate may change them; one number laid on the sums of probabilities would notice."""
    values = np.random.default_rng(0)
    for seed in range(200):
        row = values.normal(0, 1, 5000).astype(np.float32)
        other = row + values.normal(0, 1e-6, 5000).astype(np.float32)
        options = Options(temperature=1.0)
        assert alone(row, options, generator(seed, 0)) == alone(other, options, generator(seed, 0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
        {"stop": ("a", "")},
        {"stop": (1,)},
        {"stop": None},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": "3"},
        {"max_new_tokens": None},
        {"temperature": None},
        {"temperature": "0.7"},
        {"top_k": 1.5},
        {"top_k": None},
        {"top_p": None},
        {"seed": "a"},
        {"seed": 1.5},
        {"logprobs": "2"},
    ],
)
def test_a_value_out_of_range_is_named(wrong):
    [name] = wrong
    with pytest.raises(InputError, match=f"{name} is .* expected"):
        Options(**wrong)


def test_numbers_of_numpy_are_numbers():
    asked = Options(np.int64(3), np.float32(0.5), np.int32(2), np.float64(0.9), np.uint32(1))
    assert (asked.max_new_tokens, asked.top_k, asked.seed) == (3, 2, 1)
