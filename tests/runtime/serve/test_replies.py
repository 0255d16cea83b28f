"""Events as the documents of OpenAI's API."""

import pytest

from memoir_edge_runtime import Result, Routing, Token
from memoir_edge_runtime.serve.replies import CHAT, COMPLETION, Reply, explanation

ROUTING = Routing("a", 0.9, 0.8, "a", "d")


@pytest.mark.parametrize(
    ("routing", "said"),
    [
        (Routing(), "no memory is asked"),
        (Routing(digest="d"), "holds no edits"),
        (ROUTING, "overlap 0.900 with a reaches its threshold 0.800: the edit answers"),
        (Routing(None, 0.9, 0.8, None, "d"), "overlap 0.900 with a guard is the best"),
        (Routing(None, 0.7, 0.8, "a", "d"), "0.700 with a stays below its threshold 0.800"),
    ],
)
def test_a_decision_in_words(routing, said):
    assert said in explanation(routing)


def result(row: int, read: int, *written: int) -> Result:
    return Result(row, "p", "t", written, "stop", read, ROUTING)


@pytest.mark.parametrize("style", [COMPLETION, CHAT])
def test_a_prompt_is_counted_once_for_all_its_answers(style):
    reply = Reply("id", "base@a", 2, False, style, tokenizer=None)
    results = [result(3, 7, 1), result(0, 5, 1, 2), result(1, 5, 1), result(2, 7)]
    document = reply.whole([], results)
    assert document["usage"] == {
        "prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16
    }  # fmt: skip
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2, 3]
    assert reply.last(results)["usage"] == document["usage"]
    assert document["memory"] == reply.last(results)["memory"]


def test_a_stream_begins_goes_on_and_ends_as_its_api_words_it():
    silent, shown = Token(0, 5, ""), Token(0, 6, "hi")
    for style, opening, text in (
        (COMPLETION, [], {"text": "hi"}),
        (CHAT, [{"delta": {"role": "assistant", "content": ""}}], {"delta": {"content": "hi"}}),
    ):
        reply = Reply("id", "base", 1, False, style, tokenizer=None)
        first = [part["choices"][0] for part in reply.opening(1)]
        assert [{"delta": choice["delta"]} for choice in first] == opening
        assert reply.part(silent) is None
        part = reply.part(shown)
        assert part is not None
        assert text.items() <= part["choices"][0].items()
        ended = reply.part(result(0, 5, 6))
        assert ended is not None
        assert ended["choices"][0]["finish_reason"] == "stop"
        assert ended["memory"] == ended["choices"][0]["memory"]


class Letters:
    """Every token is the letter a."""

    def show(self, id):
        return "a"


def test_tokens_of_one_text_are_counted_apart():
    likeliest = ((5, -0.1), (6, -0.2), (7, -0.3))
    found = COMPLETION.logprobs([Token(0, 5, "", -0.1, likeliest)], [0], Letters())
    assert found["top_logprobs"] == [{"a": -0.1, "token_id:6": -0.2, "token_id:7": -0.3}]
