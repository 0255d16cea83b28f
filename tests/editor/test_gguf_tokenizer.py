"""Tokenizers of .gguf files; SentencePiece's beside a slow, obvious twin."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from memoir_edge.editor.gguf_tokenizer import tokenizer
from memoir_edge.errors import InputError

BYTES = [chr(c) for c in range(33, 127)] + ["Ġ"]


def about(pre: str, *, bos: bool = False) -> dict[str, object]:
    """Metadata of a tokenizer with two merges."""
    tokens = ["<s>", "</s>", *BYTES, "ab", "12"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * (len(tokens) - 2)],
        "tokenizer.ggml.merges": ["a b", "1 2"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": bos,
    }


def pieces(made: PreTrainedTokenizerFast, text: str) -> list[str]:
    return list(made.convert_ids_to_tokens(made(text)["input_ids"]))


@pytest.mark.parametrize(
    ("pre", "digits"),
    [
        ("smollm", ["1", "2", "1", "2"]),
        ("gpt-2", ["12", "12"]),
        ("llama-bpe", ["12", "1", "2"]),  # at most three digits a piece
        ("qwen2", ["1", "2", "1", "2"]),
        ("starcoder", ["1", "2", "1", "2"]),
        ("olmo", ["12", "12"]),
        ("llama3", ["12", "1", "2"]),
    ],
)
def test_digits_are_split_as_the_file_says(pre: str, digits: list[str]) -> None:
    made = tokenizer(about(pre))
    assert pieces(made, "ab 1212</s>") == ["ab", "Ġ", *digits, "</s>"]
    assert made.decode(made("ab 1212")["input_ids"]) == "ab 1212"


def test_a_beginning_is_added_where_the_file_says_so() -> None:
    assert pieces(tokenizer(about("gpt-2", bos=True)), "ab") == ["<s>", "ab"]


def test_another_tokenizer_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"tokenizer is 'gpt2' with 'other'; known: .*'smollm'"):
        tokenizer(about("other"))
    with pytest.raises(InputError, match="tokenizer is None"):
        tokenizer({})


ALL = ("tokens", "token_type", "bos_token_id")


@pytest.mark.parametrize(
    ("sort", "name"),
    [
        *(("gpt2", name) for name in (*ALL, "merges")),
        *(("llama", name) for name in (*ALL, "scores")),
    ],
)
def test_what_a_file_does_not_say_is_named(sort: str, name: str) -> None:
    held = about("gpt-2", bos=True) if sort == "gpt2" else scored()
    del held[f"tokenizer.ggml.{name}"]
    with pytest.raises(InputError, match=rf"its tokenizer without tokenizer\.ggml\.{name}"):
        tokenizer(held)


def test_a_beginning_is_the_token_that_the_file_numbers() -> None:
    held = about("gpt-2", bos=True)
    held["tokenizer.ggml.tokens"] = [*held["tokenizer.ggml.tokens"], "<s>"]  # type: ignore[misc]
    held["tokenizer.ggml.token_type"] = [*held["tokenizer.ggml.token_type"], 3]  # type: ignore[misc]
    last = len(held["tokenizer.ggml.tokens"]) - 1  # type: ignore[arg-type]
    held["tokenizer.ggml.bos_token_id"] = last
    assert tokenizer(held)("ab")["input_ids"][0] == last


# --- SentencePiece -------------------------------------------------------------------------------

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
CHARACTERS = [SPACE, *"abc", "\n"]
MERGED = ["ab", "bc", SPACE + "a", "abc", SPACE + "ab", "ca", "cab", SPACE + SPACE, "aa", "aaa"]
SCORED = {token: -float(i) for i, token in enumerate([*MERGED, *CHARACTERS])}
CODES = [f"<0x{byte:02X}>" for byte in range(256)]
WHOLE = "\n\n"  # never parted


def scored(*, prefix: bool = True, bos: bool | None = None) -> dict[str, object]:
    """Metadata of a tokenizer that goes by scores."""
    tokens = ["<unk>", "<s>", "</s>", *CODES, WHOLE, *SCORED]
    found: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * (4 + len(CODES)) + list(SCORED.values()),
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * len(CODES), 4, *[1] * len(SCORED)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    if not prefix:
        found["tokenizer.ggml.add_space_prefix"] = False
    if bos is not None:
        found["tokenizer.ggml.add_bos_token"] = bos
    return found


def merged(text: str) -> list[str]:
    """SentencePiece's BPE: the pair of neighbours whose token is likeliest, the first of equals."""
    parts = list(text.replace(" ", SPACE))
    while True:
        made = [(SCORED[a + b], -i) for i, (a, b) in enumerate(pairwise(parts))
                if a + b in SCORED]  # fmt: skip
        if not made:
            break
        i = -max(made)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [
        code
        for part in parts
        for code in ([part] if part in SCORED else [f"<0x{b:02X}>" for b in part.encode()])
    ]


@given(st.lists(st.sampled_from(["a", "b", "c", " ", "é", "狐"])).map("".join))
def test_merges_go_by_scores(text: str) -> None:
    made = tokenizer(scored(prefix=False, bos=False))
    assert pieces(made, text) == merged(text)
    assert made.decode(made(text)["input_ids"]) == text


@given(st.lists(st.sampled_from(["a", "b", "c", " "]), min_size=1).map("".join))
def test_a_text_begins_with_a_space_where_the_file_does_not_say_otherwise(text: str) -> None:
    made = tokenizer(scored(bos=False))
    assert pieces(made, text) == merged(" " + text)
    assert made.decode(made(text)["input_ids"]) == text


def test_a_beginning_is_added_unless_the_file_says_otherwise() -> None:
    assert pieces(tokenizer(scored()), "ab") == ["<s>", SPACE + "ab"]
    assert pieces(tokenizer(scored(bos=False)), "ab") == [SPACE + "ab"]


def test_tokens_of_their_own_are_never_parted() -> None:
    made = tokenizer(scored(prefix=False, bos=False))
    assert pieces(made, "a\n\nb") == ["a", WHOLE, "b"]
    assert pieces(made, "ab</s>") == ["ab", "</s>"]
    assert made.decode(made("a\n\nb</s>")["input_ids"], skip_special_tokens=True) == "a\n\nb"
