"""Tokenizer and chat template from an export directory."""

import pytest

from memoir_edge.errors import InputError
from memoir_edge_runtime import _tokens


def test_encoding_is_not_cut_and_not_padded(session):
    text = "the capital of France is Paris and " * 3
    assert len(session.prompt(text).row.ids) > 8
    assert len(session.prompt("a").row.ids) == 2


def test_bos_is_added_once(session):
    tokenizer = session.language.tokenizer
    assert tokenizer.encode("a")[0] == tokenizer.id("bos_token") == 0
    assert tokenizer.encode("<s>a") == tokenizer.encode("a")
    assert tokenizer.encode_bare("a") == tokenizer.encode("a")[1:]


def test_special_tokens_are_no_text(session):
    tokenizer = session.language.tokenizer
    ids = [0, *tokenizer.encode_bare("city"), 1]
    assert tokenizer.decode(ids) == "city"
    assert tokenizer.decode(ids, special=True) == "<s>city</s>"
    assert tokenizer.special == {0, 1}


@pytest.mark.parametrize("text", ["", "a", "a ", "a   ", " a", "a\n", "a \n ", "  "])
def test_of_ids_those_count_that_count_of_their_text(session, text):
    prompt = session.language.tokenizer.prompt(text)
    given = session.language.tokenizer.given(prompt.ids)
    assert given.ids == prompt.ids
    assert given.ids[given.counted] == prompt.ids[prompt.counted]


def test_named_tokens_come_from_either_file(folder):
    (folder / "special_tokens_map.json").write_text('{"bos_token": "no", "pad_token": "</s>"}')
    tokenizer = _tokens.load(folder)
    assert tokenizer.named["bos_token"] == "<s>"
    assert tokenizer.id("pad_token") == 1
    assert tokenizer.id("unk_token") is None


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer: tokenizer\.json") as caught:
        _tokens.load(folder)
    assert "save_pretrained" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 3}'])
def test_a_spoiled_tokenizer(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match="is no tokenizer"):
        _tokens.load(folder)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_spoiled_configuration(folder, text):
    (folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(InputError, match=r"tokenizer_config\.json"):
        _tokens.load(folder)
