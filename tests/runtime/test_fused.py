"""Graphs of fused operators, as onnxruntime-genai's builder makes them: the same answers.

Their attention takes a row's length from its mask, so rows stand flush left.
"""

import numpy as np
import onnx
import pytest

from fused import fused
from memoir_edge.errors import GraphError
from memoir_edge_exporter import export
from memoir_edge_exporter._few_bits import quantize
from memoir_edge_runtime import Options, Session, _room

SITE = "model.layers.1.mlp.down_proj"


def make(model, folder, bits=None):
    graph = fused(model, folder / "graph")
    if bits:
        path = graph / "model.onnx"
        onnx.save(quantize(onnx.load(path), bits), path)
    export(onnx_dir=graph, model=model, out=folder / "out", site=SITE)
    return Session(folder / "out", threads=1)


@pytest.fixture(scope="session")
def fused_session(model_dir, tmp_path_factory):
    return make(model_dir, tmp_path_factory.mktemp("fused"))


@pytest.fixture(scope="session", params=[None, 8, 4], ids=["fp32", "int8", "int4"])
def any_bits(request, model_dir, tmp_path_factory):
    """The same with weights of few bits, too."""
    return make(model_dir, tmp_path_factory.mktemp("fused"), request.param)


@pytest.fixture
def routed(fused_session, prompts, make_memory):
    """A memory that every third of the prompts reaches."""
    return fused_session.load(make_memory(prompts[:40:3]))


def test_rows_of_a_batch_answer_as_the_model_in_torch(fused_session, routed, prompts, oracle):
    results = fused_session.generate(prompts[:12], Options(max_new_tokens=10), memory=routed)
    for result, prompt in zip(results, prompts, strict=False):
        ids = fused_session.prompt(prompt).row.ids
        assert result.ids == oracle.greedy(ids, 10, routed.memory)
        assert (result.fired is None) == (oracle.route(ids, routed.memory).route[0] < 1)
    assert len({result.fired is None for result in results}) == 2


@pytest.mark.parametrize("room", [1, 8])
def test_rows_join_and_leave_and_answer_as_alone(
    any_bits, make_memory, prompts, come_and_go, monkeypatch, room
):
    monkeypatch.setattr(_room, "_SEATS", room)
    monkeypatch.setattr(_room, "_STEP", 4 * room)
    routed = any_bits.load(make_memory(prompts[::3], threshold=0.8))
    assert 0 < come_and_go(any_bits, routed, room) < 24


def test_rows_join_where_others_have_left_and_nothing_else_is_copied(
    fused_session, routed, prompts
):
    decoder = fused_session.decoder
    read = [decoder.prefill([fused_session.prompt(p).row], routed)[0] for p in prompts[:4]]
    first = decoder.join([(state, [0]) for state in read[:3]])
    kept = {name: past.numpy().copy() for name, past in first.cache.items()}
    second = decoder.join([(first, [0]), (read[3], [0]), (first, [2])], into=first)
    for name, past in second.cache.items():
        assert np.shares_memory(past.numpy(), first.cache[name].numpy())
        np.testing.assert_array_equal(past.numpy()[[0, 2]], kept[name][[0, 2]])
    moved = decoder.join([(second, [2, 0])], into=second)  # each where the other is read from
    swapped = decoder.take(second, [2, 0])
    for name, past in moved.cache.items():
        assert not np.shares_memory(past.numpy(), second.cache[name].numpy())
        np.testing.assert_array_equal(past.numpy(), swapped.cache[name].numpy())


def test_room_that_few_rows_leave_is_given_back(fused_session, routed, prompts):
    decoder = fused_session.decoder
    many, _ = decoder.prefill([fused_session.prompt(p).row for p in prompts[:40]], routed)
    roomy = decoder.take(many, range(40))
    assert decoder.join([(roomy, range(30))], into=roomy).room.held is roomy.room.held
    few = decoder.join([(roomy, [0])], into=roomy)
    assert next(iter(few.room.held.values())).shape()[0] < 40


def test_every_position_of_a_prompt_is_read(fused_session, session, prompts, make_memory):
    memory = make_memory(prompts[:6:2])
    pairs = prompts[:6], prompts[6:12]
    loaded = session.load(memory), fused_session.load(memory)
    expected, found = (
        each.teacher_forced(*pairs, memory=generation)
        for each, generation in zip((session, fused_session), loaded, strict=True)
    )
    assert [f.predicted_ids for f in found] == [f.predicted_ids for f in expected]
    [plain], [ours] = (each.read_prompts(prompts[3], 1) for each in (session, fused_session))
    assert [t.id for t in ours] == [t.id for t in plain]
    np.testing.assert_allclose(ours[2].logprob, plain[2].logprob, atol=1e-3)


def test_how_far_a_cache_grows_at_once_changes_nothing(fused_session, routed, prompts, monkeypatch):
    wanted = Options(max_new_tokens=10)
    roomy = fused_session.generate(prompts[:6], wanted, memory=routed)
    monkeypatch.setattr(_room, "_STEP", 3)
    assert fused_session.generate(prompts[:6], wanted, memory=routed) == roomy


def test_a_step_leaves_its_state_as_it_was(fused_session, routed, prompts):
    rows = [fused_session.prompt(p).row for p in prompts[:4]]
    state, logits = fused_session.decoder.prefill(rows, routed)
    tokens = [int(t) for t in logits.argmax(-1)]
    after, first = fused_session.decoder.step(state, tokens)
    fused_session.decoder.step(state, [3] * 4)
    again, second = fused_session.decoder.step(state, tokens)
    np.testing.assert_array_equal(first, second)
    ends = [fused_session.decoder.step(each, tokens)[1] for each in (after, again)]
    np.testing.assert_array_equal(*ends)


def test_what_onnxruntime_says_of_a_failed_run_is_one_line(fused_session, routed, prompts):
    rows = [fused_session.prompt(p).row for p in prompts[:2]]
    state, _ = fused_session.decoder.prefill(rows, routed)
    with pytest.raises(GraphError, match="the graph failed on a batch of 2 by 1 tokens") as caught:
        fused_session.decoder.step(state, [10**9, 3])
    assert "\n" not in str(caught.value)
    assert caught.value.hint
