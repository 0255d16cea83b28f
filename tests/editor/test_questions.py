"""What may be asked of edits, with a router and without."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from memoir_edge.editor import BaseModel, Editor, Settings
from memoir_edge.edits import Edit, stored
from memoir_edge.history.events import FORM, KEY, MISS, PROMPT
from memoir_edge.relations import Relation

CAPITAL = Relation("country.capital", ("The capital of {} is", "What is the capital of {}?"))
COIN = Relation("country.currency", ("The currency of {} is", "Which currency has {}?"))
MakeEdit = Callable[..., Edit]


def asked(editor: Editor, edit: Edit, count: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for case in editor.questions.cases([edit], count):
        found.setdefault(case.sort, []).append(case.text)
    return found


def test_a_records_keys_are_what_else_is_asked(an_edit: MakeEdit, make_editor: Any) -> None:
    edit = an_edit("The capital of France is", "Rome", keys=("France is governed from",))
    editor = make_editor()
    editor.edit([edit])
    assert editor.questions.reading(edit) is None
    assert editor.questions.phrasings(edit) == edit.keys
    assert asked(editor, edit, 0) == {PROMPT: [edit.prompt]}
    assert asked(editor, edit, 2) == {PROMPT: [edit.prompt], KEY: list(edit.keys)}


def test_what_the_tool_makes_of_a_prompt_is_asked_and_not_trained(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    edit = an_edit("The capital of France is", "Rome", keys=("Capital of France:", "The head is"))
    editor = Editor(tiny, replace(settings, made_keys=3, phrasings=1))
    [keyed] = editor.keyed([edit])
    editor.edit([keyed])
    assert editor.questions.phrasings(keyed) == edit.keys
    texts, _ = editor.jobs.further(keyed)
    assert texts == [edit.keys[0]]
    first, second, *made = asked(editor, keyed, 1)[KEY]
    assert ((first, second), len(made)) == (edit.keys, 1)


def test_a_known_relation_brings_phrasings_and_near_misses(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings, words: Any
) -> None:
    edit = an_edit("The capital of France is", "Rome", subject="France")
    editor = Editor(tiny, replace(settings, asked=2), router=words, relations=(CAPITAL, COIN))
    editor.edit([edit])
    editor.calibrate()
    reading = editor.questions.reading(edit)
    assert reading
    assert (reading.subject, reading.relation) == ("France", CAPITAL)
    assert editor.questions.phrasings(edit) == ("What is the capital of France?",)
    found = asked(editor, edit, 2)
    assert found[KEY] == ["What is the capital of France?"]
    assert len(found[FORM]) == 2  # none of them a chat: this model has no template for it
    assert len(found[MISS]) == 4
    assert all("France" not in text or "currency" in text for text in found[MISS])


def test_what_a_routed_chat_says_is_asked_besides(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings, words: Any
) -> None:
    said = "The capital of France is"
    edit = an_edit(f"<|im_start|>user\n{said}<|im_end|>\n", "Rome", subject="France")
    editor = Editor(tiny, replace(settings, asked=2), router=words, relations=(CAPITAL, COIN))
    editor.edit([edit])
    editor.calibrate()
    assert editor.questions.phrasings(edit) == (said, "What is the capital of France?")
    assert asked(editor, edit, 2)[FORM][0] == said
    assert sorted(asked(editor, edit, 2)[KEY]) == [said, "What is the capital of France?"]


def test_edits_without_a_record_are_not_held(an_edit: MakeEdit, make_editor: Any) -> None:
    editor = make_editor()
    edits = [an_edit(text, "Rome") for text in ("The capital of", "Everyone says")]
    editor.edit(edits)
    editor.live.bank.records[edits[0].id] = None
    assert [edit.id for edit in stored(editor.live.bank.records)] == [edits[1].id]
