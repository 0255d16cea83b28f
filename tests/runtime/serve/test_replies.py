"""Events as the documents of OpenAI's API."""

from itertools import chain, count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from memoir_edge_runtime import Options, Prompt, Result, Routing, Row, Token
from memoir_edge_runtime import Tokenizer as Ours
from memoir_edge_runtime._completion import Completion, Language
from memoir_edge_runtime.serve.replies import CHAT, COMPLETION, Echo, Reply, explanation

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


@pytest.mark.parametrize("style", [COMPLETION, CHAT])
def test_all_parts_of_a_reply_were_made_at_one_time(style, monkeypatch):
    seconds = count(1_000)
    monkeypatch.setattr("time.time", lambda: float(next(seconds)))
    reply = Reply("id", "base", 1, False, style, tokenizer=None)
    results = [result(0, 5, 1), result(1, 5, 1)]
    parts = [*reply.opening(2), reply.part(Token(0, 6, "hi")), *map(reply.part, results),
             reply.last(results), reply.whole([], results)]  # fmt: skip
    assert {part["created"] for part in parts} == {1_000}


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


# --- Families of tokenizers, each with what their models write for spaces and rare characters ----

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["▁", "▁▁", "▁a", "a", "b", "ab", "▁b語", "語", "▁é", "\n", ".", "▁'", "n't"]
RARE = ["🙂", "é", "\n", "ж", "a"]  # as bytes


def llama(decoder) -> Tokenizer:
    """Spaces as ▁, and a token for each byte; the decoder may drop a text's first space."""
    names = {name: i for i, name in enumerate([*BYTES, *PIECES])}
    core = Tokenizer(models.BPE(names, [], byte_fallback=True))
    core.decoder = decoders.Sequence([*decoder, decoders.ByteFallback(), decoders.Fuse()])
    return core


def stripped() -> Tokenizer:
    core = llama([decoders.Replace("▁", " ")])
    core.decoder = decoders.Sequence([core.decoder, decoders.Strip(" ", 1, 0)])
    return core


def byte_level() -> Tokenizer:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    some = [level.pre_tokenize_str(text)[0][0] for text in ("ab", " a", "語", "  ", " é")]
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *some]
    core = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    core.decoder = decoders.ByteLevel()
    return core


FAMILIES = {
    "stripped": stripped(),
    "kept": llama([decoders.Replace("▁", " ")]),
    "metaspace": llama([decoders.Metaspace(prepend_scheme="first")]),
    "byte_level": byte_level(),
}


def of_bytes(core: Tokenizer, text: str) -> list[int]:
    """A text as one token for each byte."""
    if core.token_to_id(BYTES[0]) is not None:
        return [core.token_to_id(BYTES[byte]) for byte in text.encode()]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [core.token_to_id(c) for c in level.pre_tokenize_str(text)[0][0]]


def joined(lists) -> list:
    return list(chain.from_iterable(lists))


@st.composite
def written(draw):
    """A family, and two texts as ids: a prompt and its answer."""
    name = draw(st.sampled_from(sorted(FAMILIES)))
    core = FAMILIES[name]
    pieces = [[i] for i in range(256, core.get_vocab_size())]
    some = st.sampled_from([*pieces, *(of_bytes(core, text) for text in RARE)])
    texts = st.lists(some, min_size=1, max_size=5).map(joined)
    return name, draw(texts), draw(texts)


def answered(core, prompt: list[int], ids: list[int], *stop: str):
    """The tokenizer, the row and its tokens, when the model has written these ids."""
    tokenizer = Ours(core, frozenset(), {})
    logits = np.arange(core.get_vocab_size(), dtype=np.float32)
    options = Options(max_new_tokens=len(ids), stop=stop, logprobs=3)
    given = Prompt("asked", Row(tuple(prompt)))
    row = Completion(0, given, options, 0, Language(tokenizer, frozenset(), 10**6))
    row.routing = ROUTING
    tokens = []
    for id in ids:
        tokens.append(row.advance(id, logits))
        if row.done:
            break
    return tokenizer, row, tokens


@settings(max_examples=300)
@given(written())
def test_texts_tokens_bytes_and_offsets_agree_whole_or_streamed(given):
    name, prompt, ids = given
    tokenizer, row, tokens = answered(FAMILIES[name], prompt, ids)
    before = tokenizer.decode(prompt)
    text = tokenizer.decode([*prompt, *ids])[len(before) :]  # within its text
    for style in (COMPLETION, CHAT):
        replies = [Reply("id", "base", 1, True, style, tokenizer) for _ in range(2)]
        [choice] = replies[0].whole(tokens, [row.result()])["choices"]
        parts = [replies[1].part(token)["choices"][0] for token in tokens]
        shown = [p["text"] if style is COMPLETION else p["delta"].get("content", "") for p in parts]
        assert choice.get("text", choice.get("message", {}).get("content")) == text
        assert "".join(shown) == text
        assert not any("\ufffd" in piece for piece in shown)
        said = choice["logprobs"]
        if style is CHAT:
            assert bytes(joined(t["bytes"] for t in said["content"])).decode() == text
            assert {len(t["top_logprobs"]) for t in said["content"]} == {3}
            continue
        assert {len(top) for top in said["top_logprobs"]} == {3}
        assert said["text_offset"] == joined(p["logprobs"]["text_offset"] for p in parts)
        for token, at in zip(said["tokens"], said["text_offset"], strict=True):
            assert token.startswith("bytes:") or text[at:].startswith(token)


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("before", ["a", "🙂", "\n"])
def test_a_stop_string_may_begin_with_the_space_that_an_answer_begins_with(name, before):
    core = FAMILIES[name]
    word = core.token_to_id("Ġa" if name == "byte_level" else "▁a")
    for stop, shown in ((" a", ""), ("a", " ")):
        _, row, tokens = answered(core, of_bytes(core, before), [word, word], stop)
        assert (row.result().text, len(tokens)) == (shown, 1)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_offsets_of_an_echo_count_from_where_its_prompt_begins(name):
    """Some decoders drop the first space of a text, but not of what stands in it."""
    core = FAMILIES[name]
    word = core.token_to_id("Ġa" if name == "byte_level" else "▁a")
    tokenizer, row, tokens = answered(core, [word], [word])
    text = tokenizer.decode([word])
    first = Token(0, word, "")
    echo = {0: Echo(text, [first])}
    reply = Reply(
        "id", "base", 1, True, COMPLETION, tokenizer, echoed=echo, first=frozenset([0])
    )  # fmt: skip
    [choice] = reply.whole(tokens, [row.result()])["choices"]
    assert choice["text"] == f"{text} a"
    assert choice["logprobs"]["text_offset"] == [0, len(text)]


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize(
    ("text", "ids", "offsets"),
    [
        ("<x>a<x> a", ("x", "a", "x", "word"), [0, 3, 4, 7]),  # as a chat in its template
        ("a a", ("x", "a", "word"), [0, 0, 1]),  # the tokenizer alone puts it there
        ("<x>a", ("x", "a"), [0, 3]),
    ],
)
def test_offsets_count_special_tokens_where_an_echo_spells_them_out(name, text, ids, offsets):
    core = Tokenizer.from_str(FAMILIES[name].to_str())
    core.add_special_tokens(["<x>"])
    word = core.token_to_id("Ġa" if name == "byte_level" else "▁a")
    known = {"x": core.token_to_id("<x>"), "a": core.token_to_id("a"), "word": word}
    tokenizer, row, tokens = answered(core, [known["a"]], [known["a"], known["x"]])
    echo = {0: Echo(text, [Token(0, known[id], "") for id in ids])}
    silent = frozenset([known["x"]])
    reply = Reply(
        "id", "base", 1, True, COMPLETION, tokenizer, None, silent, echo, frozenset([0])
    )  # fmt: skip
    said = reply.whole(tokens, [row.result()])["choices"][0]["logprobs"]
    assert said["text_offset"] == [*offsets, len(text), len(text) + 1]


def test_a_text_that_stands_behind_nothing_begins_as_its_decoder_says():
    core = FAMILIES["stripped"]
    core = Tokenizer.from_str(core.to_str())
    core.add_special_tokens(["<s>"])
    start, word = core.token_to_id("<s>"), core.token_to_id("▁a")
    tokenizer = Ours(core, frozenset([start]), {})
    language = Language(tokenizer, frozenset(), 10**6)
    for prompt, begins, text in (([start], True, "a"), ([start, word], False, " a")):
        row = Completion(0, Prompt("", Row(tuple(prompt))), Options(1), 0, language)
        row.advance(word, np.zeros(1, np.float32))
        row.routing = ROUTING
        assert (row.begins, row.result().text) == (begins, text)
