"""A row from its first token to its end."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memoir_edge_runtime import Options

CONTEXT = 96


def test_the_text_is_the_ids_decoded(session, prompts):
    for result in session.generate(prompts[:30], Options(20)):
        assert result.text == session.language.tokenizer.decode(result.ids)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_stop_string_cuts_the_text_exactly(session, data):
    wanted = {"max_new_tokens": 16, "temperature": 1.0, "seed": data.draw(st.integers(0, 10**6))}
    [free] = session.generate("the capital", Options(**wanted))
    begin = data.draw(st.integers(0, max(0, len(free.text) - 1)))
    stop = free.text[begin : begin + data.draw(st.integers(1, 5))]
    if not stop or "\ufffd" in stop:
        return
    *tokens, result = session.stream("the capital", Options(stop=(stop,), **wanted))
    assert result.text == free.text[: free.text.find(stop)] == "".join(t.text for t in tokens)
    assert result.finish_reason == "stop"
    assert result.ids == free.ids[: len(result.ids)]
    assert stop in session.language.tokenizer.decode(result.ids)


def test_finish_reasons(session, prompts, monkeypatch):
    results = session.generate(prompts[:10], Options(5))
    assert {r.finish_reason for r in results} == {"length"}
    assert {len(r.ids) for r in results} == {5}
    ending = results[0].ids[2]
    language = session.language
    monkeypatch.setattr(session, "language", replace(language, eos=frozenset([ending])))
    ended = session.generate(prompts[0], Options(5))[0]
    assert (ended.finish_reason, ended.ids) == ("stop", results[0].ids[:3])
    assert ended.text == language.tokenizer.decode(ended.ids[:-1])  # its end is no text


def test_the_context_ends_a_row(session, a_long):
    short, long = session.generate(["a", a_long(session, CONTEXT - 3)], Options(CONTEXT * 2))
    assert (long.finish_reason, len(long.ids)) == ("length", 3)
    assert short.prompt_tokens + len(short.ids) == CONTEXT or short.finish_reason == "stop"
    assert session.generate("a", Options(CONTEXT * 2))[0].ids == short.ids
