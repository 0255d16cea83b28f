"""Prompts read in parts and behind what is kept: the same answers as read at once."""

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from memoir_edge_runtime import Options, Row
from memoir_edge_runtime._batch import Batch
from memoir_edge_runtime._reading import Prefixes, Reader

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
# MEMOIR_EDGE_SEQUENCES=10000 is the long run.
SEQUENCES = int(os.environ.get("MEMOIR_EDGE_SEQUENCES", "12"))
KEPT = 60_000  # bytes of about 150 tokens
SYSTEM = "the capital of France is a long river " * 2


@pytest.fixture
def reader(session):
    return Reader(session.decoder, base="base", chunk=8, max_bytes=2**20, block=4)


def _last(parts):
    *before, read = parts
    assert all(part is None for part in before)
    return len(before), *read


def _told(session, prompt):
    """A prompt whose last word alone counts, as in a chat."""
    ids = session.prompt(prompt).row.ids
    return Row(ids, slice(len(ids) - 3, len(ids)))


@pytest.fixture
def chats(session, prompts):
    return [_told(session, SYSTEM + text) for text in prompts[:6]]


def test_parts_give_what_one_reading_gives(session, reader, chats):
    for row in chats:
        whole, expected = session.decoder.prefill([row], session.base)
        parts, state, logits = _last(reader.read(row, session.base, None))
        np.testing.assert_allclose(logits, expected, **TOLERANCE)
        assert state.attention.sum() == whole.attention.sum()
        stepped = [session.decoder.step(s, [5])[1] for s in (whole, state)]
        np.testing.assert_allclose(*stepped, **TOLERANCE)
    assert reader.found > 0
    assert parts < len(chats[0].ids) // 8  # most was kept from the prompt before


@pytest.mark.parametrize("feature", ["mean", "last"])
def test_a_route_is_decided_behind_what_the_base_model_read(
    session, reader, chats, feature, make_memory, prompts
):
    generation = session.load(make_memory(prompts[:30:2], feature=feature, threshold=0.5))
    for row in [*chats, *chats]:
        whole, expected = session.decoder.prefill([row], generation)
        _, state, logits = _last(reader.read(row, generation, None))
        assert state.routes.route == whole.routes.route
        np.testing.assert_allclose(state.routes.overlap, whole.routes.overlap, atol=1e-6)
        np.testing.assert_allclose(logits, expected, **TOLERANCE)
    assert reader.found > 0


def test_what_an_edit_answers_is_read_with_the_edit_from_the_first_token_on(
    session, reader, chats, make_memory
):
    row = chats[0]
    given, _ = session.decoder.prefill([row], session.load(make_memory(["a"], seed=3)))
    generation = given.generation
    fired = given.routes._replace(route=np.array([1]))
    _, expected = session.decoder.prefill([row], generation, fired)
    _, base = session.decoder.prefill([row], session.base)
    assert np.abs(expected - base).max() > 0.01
    for _ in range(2):  # the second time behind what the first has kept
        list(reader.read(row, session.base, None))
        _, state, logits = _last(reader.read(row, generation, fired))
        np.testing.assert_allclose(logits, expected, **TOLERANCE)
        assert state.routes.route == 1
        _, _, logits = _last(reader.read(row, session.base, None))
        np.testing.assert_allclose(logits, base, **TOLERANCE)


def test_the_least_used_beginnings_are_dropped_and_no_more_is_kept_than_fits():
    block = {"k": np.zeros(10, np.float32)}
    kept = Prefixes("base", max_bytes=120, block=2)
    first, second = (kept.names("", ids) for ids in ([1, 2, 3, 4, 9], [5, 6]))
    assert len(first) == 2
    for name in (*first, *second):
        kept.keep(name, block)
    assert kept.bytes == 120
    assert len(kept.find(first)) == 2
    kept.keep(b"another", block)
    assert kept.find(second) == []
    assert len(kept.find(first)) == 2
    kept.keep(b"more", block)
    kept.keep(b"and more", block)
    assert len(kept.find(first)) == 1  # the end of a beginning goes first
    assert kept.bytes <= 120


def test_names_tell_of_base_route_and_all_tokens_before():
    def names(base="b", kind="", ids=(1, 2, 3, 4)):
        return Prefixes(base, 1, block=2).names(kind, ids)

    assert names() == names()
    assert names(ids=(1, 2, 3, 5))[0] == names()[0]
    others = (names(base="c"), names(kind="d 1"), names(ids=(0, 2, 3, 4)))
    assert all(not set(other) & set(names()) for other in others)


def test_swaps_loads_and_questions_in_any_order_equal_a_twin_without_cache(
    session, make_memory, prompts
):
    """Memories of the same keys come and go; every answer is also asked of a twin."""

    made = [make_memory(prompts[:30:2], seed=seed, threshold=0.4) for seed in (1, 2)]
    rows = [session.chat_prompt([{"role": "system", "content": SYSTEM[:n]},
                                 {"role": "user", "content": text}])
            for n in (40, 70) for text in prompts[:6]]  # fmt: skip
    fired, count = set(), Counter()

    class Sequences(RuleBasedStateMachine):
        @initialize()
        def begin(self):
            self.reader = Reader(session.decoder, base="b", chunk=16, max_bytes=KEPT, block=4)
            self.generation = session.load(made[0])  # so that edits fire in most sequences
            self.loaded = {0: self.generation}
            count["sequences"] += 1

        @rule(number=st.integers(0, 1))
        def load(self, number):
            self.loaded[number] = self.generation = session.load(made[number])

        @rule(number=st.integers(0, 1))
        def swap(self, number):
            self.generation = self.loaded.get(number, session.base)

        @rule(number=st.integers(0, 1))
        def delete(self, number):
            if self.loaded.pop(number, None) is self.generation:
                self.generation = session.base

        @rule(asked=st.lists(st.sampled_from(rows), min_size=1, max_size=3))
        def ask(self, asked):
            found = [self.written(reader, asked) for reader in (self.reader, None)]
            assert found[0] == found[1]
            count["answers"] += len(asked)
            fired.update(edit for _, edit in found[0])

        def written(self, reader, asked):
            batch = Batch(session.decoder, self.generation, 96, reader)
            completions = session.completions(asked, Options(2, ignore_eos=True))
            batch.add(completions)
            while batch.reading:
                batch.read()
            while batch.live:
                batch.step()
            return [(c.ids, c.result().fired) for c in completions]

        @invariant()
        def fits(self):
            if hasattr(self, "reader"):
                assert self.reader.prefixes.bytes <= KEPT

    run_state_machine_as_test(
        Sequences,
        settings=settings(
            max_examples=SEQUENCES, stateful_step_count=12, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    print(count, len(fired), "edits fired")
    assert len(fired) > 1
