"""Graphs of fused operators, as onnxruntime-genai's builder makes them: the same answers.

Their attention takes a row's length from its mask, so rows stand flush left.
"""

import numpy as np
import onnx
import pytest

from memoir_edge.errors import GraphError
from memoir_edge_exporter import export
from memoir_edge_exporter._few_bits import quantize
from memoir_edge_runtime import Options, Session, _room
from memoir_edge_runtime._batch import Batch

SITE = "model.layers.1.mlp.down_proj"


def make(model, folder, fused, bits=None):
    graph = fused(model, folder / "graph")
    if bits:
        path = graph / "model.onnx"
        onnx.save(quantize(onnx.load(path), bits), path)
    export(onnx_dir=graph, model=model, out=folder / "out", site=SITE)
    return Session(folder / "out", threads=1)


@pytest.fixture(scope="session")
def fused_session(model_dir, fused, tmp_path_factory):
    return make(model_dir, tmp_path_factory.mktemp("fused"), fused)


@pytest.fixture(scope="session", params=[None, 8, 4], ids=["fp32", "int8", "int4"])
def any_bits(request, model_dir, fused, tmp_path_factory):
    """The same with weights of few bits, too."""
    return make(model_dir, tmp_path_factory.mktemp("fused"), fused, request.param)


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


def test_rows_join_and_leave_and_answer_as_alone(any_bits, make_memory, prompts):
    fused_session, routed = any_bits, any_bits.load(make_memory(prompts[:40:3], threshold=0.3))
    lengths = [9, 3, 6, 12, 5, 8]
    rows = [
        fused_session.completions(prompt, Options(max_new_tokens=n))[0]
        for prompt, n in zip(prompts, lengths, strict=False)
    ]
    batch, waiting = Batch(fused_session.decoder, routed), list(rows)
    while waiting or batch.live:
        if waiting:
            batch.add([waiting.pop(0)])
        if batch.live:
            batch.step()
    for row, prompt, n in zip(rows, prompts, lengths, strict=False):
        [alone] = fused_session.generate(prompt, Options(max_new_tokens=n), memory=routed)
        assert row.result().ids == alone.ids
        assert row.result().fired == alone.fired


def test_every_position_of_a_prompt_is_read(fused_session, session, prompts, make_memory):
    memory = make_memory(prompts[:6:2])
    pairs = prompts[:6], prompts[6:12]
    loaded = session.load(memory), fused_session.load(memory)
    expected, found = (
        each.teacher_forced(*pairs, memory=generation)
        for each, generation in zip((session, fused_session), loaded, strict=True)
    )
    assert [f.predicted_ids for f in found] == [f.predicted_ids for f in expected]
    [plain], [fused] = (each.read_prompts(prompts[3], 1) for each in (session, fused_session))
    assert [t.id for t in fused] == [t.id for t in plain]
    np.testing.assert_allclose(fused[2].logprob, plain[2].logprob, atol=1e-3)


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
