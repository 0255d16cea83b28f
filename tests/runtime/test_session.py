"""Requests: batches, streams, stop strings, seeds, limits, and every refusal."""

from pathlib import Path

import numpy as np
import pytest

from memoir_edge.errors import GraphError, InputError
from memoir_edge.memory import Memory
from memoir_edge_runtime import Options, Session, Token

CONTEXT = 96


def test_temperature_zero_is_deterministic(session, prompts):
    first = session.generate(prompts[:20], Options(max_new_tokens=12))
    assert session.generate(prompts[:20], Options(max_new_tokens=12)) == first
    assert session.generate(prompts[:20], Options(max_new_tokens=12, seed=3)) == first


def test_a_stream_gives_each_rows_tokens_and_then_its_result(session, prompts):
    tokens, results = {}, {}
    for event in session.stream(prompts[:8], Options(max_new_tokens=12, temperature=1.0, seed=1)):
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


def test_a_seed_repeats_and_does_not_look_at_batch_mates(session, prompts):
    wanted = {"max_new_tokens": 10, "temperature": 0.9, "top_k": 40, "top_p": 0.95}
    first = session.generate(prompts[:5], Options(seed=11, **wanted))
    assert session.generate(prompts[:5], Options(seed=11, **wanted)) == first
    others = session.generate([*prompts[40:43], *prompts[3:5]], Options(seed=11, **wanted))
    assert [r.ids for r in others[3:]] == [r.ids for r in first[3:]]
    assert [r.ids for r in session.generate(prompts[:5], Options(seed=12, **wanted))] != [
        r.ids for r in first
    ]
    assert [r.ids for r in session.generate(prompts[:5], Options(**wanted))] != [
        r.ids for r in first
    ]


def test_equal_prompts_are_drawn_apart(session, prompts):
    drawn = session.generate([prompts[0]] * 4, Options(temperature=1.0, seed=0, max_new_tokens=10))
    assert len({r.ids for r in drawn}) == 4


def test_a_prompt_that_fills_the_context_is_refused_before_anything_runs(
    session, monkeypatch, a_long
):
    session.generate(a_long(session, CONTEXT - 1))
    monkeypatch.setattr(session.decoder, "read", None)
    with pytest.raises(InputError, match=r"96 tokens long.* room for 95"):
        session.stream(["a", a_long(session, CONTEXT)])  # at the call, not at the first token
    chat = [{"role": "user", "content": "a" * CONTEXT}]
    with pytest.raises(InputError, match="room for 95"):
        session.chat_prompt(chat)


@pytest.mark.parametrize("feature", ["mean", "last"])
def test_spaces_behind_a_prompt_are_read_but_not_routed_by(session, make_memory, feature):
    session.swap(make_memory(["the capital of France"], feature=feature, threshold=0.99))
    plain = session.prompt("the capital of France").row.ids
    for spaces in (1, 2, 5):
        asked = "the capital of France" + " " * spaces
        assert len(session.prompt(asked).row.ids) > len(plain)
        [result], [routing] = session.generate(asked), session.route(asked)
        [forced] = session.teacher_forced([asked], ["Paris"])
        [as_ids] = session.route(session.token_prompt(session.prompt(asked).row.ids))
        for found in (result.routing, routing, forced.routing, as_ids):
            assert (found.edit, found.overlap) == ("edit-0", pytest.approx(1, abs=1e-3))
    [other] = session.route("the capital of France\n")
    assert other.overlap < 0.99


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 2}, "top_p is 2"),
        ({"stop": ("",)}, "stop"),
        ({"stop": "a"}, "stop is 'a', expected a tuple"),
    ],
)
def test_bad_requests(session, wrong, said):
    with pytest.raises(InputError, match="no prompts"):
        session.stream([])
    with pytest.raises(InputError, match=said):
        session.stream("a", Options(**wrong))


@pytest.mark.parametrize(
    ("wrong", "type_"),
    [
        (None, "NoneType"),
        (5, "int"),
        (b"abc", "bytes"),
        ([5], "int"),
        ([["a"]], "list"),
        (["a", b"b"], "bytes"),
    ],
    ids=str,
)
def test_a_prompt_that_is_no_text_is_named(session, wrong, type_):
    for ask in (session.generate, session.route):
        with pytest.raises(InputError, match=f"a text is of type {type_}, expected a string"):
            ask(wrong)


def test_a_token_that_is_no_id_is_named(session):
    for wrong in ("a", 1.5, None):
        with pytest.raises(InputError, match=f"token id {wrong!r}, expected from 0 to"):
            session.token_prompt([3, wrong])
    for ids in (np.array([3, 4]), (id for id in (3, 4))):
        assert session.token_prompt(ids).row.ids == (3, 4)


@pytest.mark.parametrize("wrong", [5, False, b"abc", ["facts.safetensors"]], ids=str)
def test_a_memory_that_is_none_is_named(session, wrong):
    before = session.generation
    with pytest.raises(InputError, match=f"the memory is of type {type(wrong).__name__}, expected"):
        session.swap(wrong)
    assert session.generation is before


@pytest.mark.parametrize("given", [str, Path, Memory])
def test_a_memory_that_is_not_placed_answers_no_request(session, make_memory, prompts, given):
    memory = make_memory(prompts[:1]) if given is Memory else given("facts.safetensors")
    for ask in (session.generate, session.stream, session.route):
        with pytest.raises(InputError, match="expected a generation") as refused:
            ask(prompts[0], memory=memory)
        assert "session.load" in refused.value.hint


@pytest.mark.parametrize("wrong", [8, None, {"max_new_tokens": 8}], ids=str)
def test_options_that_are_none_are_named(session, wrong):
    for ask in (session.generate, session.stream):
        with pytest.raises(InputError, match=f"type {type(wrong).__name__}, expected Options"):
            ask("a", wrong)


def test_an_empty_prompt_needs_a_bos(session, monkeypatch):
    [result] = session.generate("", Options(max_new_tokens=2))
    assert (result.prompt_tokens, len(result.ids)) == (1, 2)
    language = session.language
    bare = type(language.tokenizer)(language.tokenizer.core, frozenset(), {})
    monkeypatch.setattr(type(bare), "encode", type(bare).encode_bare)
    with pytest.raises(InputError, match="the prompt is empty"):
        session.generate("")


def test_chats_are_answered(session, make_memory):
    said = "the capital of France"
    prompt = session.chat_prompt([{"role": "user", "content": said}])
    [result] = session.generate(prompt, Options(max_new_tokens=4))
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


@pytest.mark.parametrize(
    ("absent", "error", "said", "hint"),
    [
        ("memoir_edge.json", GraphError, r"no memoir_edge\.json", "make one: memoir-edge export"),
        ("tokenizer.json", InputError, "no tokenizer", "save one there with"),
        ("model.onnx", GraphError, r"no model\.onnx", "export the model again"),
        ("config.json", InputError, r"config\.json", "written by save_pretrained"),
    ],
)
def test_a_folder_that_lacks_a_file(spoiled, absent, error, said, hint):
    (spoiled / absent).unlink()
    with pytest.raises(error, match=said) as caught:
        Session(spoiled)
    assert hint in caught.value.hint


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(GraphError, match=r"memoir_edge\.json"):
        Session(tmp_path / "none")


def test_loading_and_running_print_nothing(export_dir, capfd):
    Session(export_dir, threads=1).generate("a", Options(max_new_tokens=2))
    assert capfd.readouterr() == ("", "")
