"""Where the rows of a batch lie, and what joins them: without a graph, on arrays alone."""

import numpy as np
import pytest

from memoir_edge import tophash
from memoir_edge_runtime import Generation, Row, State
from memoir_edge_runtime._cache import Cached
from memoir_edge_runtime._provider import value
from memoir_edge_runtime._state import Layout, positions

CACHED = [  # the axis of tokens is where a family has it
    Cached("past_key_values.0.key", "present.0.key", np.float32, (-1, 2, None, 3)),
    Cached("past_key_values.0.value", "present.0.value", np.float16, (-1, None, 4)),
]
SIDES = pytest.mark.parametrize("layout", [Layout(CACHED, "cpu", s) for s in ("left", "right")])


def batch(layout, lengths, seed=0):
    """A state of rows of so many tokens; what stands at padding is noise."""
    rng, B, T = np.random.default_rng(seed), len(lengths), max(lengths)
    cache = {
        c.past: value(rng.normal(size=(B, *(n or T for n in c.shape[1:]))).astype(c.dtype))
        for c in CACHED
    }
    routes = tophash.Routes(np.full(B, tophash.BASE), np.zeros(B), np.full(B, -1))
    return State(cache, layout.attention(lengths), routes, Generation(0))


def joined(layout, rows, **options):
    cache, attention, room = layout.join(rows, **options)
    return State(cache, attention, rows[0][0].routes, rows[0][0].generation, room)


def own(state, i):
    """A row's keys and values at its own tokens, the axis of tokens first."""
    its = state.attention[i].astype(bool)
    return [c.by_token(state.cache[c.past].numpy()[i])[: len(its)][its].copy() for c in CACHED]


def check(state, wanted):
    for i, row in enumerate(wanted):
        for ours, theirs in zip(own(state, i), row, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_row_has_its_tokens_at_one_end_and_counts_them_from_zero():
    rows = [Row((5, 6, 7), slice(1, None)), Row((8,))]
    wanted = {
        "left": ([[5, 6, 7], [0, 0, 8]], [[1, 1, 1], [0, 0, 1]], [[0, 1, 1], [0, 0, 1]]),
        "right": ([[5, 6, 7], [8, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[0, 1, 1], [1, 0, 0]]),
    }
    for side, arrays in wanted.items():
        layout = Layout(CACHED, "cpu", side)
        for found, expected in zip(layout.padded(rows), arrays, strict=True):
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        positions(np.array([[1, 1, 1], [0, 0, 1]]), 3), [[0, 1, 2], [0] * 3]
    )
    np.testing.assert_array_equal(positions(np.array([[1, 1, 1], [0, 1, 1]]), 1), [[2], [1]])


@SIDES
def test_rows_of_several_batches_become_one_without_padding_that_none_needs(layout):
    a, b = batch(layout, [3, 9, 5]), batch(layout, [4, 6], seed=1)
    rows = [(b, 1), (a, 2), (a, 0)]
    state = joined(layout, rows)
    assert state.attention.shape == (3, 6)
    check(state, [own(*row) for row in rows])


@SIDES
def test_rows_keep_their_padding_where_they_must(layout):
    a = batch(layout, [3, 9, 5])
    state = joined(layout, [(a, 2), (a, 0)], width=9)
    assert state.attention.shape == (2, 9)
    check(state, [own(a, 2), own(a, 0)])


@SIDES
def test_a_batch_that_is_used_up_takes_rows_in_without_a_copy_of_its_own(layout):
    first = batch(layout, [3, 9, 5])
    first = joined(layout, [(first, i) for i in range(3)])
    rows = [(first, 0), (batch(layout, [7], seed=1), 0), (first, 2)]
    wanted = [own(*row) for row in rows]
    state = joined(layout, rows, into=first)
    for name, past in state.cache.items():
        assert np.shares_memory(past.numpy(), first.cache[name].numpy())
    check(state, wanted)
    moved = [(state, 2), (state, 1), (state, 0)]  # each where another is read from
    wanted = [own(*row) for row in moved]
    found = joined(layout, moved, into=state)
    for name, past in found.cache.items():
        assert not np.shares_memory(past.numpy(), state.cache[name].numpy())
    check(found, wanted)


@SIDES
def test_a_cache_that_is_far_too_large_is_given_back(layout):
    many = joined(layout, [(batch(layout, [300] * 40), i) for i in range(40)])
    assert joined(layout, [(many, i) for i in range(30)], into=many).room.held is many.room.held
    few = joined(layout, [(many, 0)], into=many)
    assert next(iter(few.room.held.values())).shape()[0] < 40


def test_only_the_state_that_was_written_last_goes_on_in_its_room():
    layout = Layout(CACHED, "cpu", "right")
    state = joined(layout, [(batch(layout, [3, 9]), i) for i in range(2)])
    other = joined(layout, [(state, 0), (state, 1)], into=state)
    assert other.room.held is state.room.held
    state.room.last = other.attention  # as a step of another state leaves it
    assert joined(layout, [(state, 0), (state, 1)], into=state).room.held is not state.room.held
