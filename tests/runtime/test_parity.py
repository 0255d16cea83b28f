"""The exported graph answers as torch does, with a memory and without."""

import warnings

import numpy as np

from memoir_edge_exporter import export
from memoir_edge_runtime import Options

SITE = "model.layers.1.mlp.down_proj"


def _numbers(results):
    return [r.ids for r in results]


def test_base_tokens_equal_torchs(session, oracle, prompts):
    results = session.generate(prompts, Options(max_new_tokens=10))
    expected = [oracle.greedy(session.prompt(p).row.ids, 10) for p in prompts]
    print(sum(len(set(r.ids)) > 2 for r in results), "of", len(results), "answers are varied")
    assert _numbers(results) == expected


def test_edited_tokens_equal_torchs(session, oracle, prompts, make_memory):
    for feature in ("mean", "last"):
        memory = make_memory(sorted(set(prompts))[::4], feature=feature)
        base = _numbers(session.generate(prompts, Options(max_new_tokens=10), memory=session.base))
        results = session.generate(prompts, Options(max_new_tokens=10), memory=session.load(memory))
        expected = [oracle.greedy(session.prompt(p).row.ids, 10, memory) for p in prompts]
        assert _numbers(results) == expected
        fired = [r.fired is not None for r in results]
        changed = [ids != before for ids, before in zip(_numbers(results), base, strict=True)]
        print(f"{feature}: {sum(fired)} of {len(fired)} fired, {sum(changed)} answers changed")
        assert len(fired) > sum(fired) > 50
        assert sum(changed) > 0.9 * sum(fired)
        assert not any(c and not f for c, f in zip(changed, fired, strict=True))


def test_routes_and_overlaps_equal_the_oracles(session, oracle, prompts, make_memory):
    memory = make_memory(prompts[:20], guards=prompts[20:30], threshold=0.8)
    generation = session.load(memory)
    for prompt, found in zip(prompts, session.route(prompts, memory=generation), strict=True):
        wanted = oracle.route(session.prompt(prompt).row.ids, memory)
        key = int(wanted.candidate[0])
        owner = int(memory.owner[key])
        edit = int(wanted.route[0]) - 1
        assert found.edit == (f"edit-{edit}" if edit >= 0 else None)
        assert found.candidate == (f"edit-{owner}" if owner >= 0 else None)
        assert abs(found.overlap - wanted.overlap[0]) <= 1e-3
        assert found.threshold == np.float32(0.8)
        assert found.digest == generation.digest


def test_teacher_forcing_equals_torchs(session, oracle, prompts, make_memory):
    memory = make_memory(prompts[:30])
    targets = prompts[1:61]
    found = session.teacher_forced(prompts[:60], targets, memory=session.load(memory))
    for prompt, target, forced in zip(prompts, targets, found, strict=False):
        read = session.prompt(prompt).row.ids
        assert session.language.tokenizer.decode(forced.target_ids) == f" {target}"
        row = int(oracle.route(read, memory).route[0]) - 1
        logits = oracle.logits([*read, *forced.target_ids], memory, row)
        expected = logits[len(read) - 1 : -1].argmax(-1).tolist()
        assert list(forced.predicted_ids) == expected
        assert (forced.routing.edit is not None) == (row >= 0)


def test_a_trained_model_tells_its_story(stories):
    from memoir_edge_runtime import Session

    [result] = Session(stories, threads=1).generate("Once upon a time", Options(max_new_tokens=16))
    assert result.text.startswith(", there was a little girl named Lily")


def test_a_half_precision_graph_routes_and_answers_alike(
    session, model_dir, tmp_path, prompts, make_memory
):
    from memoir_edge_runtime import Session

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(model=model_dir, out=tmp_path / "half", site=SITE, dtype="fp16")
    half = Session(tmp_path / "half", threads=1)
    memory = make_memory(prompts[:20])
    assert {c.dtype for c in half.decoder._cached} == {np.float16}
    rows = [session.prompt(p).row for p in prompts[:20]]
    _, expected = session.decoder.prefill(rows, session.load(memory))
    state, found = half.decoder.prefill(rows, half.load(memory))
    print("largest difference:", np.abs(found - expected).max(), "of", np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    assert (state.routes.route > 0).all()
    half.swap(memory)
    full = session.generate(prompts[:20], Options(max_new_tokens=4), memory=session.load(memory))
    answers = half.generate(prompts[:20], Options(max_new_tokens=4))
    assert [r.fired for r in answers] == [r.fired for r in full]
    assert sum(a.ids[0] == b.ids[0] for a, b in zip(answers, full, strict=True)) >= 18
