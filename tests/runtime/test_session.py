"""Requests: batches, streams, stop strings, seeds, limits, and every refusal."""

import shutil
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memoir_edge.errors import GraphError, InputError
from memoir_edge_runtime import Result, Session, Token

CONTEXT = 96


def test_temperature_zero_is_deterministic(session, prompts):
    first = session.generate(prompts[:20], max_new_tokens=12)
    assert session.generate(prompts[:20], max_new_tokens=12) == first
    assert session.generate(prompts[:20], max_new_tokens=12, seed=3) == first


def test_a_batch_equals_single_rows(session, prompts, make_memory):
    session.swap(make_memory(prompts[:40:3]))
    batch = session.generate(prompts[:40], max_new_tokens=12)
    assert [r.prompt for r in batch] == prompts[:40]
    for row, together in enumerate(batch):
        [alone] = session.generate(together.prompt, max_new_tokens=12)
        assert (alone.ids, alone.text, alone.fired) == (together.ids, together.text, together.fired)
        assert (alone.row, together.row) == (0, row)
    assert len({r.fired is None for r in batch}) == 2


def test_how_many_run_together_changes_nothing(export_dir, session, prompts):
    narrow = Session(export_dir, threads=1, max_batch=3)
    wanted = {"max_new_tokens": 8, "temperature": 1.0, "seed": 4}
    assert narrow.generate(prompts[:10], **wanted) == session.generate(prompts[:10], **wanted)
    assert narrow.route(prompts[:10]) == session.route(prompts[:10])
    pairs = prompts[:10], prompts[10:20]
    assert narrow.teacher_forced(*pairs) == session.teacher_forced(*pairs)


def test_a_stream_gives_each_rows_tokens_and_then_its_result(session, prompts):
    tokens, results = {}, {}
    for event in session.stream(prompts[:8], max_new_tokens=12, temperature=1.0, seed=1):
        assert event.row not in results
        if isinstance(event, Token):
            tokens.setdefault(event.row, []).append(event)
        else:
            results[event.row] = event
    assert sorted(results) == list(range(8))
    for row, result in results.items():
        assert tuple(t.id for t in tokens[row]) == result.ids
        assert "".join(t.text for t in tokens[row]) == result.text
        assert result.completion_tokens == len(result.ids)
        assert result.prompt_tokens == len(session.prompt(prompts[row]).row.ids)
    assert not all(r.text.replace("\ufffd", "").isascii() for r in results.values())


def test_the_text_is_the_ids_decoded(session, prompts):
    for result in session.generate(prompts[:30], max_new_tokens=20):
        assert result.text == session.language.tokenizer.decode(result.ids)


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.data())
def test_a_stop_string_cuts_the_text_exactly(session, data):
    wanted = {"max_new_tokens": 16, "temperature": 1.0, "seed": data.draw(st.integers(0, 10**6))}
    [free] = session.generate("the capital", **wanted)
    begin = data.draw(st.integers(0, max(0, len(free.text) - 1)))
    stop = free.text[begin : begin + data.draw(st.integers(1, 5))]
    if not stop or "\ufffd" in stop:
        return
    *tokens, result = session.stream("the capital", stop=stop, **wanted)
    assert result.text == free.text[: free.text.find(stop)] == "".join(t.text for t in tokens)
    assert result.finish_reason == "stop"
    assert result.ids == free.ids[: len(result.ids)]
    assert stop in session.language.tokenizer.decode(result.ids)


def test_finish_reasons(session, prompts, monkeypatch):
    results = session.generate(prompts[:10], max_new_tokens=5)
    assert {r.finish_reason for r in results} == {"length"}
    assert {len(r.ids) for r in results} == {5}
    ending = results[0].ids[2]
    language = session.language
    monkeypatch.setattr(session, "language", replace(language, eos=frozenset([ending])))
    ended = session.generate(prompts[0], max_new_tokens=5)[0]
    assert (ended.finish_reason, ended.ids) == ("stop", results[0].ids[:3])
    assert ended.text == language.tokenizer.decode(ended.ids[:-1])  # its end is no text


def test_rows_that_end_early_leave_the_others_as_they_are(session, prompts, monkeypatch):
    wanted = {"max_new_tokens": 24, "temperature": 1.0, "seed": 2}
    free = session.generate(prompts[:9], **wanted)
    language, counts = session.language, []
    often = frozenset(r.ids[i] for i, r in enumerate(free))  # row i ends at token i or before
    monkeypatch.setattr(session, "language", replace(language, eos=often))
    step = session.decoder.step
    monkeypatch.setattr(session.decoder, "step", lambda s, t: counts.append(len(t)) or step(s, t))
    ended = session.generate(prompts[:9], **wanted)
    for result, before in zip(ended, free, strict=True):
        assert result.ids == before.ids[: len(result.ids)]
        assert result.finish_reason == "stop"
        assert result.ids[-1] in often
        assert not often & set(result.ids[:-1])
    assert counts[-1] < 9  # ended rows were dropped on the way
    assert len(counts) == max(len(r.ids) for r in ended) - 1


def test_a_seed_repeats_and_does_not_look_at_batch_mates(session, prompts):
    wanted = {"max_new_tokens": 10, "temperature": 0.9, "top_k": 40, "top_p": 0.95}
    first = session.generate(prompts[:5], seed=11, **wanted)
    assert session.generate(prompts[:5], seed=11, **wanted) == first
    others = session.generate([*prompts[40:43], *prompts[3:5]], seed=11, **wanted)
    assert [r.ids for r in others[3:]] == [r.ids for r in first[3:]]
    assert [r.ids for r in session.generate(prompts[:5], seed=12, **wanted)] != [
        r.ids for r in first
    ]
    assert [r.ids for r in session.generate(prompts[:5], **wanted)] != [r.ids for r in first]


def test_equal_prompts_are_drawn_apart(session, prompts):
    drawn = session.generate([prompts[0]] * 4, temperature=1.0, seed=0, max_new_tokens=10)
    assert len({r.ids for r in drawn}) == 4


def _long(session, length):
    """A prompt of exactly so many tokens."""
    text = "a" * (length - 1)
    assert len(session.language.tokenizer.encode(text)) == length
    return text


def test_the_context_ends_a_row(session):
    short, long = session.generate(["a", _long(session, CONTEXT - 3)], max_new_tokens=CONTEXT * 2)
    assert (long.finish_reason, len(long.ids)) == ("length", 3)
    assert short.prompt_tokens + len(short.ids) == CONTEXT or short.finish_reason == "stop"
    assert session.generate("a", max_new_tokens=CONTEXT * 2)[0].ids == short.ids


def test_a_batch_is_never_wider_than_the_context(session, monkeypatch):
    widths, step = [], session.decoder.step
    monkeypatch.setattr(
        session.decoder, "step", lambda s, t: widths.append(s.attention.shape[1] + 1) or step(s, t)
    )
    session.generate(["a", "b", "c", _long(session, CONTEXT - 3)], max_new_tokens=40)
    assert max(widths) <= CONTEXT


def test_a_prompt_that_fills_the_context_is_refused_before_anything_runs(session, monkeypatch):
    session.generate(_long(session, CONTEXT - 1))
    monkeypatch.setattr(session.decoder, "read", None)
    with pytest.raises(InputError, match=r"96 tokens long.* room for 95"):
        session.stream(["a", _long(session, CONTEXT)])  # at the call, not at the first token
    chat = [{"role": "user", "content": "a" * CONTEXT}]
    with pytest.raises(InputError, match="room for 95"):
        session.chat_prompt(chat)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 2}, "top_p is 2"),
        ({"stop": ""}, "stop"),
        ({"prompts": []}, "no prompts"),
    ],
)
def test_bad_requests(session, wrong, said):
    with pytest.raises(InputError, match=said):
        session.stream(**{"prompts": "a"} | wrong)


def test_an_empty_prompt_needs_a_bos(session, monkeypatch):
    [result] = session.generate("", max_new_tokens=2)
    assert (result.prompt_tokens, len(result.ids)) == (1, 2)
    language = session.language
    bare = type(language.tokenizer)(language.tokenizer.core, frozenset(), {})
    monkeypatch.setattr(type(bare), "encode", type(bare).encode_bare)
    with pytest.raises(InputError, match="the prompt is empty"):
        session.generate("")


def test_chats_are_answered(session, make_memory):
    said = "the capital of France"
    prompt = session.chat_prompt([{"role": "user", "content": said}])
    [result] = session.generate(prompt, max_new_tokens=4)
    assert result.prompt == session.render_chat([{"role": "user", "content": said}])
    assert result.prompt_tokens == len(prompt.row.ids)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ((["a"], []), "1 prompts and 0 targets"),
        ((["a"], [""]), "at least a token"),
        ((["a"], ["b" * CONTEXT]), r"the prompt with its target is 9\d tokens long.*room for 96"),
    ],
)
def test_bad_teacher_forcing(session, pair, said):
    with pytest.raises(InputError, match=said):
        session.teacher_forced(*pair)


def test_teacher_forcing_may_fill_the_context(session):
    [forced] = session.teacher_forced(["a"], ["b" * (CONTEXT - 3)])
    assert 2 + len(forced.target_ids) == CONTEXT
    assert len(forced.predicted_ids) == len(forced.target_ids)


@pytest.fixture
def spoiled(export_dir, tmp_path):
    """A copy of the export, to be spoiled."""
    return shutil.copytree(export_dir, tmp_path / "spoiled")


@pytest.mark.parametrize(
    ("absent", "error", "said"),
    [
        ("memoir_edge.json", GraphError, r"no memoir_edge\.json"),
        ("tokenizer.json", InputError, "no tokenizer"),
        ("model.onnx", GraphError, r"no model\.onnx"),
        ("config.json", InputError, r"config\.json"),
    ],
)
def test_a_folder_that_lacks_a_file(spoiled, absent, error, said):
    (spoiled / absent).unlink()
    with pytest.raises(error, match=said) as caught:
        Session(spoiled)
    assert caught.value.hint or absent == "model.onnx"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(GraphError, match=r"memoir_edge\.json"):
        Session(tmp_path / "none")


def test_a_graph_that_cannot_be_loaded(spoiled):
    (spoiled / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(GraphError, match=r"model\.onnx cannot be loaded"):
        Session(spoiled)


def test_providers_and_sizes(export_dir):
    with pytest.raises(InputError, match=r"no provider Absent.*CPUExecutionProvider"):
        Session(export_dir, providers=["Absent"])
    with pytest.raises(InputError, match="max_batch is 0"):
        Session(export_dir, max_batch=0)
    session = Session(str(export_dir), providers=["CPUExecutionProvider"], threads=1)
    assert session.decoder.device == "cpu"
    assert isinstance(session.generate("a", max_new_tokens=1)[0], Result)


def test_loading_and_running_print_nothing(export_dir, capfd):
    Session(export_dir, threads=1).generate("a", max_new_tokens=2)
    assert capfd.readouterr() == ("", "")
