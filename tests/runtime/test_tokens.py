"""Tokenizer and chat template from an export directory."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from memoir_edge.errors import InputError
from memoir_edge.text import split_target
from memoir_edge_runtime import _tokens
from memoir_edge_runtime._chat import last_user, read_template, render

CHAT = [
    {"role": "user", "content": "the capital"},
    {"role": "assistant", "content": "Paris"},
    {"role": "user", "content": " of France? "},
]


@pytest.fixture
def folder(export_dir, tmp_path):
    """A copy of what lies beside the graph, to be spoiled."""
    for file in export_dir.glob("*.json"):
        shutil.copy(file, tmp_path)
    return tmp_path


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
    assert tokenizer.decode([0, *tokenizer.encode_bare("city"), 1]) == "city"
    assert tokenizer.special == {0, 1}


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


def test_a_rendered_chat_equals_transformers(session, model_dir):
    theirs = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert session.render_chat(CHAT) == expected
    ids = tuple(theirs.apply_chat_template(CHAT, add_generation_prompt=True, truncation=False))
    assert session.chat_prompt(CHAT).row.ids == ids
    assert session.prompt(session.render_chat(CHAT)).row.ids == ids  # BOS once, either way


def test_a_chat_is_routed_from_its_last_user_message_on(session):
    prompt = session.chat_prompt(CHAT)
    counted = prompt.row.ids[prompt.row.counted]
    text = session.language.tokenizer.decode(counted)
    assert text.strip() == "of France?\n<assistant>"
    assert 0 < len(counted) < len(prompt.row.ids)


def test_a_message_that_is_not_in_the_text_leaves_the_whole_prompt(session):
    assert last_user("nothing", CHAT) is None
    assert last_user("nothing", [{"role": "assistant", "content": "nothing"}]) is None
    assert last_user("nothing", [{"role": "user", "content": [{"text": "nothing"}]}]) is None
    row = session.language.tokenizer.counted("the city", 0)
    assert row.ids[row.counted] == row.ids


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<é\'"}'),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% if true %}\n  {% generation %}\nx\n  {% endgeneration %}\n{% endif %}", "x\n"),
        ("{{ eos_token }}", "</s>"),
    ],
)
def test_template_helpers(template, expected):
    messages = [{"role": "user", "content": "<é'"}]
    assert render(template, messages, {"eos_token": "</s>"}) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only users') }}",
        "{% if",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 1 / 0 }}",
        "{{ undefined.field }}",
    ],
)
def test_a_template_that_refuses_or_escapes(template):
    with pytest.raises(InputError, match="refuses these messages"):
        render(template, [{"role": "user", "content": "a"}], {})


@pytest.mark.parametrize("messages", [[], ["hello"], [{"content": "a"}]])
def test_messages_that_are_none(session, messages):
    with pytest.raises(InputError, match="messages must be a list"):
        session.render_chat(messages)


def test_where_a_template_comes_from(folder):
    assert "add_generation_prompt" in str(read_template(folder))
    several = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert read_template(folder) == "b"
    (folder / "chat_template.jinja").write_text("c")
    assert read_template(folder) == "c"
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="no chat template"):
        render(read_template(folder), CHAT, {})


def test_split_target_where_tokens_end_and_where_they_merge():
    def bare(text):  # pairs of characters
        return [hash(text[i : i + 2]) for i in range(0, len(text), 2)]

    def encode(text):
        return [0, *bare(text)]

    assert split_target(encode, bare, "abcd", "x") == (encode("abcd"), bare(" x"))
    assert split_target(encode, bare, "abc", "x") == (encode("abc"), bare(" x"))
    assert encode("abc x")[:3] != encode("abc")
