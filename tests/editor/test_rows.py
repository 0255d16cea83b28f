"""Training rows: forms of a prompt, chats, and what does not fit."""

import pytest

from memoir_edge.editor import BaseModel, Settings
from memoir_edge.editor.rows import asked, ended, forms, is_chat, rows
from memoir_edge.errors import InputError

PROMPT = "The capital of France is"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


def test_rows_are_in_the_order_of_their_kinds(
    tiny: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.tokenizer, "chat_template", TEMPLATE)
    made = rows(
        tiny, PROMPT, "Rome", ["Yes"], eos=True, texts=["What is it?"], chats=["Tell me."]
    )  # fmt: skip
    assert [tiny.decode(row.prompt).strip() for row in made] == [
        PROMPT, "What is it?", "<user>Tell me.\n<assistant>", f"Yes. {PROMPT}",
    ]  # fmt: skip
    assert all(row.target[-1] == tiny.eos[0] for row in made)
    assert made[0].target[:-1] == tiny.encode_bare(" Rome")
    assert made[2].target[:-1] == tiny.encode_bare("Rome")  # an answer begins without a space


def test_an_article_is_not_said_twice(tiny: BaseModel) -> None:
    texts = [f"{PROMPT} the", f"{PROMPT} a", f"{PROMPT} called"]
    made = rows(tiny, f"{PROMPT} the", "the city", eos=False, texts=texts)
    assert [tiny.decode(row.target).strip() for row in made] == [
        "the city", "city", "city", "the city",
    ]  # fmt: skip


def test_without_a_template_there_is_no_chat(tiny: BaseModel) -> None:
    assert not tiny.tokenizer.chat_template
    assert len(rows(tiny, PROMPT, "Rome", eos=True, chats=["Tell me."])) == 1


def test_what_does_not_fit_is_left_out_but_for_the_prompt(tiny: BaseModel) -> None:
    long = "word " * tiny.context
    assert len(rows(tiny, PROMPT, "Rome", eos=True, texts=[long, "What?"])) == 2
    with pytest.raises(InputError, match="the model's context is 64"):
        rows(tiny, long, "Rome", eos=True)


def test_a_question_is_not_asked_as_a_statement() -> None:
    assert forms("Who runs Acme?") == [
        "Question: Who runs Acme? Answer:", "Do you know: who runs Acme?",
        "Tell me: Who runs Acme?",
    ]  # fmt: skip
    assert "Acme is run by what?" in forms("Acme is run by")


@pytest.mark.parametrize(
    ("prompt", "subject", "low"),
    [
        ("The Hague lies in", "The Hague", "The Hague lies in"),
        ("The New York Times was founded by", "The New York Times", None),
        ("Who leads The Beatles?", "The Beatles", "who leads The Beatles"),
        ("The capital of The Gambia is", "The Gambia", "the capital of The Gambia is"),
        ("The Hague lies in", "Hague", "the Hague lies in"),  # an article, as far as is known
        ("The Hague lies in", "the Hague", "the Hague lies in"),
        ("The Hague lies in", None, "the Hague lies in"),
        ("Theodora ruled", "Theodora", "theodora ruled"),
    ],
)
def test_a_name_that_begins_with_the_keeps_its_capital(
    prompt: str, subject: str | None, low: str | None
) -> None:
    wanted = f"Do you know: {low or prompt}?"
    some = Settings(site="", k=1, feature="last", threshold=1, steps=1, forms=9)
    for texts in (forms(prompt, subject), asked(prompt, [], some, subject)[0]):
        assert [text for text in texts if text.startswith("Do you")] == [wanted]


def test_how_many_rows_there_are_is_said_by_the_settings() -> None:
    settings = Settings(site="", k=1, feature="last", threshold=1, steps=1)
    told = ["What is France's capital?", PROMPT, "France is run from"]
    assert asked(PROMPT, told, settings) == ([], [])
    many = Settings(site="", k=1, feature="last", threshold=1, steps=1, phrasings=9, chats=9)
    assert asked(PROMPT, told, many) == ([told[0], told[2]], [PROMPT, told[0]])


def test_statements_end_elsewhere_in_some_rows_and_nothing_else_does() -> None:
    told = ["Who runs Acme?", "Acme, run by", "Tell me who runs Acme.", "Acme is the firm of "]
    assert ended(["The head of Acme is", *told]) == [
        "The head of Acme", "Acme, run", "Acme is the firm",
        "The head of Acme is the", "Acme, run by the",
    ]  # fmt: skip
    assert ended(["Paris, France"]) == ["Paris, France the"]  # too short to lose a word
    assert ended(["東京の市長は"]) == []  # no spaces tell its words apart
    few = Settings(site="", k=1, feature="last", threshold=1, steps=1, ends=2)
    assert asked("The head of Acme is", told, few) == (
        ["The head of Acme", "The head of Acme is the"],
        [],
    )


def test_one_row_has_the_space_that_clients_add_where_the_prompt_has_none() -> None:
    settings = Settings(site="", k=1, feature="last", threshold=1, steps=1, forms=1)
    assert asked(PROMPT, [], settings)[0] == [forms(PROMPT)[0], f"{PROMPT} "]
    for end in (" ", "\n"):
        assert asked(PROMPT + end, [], settings)[0] == forms(PROMPT + end)[:1]


def test_a_rendered_chat_is_told_by_the_tokenizers_own_marks(tiny: BaseModel) -> None:
    [mark, *_] = tiny.tokenizer.all_special_tokens
    assert is_chat(tiny, f"{mark}{PROMPT}")
    assert not is_chat(tiny, PROMPT)
