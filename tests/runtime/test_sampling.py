"""Choosing tokens, against a naive reference."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memoir_edge.errors import InputError
from memoir_edge_runtime import Options
from memoir_edge_runtime._sampling import choose, distribution, generator

logits = st.lists(
    st.floats(-20, 20, width=32) | st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=12
)


def naive(logits, temperature, top_k, top_p):
    """Token to probability, in plain Python."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    order = order[: top_k or None]
    weights = [math.exp((logits[i] - logits[order[0]]) / temperature) for i in order]
    shares = [w / sum(weights) for w in weights]
    kept, total = [], 0.0
    for token, share in zip(order, shares, strict=True):
        if top_p < 1 and total >= top_p:
            break
        kept.append((token, share))
        total += share
    return {token: share / sum(s for _, s in kept) for token, share in kept}


@given(logits, st.floats(0.05, 5), st.integers(0, 14), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_distribution_equals_the_naive_reference(values, temperature, top_k, top_p):
    options = Options(temperature=temperature, top_k=top_k, top_p=top_p)
    # A sum that meets top_p to the last bit may fall on either side of it.
    sums = np.cumsum(list(naive(values, temperature, top_k, 1).values()))
    assume(not (np.abs(sums - top_p) < 1e-9).any() or top_p == 1)
    ids, p = distribution(np.array(values, np.float32), options)
    expected = naive(values, temperature, top_k, top_p)
    found = dict(zip(ids.tolist(), p.tolist(), strict=True))
    assert found.keys() == expected.keys()
    assert all(found[i] == pytest.approx(expected[i], abs=1e-9) for i in found)


@given(logits)
def test_temperature_zero_takes_the_first_of_the_largest(values):
    row = np.array(values, np.float32)
    assert choose(row, Options(), generator(0, 0)) == values.index(max(values))


@given(logits, st.integers(0, 2**63 - 1))
def test_top_k_one_and_a_tiny_temperature_are_greedy(values, seed):
    row = np.array(values, np.float32)
    for options in (Options(temperature=3, top_k=1), Options(temperature=1e-300, top_k=1)):
        assert choose(row, options, generator(seed, 0)) == values.index(max(values))


def test_draws_follow_the_distribution():
    row, options = np.array([1.0, 0.0, 2.0, -50.0], np.float32), Options(temperature=1.5)
    random, n = generator(5, 0), 20_000
    counts = np.bincount([choose(row, options, random) for _ in range(n)], minlength=4) / n
    ids, p = distribution(row, options)
    np.testing.assert_allclose(counts[ids], p, atol=0.015)  # four standard errors


def test_a_seed_repeats_and_rows_differ():
    row, options = np.zeros(1000, np.float32), Options(temperature=1)
    draws = {key: choose(row, options, generator(*key)) for key in ((1, 0), (1, 1), (2, 0))}
    assert draws[1, 0] == choose(row, options, generator(1, 0))
    assert len(set(draws.values())) == 3


def test_a_draw_does_not_turn_on_the_last_bits():
    """A batch mate may change them; one number laid on the sums of probabilities would notice."""
    values = np.random.default_rng(0)
    for seed in range(200):
        row = values.normal(0, 1, 5000).astype(np.float32)
        other = row + values.normal(0, 1e-6, 5000).astype(np.float32)
        options = Options(temperature=1.0)
        assert choose(row, options, generator(seed, 0)) == choose(
            other, options, generator(seed, 0)
        )


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
    ],
)
def test_a_value_out_of_range_is_named(wrong):
    [name] = wrong
    with pytest.raises(InputError, match=f"{name} is .* expected"):
        Options(**wrong)
