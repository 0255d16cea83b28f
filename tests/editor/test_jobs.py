"""What edits are trained on, made from what the memory holds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from memoir_edge.editor import BaseModel, Editor, Settings
from memoir_edge.edits import Edit
from memoir_edge.history.events import KEY, Wrong

MakeEdit = Callable[..., Edit]


def editor_of(tiny: BaseModel, settings: Settings) -> Editor:
    return Editor(tiny, replace(settings, spare=10.0))


def test_a_change_avoids_what_others_read(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    first, second = an_edit("The capital of France is", "Rome"), an_edit("Water is", "dry")
    editor = editor_of(tiny, settings)
    own, other = map(editor.live.columns, editor.masks([first.prompt, second.prompt]))
    assert not editor.jobs.new(first, own).avoid  # there is no other yet
    editor.edit([first])
    assert not editor.jobs.again(first, ()).avoid
    [avoid] = editor.jobs.new(second, other).avoid
    again = editor_of(tiny, settings)
    again.go_on_with(editor.journal)
    [gathered] = again.jobs.new(second, other).avoid
    assert torch.equal(gathered, avoid)  # as when it was taken in edit by edit


def test_what_other_tiles_read_is_not_asked(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings, words: Any, monkeypatch: Any
) -> None:
    """One more edit costs as much as its tile has edits, not as the memory has."""
    names = ("France", "Japan", "Spain")
    edits = [replace(an_edit(f"The currency of {name} is", "yen"), id=name) for name in names]
    wide = replace(settings, spare=10.0, columns_per_edit=22)  # of 44: two edits a tile
    editor = Editor(tiny, wide, router=words)
    for edit in edits:
        editor.edit([edit])
    assert editor.live.bank.tile == {"France": 0, "Japan": 0, "Spain": 1}
    again = Editor(tiny, wide, router=words, journal=editor.journal)
    read: list[str] = []
    rows = again.jobs.rows
    monkeypatch.setattr(again.jobs, "rows", lambda edit: read.append(edit.id) or rows(edit))
    new = an_edit("The capital of Japan is", "Rome")
    [avoid] = again.jobs.new(new, again.live.columns(again.masks([new.prompt])[0], 1)).avoid
    assert read == [new.id, "Spain"]
    [taken_in] = editor.jobs.new(new, editor.live.columns(editor.masks([new.prompt])[0], 1)).avoid
    assert torch.equal(avoid, taken_in)


def test_what_was_found_wrong_is_a_further_row(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    edit = an_edit("The capital of France is", "Rome")
    editor = editor_of(tiny, settings)
    editor.edit([edit])
    wrong = [Wrong(edit.id, KEY, text, "Paris", edit.id) for text in ("Where?", edit.prompt)]
    before = editor.jobs.rows(edit)
    [more] = [row for row in editor.jobs.again(edit, wrong).rows if row not in before]
    assert tiny.decode(more.prompt) == "Where?"


def test_rows_keep_the_capital_of_a_name_that_begins_with_the(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    edit = an_edit("The Hague lies in", "Rome", subject="The Hague")
    texts, _ = Editor(tiny, replace(settings, forms=9)).jobs.further(edit)
    assert "Do you know: The Hague lies in?" in texts


def test_a_chat_is_asked_in_no_other_form(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    editor = Editor(tiny, replace(settings, prefixes=0, forms=2))
    special = tiny.tokenizer.all_special_tokens[0]
    assert len(editor.jobs.rows(an_edit("The capital of France is", "Rome"))) == 4
    assert len(editor.jobs.rows(an_edit(f"{special}Where is Rome?", "Here"))) == 1


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATS = (
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant",
    "<|im_start|>system\nHi<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "[INST] {} [/INST]",
)


@pytest.mark.parametrize("chat", CHATS)
def test_what_a_routed_chat_says_is_asked_in_all_forms(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings, words: Any, monkeypatch: Any, chat: str
) -> None:
    """A router reads it by itself, so that it reaches the edit."""
    monkeypatch.setattr(tiny.tokenizer, "chat_template", CHATML)
    many = replace(settings, prefixes=0, forms=2, ends=2, chats=2)
    plain = an_edit("Who is Rome?", "Here")
    edit = replace(plain, prompt=chat.format(plain.prompt))
    editor = Editor(tiny, many, router=words)
    forms, chats = editor.jobs.further(plain)
    assert chats == [plain.prompt]
    said = CHATS[0].format(plain.prompt)
    texts = [plain.prompt, *forms, said]
    assert editor.jobs.further(edit) == ([text for text in texts if text != edit.prompt], [])
    # Without a router nothing but the chat itself reaches it.
    special = replace(edit, prompt=tiny.tokenizer.all_special_tokens[0] + edit.prompt)
    assert Editor(tiny, many).jobs.further(special) == ([], [])
