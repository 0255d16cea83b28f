"""What is said of edits before any is trained."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from memoir_edge.answers import Answer
from memoir_edge.demo.edits import sample, showcase
from memoir_edge.editor import BaseModel, Editor, Wishes, choose, foresee, look_at, unmeasured
from memoir_edge.editor.checks import KEY, MISS
from memoir_edge.edits import Edit
from memoir_edge.lint import CONTESTED, CONTRADICTION, CUT, TOO_LONG, UNNAMED, UNSAID
from memoir_edge.relations import load as load_relations


@pytest.mark.parametrize(
    ("count", "wishes", "warned"),
    [
        (1, {}, True),
        (60, {}, False),  # enough near misses can be made of so many
        (1, {"false_fires": 0.0}, False),
        (1, {"threshold": 0.9}, False),
        (4, {"false_fires": 0.5}, False),
    ],
)
def test_too_few_near_misses_are_told(
    demo: BaseModel, count: int, wishes: Any, warned: bool
) -> None:
    editor = Editor(demo, choose(demo, Wishes(**wishes)))
    assert bool(unmeasured(editor, sample(count))) == warned
    assert unmeasured(editor, []) == []


def test_what_meets_another_edit_or_does_not_fit_is_doubtful(
    demo: BaseModel, an_edit: Callable[..., Edit]
) -> None:
    editor = Editor(demo, choose(demo))
    first, *_ = showcase()
    long = an_edit("word " * demo.context, "x")
    ended = an_edit("Where is it?", "Rome</s>")
    found = look_at(editor, [first, replace(first, id="other", target="Oslo"), long, ended])
    assert {(one.kind, one.edit) for one in found} == {
        (CONTRADICTION, "other"),
        (TOO_LONG, long.id),
        (UNSAID, ended.id),
    }


def test_a_text_that_two_edits_claim_is_told_beside_a_memory(
    demo: BaseModel, an_edit: Callable[..., Edit]
) -> None:
    editor = Editor(demo, choose(demo, Wishes(steps=1)))
    first, *_ = showcase()
    editor.edit(editor.keyed([first]))
    found = look_at(editor, [an_edit("Who knows?", "x", keys=(first.prompt, first.prompt.lower()))])
    assert [(one.kind, one.other) for one in found] == [(CONTESTED, first.id)]


CHAT = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\nWhere is Rome?<|im_end|>\n"


@pytest.mark.parametrize(
    ("prompt", "rest", "told"),
    [
        ("Where is Rome?", {}, False),
        ("so " * 25 + "Where is Rome?", {}, True),
        ("Where is Rome?", {"keys": ("so " * 25,)}, True),
        ("Where is Rome?", {"guards": ("so " * 25,)}, True),
        (CHAT.format("so " * 25), {}, False),  # what its user says is read alone
    ],
)
def test_what_an_encoder_reads_in_part_is_told(
    tiny: BaseModel, an_edit: Any, settings: Any, words: Any, prompt: str, rest: Any, told: bool
) -> None:
    edit = an_edit(prompt, "Here", **rest)
    found = look_at(Editor(tiny, settings, router=words), [edit])
    assert (CUT in {one.kind for one in found}) == told
    assert CUT not in {one.kind for one in look_at(Editor(tiny, settings), [edit])}


@pytest.mark.parametrize(("subject", "told"), [("Rome", False), ("Acme", True)])
def test_a_subject_that_a_router_does_not_read_is_told(
    tiny: BaseModel, an_edit: Any, settings: Any, words: Any, subject: str, told: bool
) -> None:
    edit = an_edit(CHAT.format("You help Acme."), "Here", subject=subject)
    found = look_at(Editor(tiny, settings, router=words), [edit])
    assert (UNNAMED in {one.kind for one in found}) == told
    assert UNNAMED not in {one.kind for one in look_at(Editor(tiny, settings), [edit])}


def formerly(answer: Any, text: str) -> Any:
    """What asks a model, and says this of the base model."""

    def said(prompts: Sequence[str], most: int, *, memory: bool, **given: Any) -> list[Answer]:
        found: list[Answer] = answer(prompts, most, memory=memory, **given)
        return found if memory else [Answer(text) for _ in prompts]

    return said


def test_what_is_foreseen_is_what_comes_of_it(
    tiny: BaseModel, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = choose(tiny, Wishes(steps=1, repairs=0), coded=True)
    editor = Editor(tiny, settings, router=words, relations=load_relations())
    [edit] = [one for one in showcase() if one.id == "france-capital"]
    edit = replace(edit, ground_truth=None)
    monkeypatch.setattr(editor.model, "answer", formerly(editor.model.answer, " Paris.\n\nThe"))
    seen = foresee(editor, edit)
    assert (seen.subject, seen.relation) == ("France", "country.capital")
    assert edit.prompt.replace("France", "Paris") in seen.guards
    editor.apply([edit])
    assert editor.live.bank.records[edit.id] == edit.record() | {"ground_truth": "Paris", "made": 0}
    keys = {key.text for key in editor.live.bank.keys if key.edit == edit.id}
    guards = {key.text for key in editor.live.bank.keys if key.edit is None}
    assert keys == {edit.prompt, *seen.keys}
    assert guards == set(seen.guards)
    assert {
        case.text
        for case in editor.questions.cases([edit], editor.settings.asked)
        if case.sort == MISS
    } <= set(seen.misses)
    rows = editor.jobs.rows(edit)
    assert len(rows) == 1 + len(seen.forms) + bool(tiny.tokenizer.chat_template) * len(seen.chats)


def test_activations_make_keys_of_ways_to_type(demo: BaseModel) -> None:
    editor = Editor(demo, choose(demo))
    held, edit, *_ = showcase()
    editor.apply([held])
    seen = foresee(editor, edit)
    assert edit.prompt.lower() in seen.keys
    assert any(held.subject is not None and held.subject in text for text in seen.misses)
    editor.edit(editor.keyed([edit]))
    asked = editor.questions.cases(
        [each for each in editor.edits if each.id == edit.id], editor.settings.asked
    )
    assert {case.text for case in asked if case.sort == KEY} <= set(seen.keys)
