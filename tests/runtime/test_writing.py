"""Text token by token, for the two families of decoders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from memoir_edge_runtime import Tokenizer as Ours
from memoir_edge_runtime._writing import Writer, find_stop, held

CHARACTERS = ["a", "b", "é", "語", "🙂"]


def byte_level() -> Tokenizer:
    """Each byte a token, and a few of several bytes, some of them parts of characters."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    for text in ("ab", " a", "語", "b語"):
        names.append(level.pre_tokenize_str(text)[0][0])
    names.append(level.pre_tokenize_str("🙂")[0][0][1:])  # three of four bytes
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As SentencePiece has it: pieces with a leading ▁, and a token for each byte."""
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    names += ["▁", "▁a", "a", "b", "ab", "▁b語", "語", "é"]
    tokenizer = Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


TOKENIZERS = {make.__name__: Ours(make(), frozenset(), {}) for make in (byte_level, byte_fallback)}
FALLBACK = TOKENIZERS["byte_fallback"].core


def bytewise(name: str, text: str) -> list[int]:
    """A text as one token for each byte."""
    if name == "byte_fallback":
        return [FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in text.encode()]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core = TOKENIZERS[name].core
    return [core.token_to_id(c) for c in level.pre_tokenize_str(text)[0][0]]


@st.composite
def sequences(draw) -> tuple[str, list[int]]:
    """Ids that mix whole tokens, characters cut into bytes, and bytes that are no character."""
    name = draw(st.sampled_from(sorted(TOKENIZERS)))
    some = st.integers(0, TOKENIZERS[name].core.get_vocab_size() - 1)
    pieces = some.map(lambda i: [i]) | st.sampled_from(CHARACTERS).map(lambda c: bytewise(name, c))
    return name, [i for piece in draw(st.lists(pieces, max_size=12)) for i in piece]


def written(name: str, ids: list[int], stop=()) -> tuple[Writer, list[str], list[int]]:
    """The writer, the texts it showed, and the ids it took."""
    ours = TOKENIZERS[name]
    writer, shown, taken = Writer(ours.decode, ours.is_byte, stop), [], []
    for token in ids:
        shown.append(writer.push(token))
        taken.append(token)
        if writer.stopped:
            return writer, shown, taken
    return writer, [*shown, writer.finish()], taken


def cut(text: str, stop) -> str | None:
    """The text before the stop string that is complete first; character by character."""
    for end in range(1, len(text) + 1):
        begins = [end - len(s) for s in stop if text[:end].endswith(s)]
        if begins:
            return text[: min(begins)]
    return None


@given(sequences())
def test_what_is_shown_joins_to_the_full_decode(sequence):
    name, ids = sequence
    writer, shown, _ = written(name, ids)
    assert "".join(shown) == writer.text == TOKENIZERS[name].decode(ids)
    assert not any("\ufffd" in text for text in shown[:-1] if "\ufffd" not in writer.text)


@given(sequences(), st.lists(st.text("ab é語", min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_exactly_whatever_the_token_borders(sequence, stop):
    name, ids = sequence
    writer, shown, taken = written(name, ids, stop)
    whole = TOKENIZERS[name].decode(taken)
    expected = cut(whole, stop)
    assert writer.stopped == (expected is not None)
    assert "".join(shown) == writer.text == (whole if expected is None else expected)
    assert taken == ids or cut(TOKENIZERS[name].decode(taken[:-1]), stop) is None  # not too late


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
@pytest.mark.parametrize("text", ["🙂", "語é", "a🙂b"])
def test_half_a_character_is_never_shown(name, text):
    _, shown, _ = written(name, bytewise(name, text))
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)
    assert max(map(len, shown)) >= 1


def test_a_part_of_a_stop_string_is_held_until_it_is_none():
    name = "byte_level"
    writer, shown, _ = written(name, bytewise(name, "aab aXb"), stop=["ab!", "aX!"])
    assert shown == ["", "a", "", "ab ", "", "", "aXb", ""]
    assert writer.text == "aab aXb"


def test_a_stop_string_made_of_byte_tokens_ends_the_row_at_once():
    writer, shown, taken = written("byte_fallback", bytewise("byte_fallback", "a\nb"), stop=["\n"])
    assert writer.stopped
    assert ("".join(shown), len(taken)) == ("a", 2)


def test_the_stop_string_complete_first_wins():
    assert find_stop("xabc", 0, ["abc", "b"]) == 2
    assert find_stop("xabc", 0, ["abc", "bc"]) == 1
    assert find_stop("xabc", 0, ["d"]) is None
    assert held("xab", ["abc", "bcd"]) == 2
    assert held("xab", []) == 0


def test_long_texts_are_decoded_by_the_window():
    name, longest = "byte_level", 0
    ours = TOKENIZERS[name]

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return ours.decode(ids)

    writer = Writer(decode, ours.is_byte)
    text = "ab語🙂" * 200
    assert "".join([*map(writer.push, bytewise(name, text)), writer.finish()]) == text
    assert longest <= 8


PIECES = ["▁a", "▁b語", "é", "a"]


@given(st.lists(st.sampled_from(PIECES), max_size=6), st.sampled_from(["a", "▁a", "語"]))
def test_a_row_is_decoded_behind_what_it_stands_behind(pieces, last):
    """Such decoders drop a text's first space, and a row's first is in the middle of its text."""
    ours = TOKENIZERS["byte_fallback"]
    before, ids = FALLBACK.token_to_id(last), list(map(FALLBACK.token_to_id, pieces))
    writer = Writer(ours.decode, ours.is_byte, before=[before])
    shown = [*map(writer.push, ids), writer.finish()]
    assert "".join(shown) == writer.text == "".join(pieces).replace("▁", " ")
    stopped = Writer(ours.decode, ours.is_byte, [" a"], before=[before])
    assert [stopped.push(FALLBACK.token_to_id("▁a")), stopped.stopped] == ["", True]


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_half_a_character_before_a_row_is_none_of_it(name):
    ours = TOKENIZERS[name]
    *before, last = bytewise(name, "語")
    writer = Writer(ours.decode, ours.is_byte, before=before)
    assert [writer.push(last), writer.finish()] == ["", "\ufffd"]


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_the_bytes_of_tokens_join_to_the_texts(name):
    ours = TOKENIZERS[name]
    for text in ("ab 語🙂 b語é", "  a"):
        ids = bytewise(name, text)
        assert b"".join(map(ours.bytes, ids)) == text.encode()
    half = bytewise(name, "語")[0]
    assert (ours.show(half), ours.bytes(half)) == (r"bytes:\xe8", b"\xe8")


def test_a_token_is_shown_as_within_a_text():
    ours = TOKENIZERS["byte_fallback"]
    assert [ours.show(FALLBACK.token_to_id(p)) for p in PIECES] == [" a", " b語", "é", "a"]
    ours = TOKENIZERS["byte_level"]
    assert [ours.show(ours.core.token_to_id(p)) for p in ("ab", "Ġa")] == ["ab", " a"]
