"""Messages to text, by a chat template that may be anything."""

import json

import pytest
from transformers import AutoTokenizer

from memoir_edge.errors import InputError
from memoir_edge_runtime._chat import last_user, read_template, render

CHAT = [
    {"role": "user", "content": "the capital"},
    {"role": "assistant", "content": "Paris"},
    {"role": "user", "content": " of France? "},
]


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
        "{{ raise_exception('only\nusers') }}",
        "a\n{% for %}\nb",
    ],
)
def test_a_template_that_refuses_or_escapes(template):
    with pytest.raises(InputError, match="refuses these messages") as caught:
        render(template, [{"role": "user", "content": "a"}], {})
    assert "\n" not in str(caught.value)


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


PARTS = """{% for m in messages %}[{% for part in m.content %}{% if part.type == "text" %}\
{{ part.text }}{% endif %}{% endfor %}]{% endfor %}"""


def test_a_template_that_reads_parts_is_given_a_text_as_one():
    """As those of vision-language models: of a plain text they would leave nothing."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert render(PARTS, messages, {}) == "[Be brief.][Why?]"
    assert render("no messages are read", messages, {}) == "no messages are read"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ '<' + messages[0].content.strip() + '>' }}", "<Why?>"),
        ("{{ '<' + messages[0].content | upper + '>' }}", "<WHY? >"),
        ("{{ '<' + messages[0].content[:2] + '>' }}", "<Wh>"),
    ],
)
def test_a_template_that_changes_a_text_and_takes_no_parts_is_left_alone(template, text):
    assert render(template, [{"role": "user", "content": "Why? "}], {}) == text
