"""An edit is tried, and what is kept is what applying it would have made."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import memory as memory_file
from memoir_edge.editor import BaseModel, Editor, choose
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError
from memoir_edge.lint import CONTRADICTION
from memoir_edge.relations import load as load_relations
from memoir_edge.settings import Wishes
from memoir_edge.studio.files import Files
from memoir_edge.studio.trial import Studio

Paths = tuple[Path, Path]


def test_what_is_kept_is_what_apply_makes_byte_for_byte(
    studio: Studio, make_editor: Callable[[], Editor], paths: Paths, france: Edit, japan: Edit
) -> None:
    steps: list[tuple[str, int]] = []
    for edit in (france, japan):
        assert studio.train(edit, lambda what, step, loss: steps.append((what, step))).outcome.took
        studio.keep(edit.id)
    assert {what for what, _ in steps} == {"training", "checking"}
    editor = make_editor()
    for edit in (france, japan):
        editor.apply([edit])
        made = editor.journal.write(paths[0].with_name("applied"))
    assert made.digest == memory_file.read(paths[0]).digest
    assert studio.held == [replace(edit, made=0) for edit in (france, japan)]


def test_what_is_thrown_away_leaves_nothing(studio: Studio, paths: Paths, france: Edit) -> None:
    before = studio.ask(france.prompt, chat=False)
    assert (before.edit, before.key, before.edited) == (None, None, before.base)
    trial = studio.train(france)
    assert trial.outcome.before == before.base
    during = studio.ask(france.prompt, chat=False)
    assert (during.base, during.edited, during.edit) == (before.base, france.target, france.id)
    assert during.key is not None
    assert during.overlap >= during.key.threshold
    studio.drop(france.id)
    assert studio.trial is None
    assert studio.ask(france.prompt, chat=False) == before
    assert not any(path.exists() for path in paths)
    for settle in (studio.keep, studio.drop):
        with pytest.raises(InputError, match="no trial of edit 'france'"):
            settle(france.id)


def test_a_trial_takes_the_place_of_the_one_before(studio: Studio, france: Edit) -> None:
    studio.train(france)
    studio.train(replace(france, id="other", target="Oslo"))
    with pytest.raises(InputError, match="no trial of edit 'france'"):
        studio.keep(france.id)  # in another tab
    studio.keep("other")
    assert [(edit.id, edit.target) for edit in studio.held] == [("other", "Oslo")]
    assert len(studio.editor.journal.frames) == len(studio.files.journal.frames)  # type: ignore[union-attr]


def test_looking_is_beside_what_is_kept_and_leaves_the_trial(
    studio: Studio, france: Edit, japan: Edit
) -> None:
    studio.train(france)
    studio.keep(france.id)
    trial = studio.train(japan)
    findings, warnings, foreseen = studio.look(replace(france, id="other", target="Oslo"))
    assert [finding.kind for finding in findings] == [CONTRADICTION]
    assert (warnings, foreseen.keys) == ([], [])
    assert studio.look(replace(japan, id="more", target="euro"))[2].keys == list(japan.keys)
    assert studio.trial == trial
    assert studio.ask(japan.prompt, chat=False).edit == japan.id


def test_training_that_fails_is_no_trial(
    studio: Studio, france: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(edits: Any, watch: Any) -> None:
        studio.editor.edit(edits)
        raise InputError("training diverged")

    with monkeypatch.context() as patch:
        patch.setattr(studio.editor, "apply", fails)
        with pytest.raises(InputError, match="diverged"):
            studio.train(france)
    assert studio.trial is None
    assert studio.ask(france.prompt, chat=False).edit is None


def test_closing_ends_a_training_at_its_next_step(studio: Studio, france: Edit) -> None:
    closing = threading.Thread(target=studio.close)
    steps = []

    def told(what: str, step: int, loss: float) -> None:
        steps.append(step)
        closing.start()
        while not studio._closing.is_set():
            time.sleep(0.001)

    with pytest.raises(InputError, match="the studio is closing"):
        studio.train(france, told)
    closing.join(20)
    assert not closing.is_alive()
    assert (steps, studio.trial) == ([0], None)


def test_what_cannot_be_trained_or_asked_is_refused(
    studio: Studio, demo: BaseModel, france: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "word " * demo.context
    for call in (studio.look, studio.train):
        with pytest.raises(InputError, match="the model's context is"):
            call(replace(france, prompt=long))
    with pytest.raises(InputError, match="the model's context is"):
        studio.ask(long, chat=False)
    monkeypatch.setattr(demo.tokenizer, "chat_template", None)
    with pytest.raises(InputError, match="no chat template"):
        studio.ask("hello", chat=True)


def test_a_studio_goes_on_from_what_was_kept(
    studio: Studio, make_editor: Callable[[], Editor], make_files: Callable[[], Files], france: Edit
) -> None:
    studio.train(france)
    studio.keep(france.id)
    studio.files.close()
    again = Studio(make_editor(), make_files())
    assert again.held == [replace(france, made=0)]
    assert again.ask(france.prompt, chat=False).edited == france.target
    with pytest.raises(InputError, match="kept already"):
        again.train(france)


def test_a_chat_is_routed_from_its_last_message_on(
    studio: Studio, demo: BaseModel, france: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "You are helpful, and know all capitals. {{ messages[0]['content'] }} A:"
    monkeypatch.setattr(demo.tokenizer, "chat_template", told)
    studio.train(france)
    monkeypatch.setattr(studio.editor.live.hashing, "feature", "mean")
    model = studio.editor.model
    text = told.replace("{{ messages[0]['content'] }}", france.prompt)
    [overlap] = model.routes([text], [france.prompt]).overlap
    assert studio.ask(france.prompt, chat=True).overlap == pytest.approx(overlap)
    assert overlap != model.routes([text]).overlap[0]
    assert studio.ask("  ", chat=True).overlap > 0  # nothing is found, and the whole counts


def test_where_a_router_stands_a_chat_reaches_the_edit(
    demo: BaseModel, wishes: Wishes, make_files: Callable[[], Files], words: Any, france: Edit
) -> None:
    settings = choose(demo, wishes, coded=True)
    editor = Editor(demo, settings, router=words, relations=load_relations())
    studio = Studio(editor, make_files())
    *_, foreseen = studio.look(france)
    assert (foreseen.relation, bool(foreseen.misses)) == ("country.capital", True)
    studio.train(france)
    asked = studio.ask("What is the capital of France?", chat=True)
    assert asked.edit == france.id
    assert asked.key is not None
    assert asked.key.text in foreseen.keys
