"""What a check finds on a model: forms, keys and near misses, mended where training can."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memoir_edge.demo.edits import showcase
from memoir_edge.editor import BaseModel, Editor, Watch, Wishes, choose
from memoir_edge.editor import load as load_model
from memoir_edge.editor.recall import Edited
from memoir_edge.edits import Edit
from memoir_edge.history import Audit
from memoir_edge.history.events import FORM, KEY, MISS, PROMPT, Wrong
from memoir_edge.relations import load

EDITS = [replace(edit, keys=edit.rephrase[:2]) for edit in showcase()[:2]]


@pytest.fixture
def editor(demo: BaseModel, words: Any) -> Editor:
    wishes = Wishes(steps=40, thinned=1, passes=1, asked=2)
    made = Editor(demo, choose(demo, wishes, coded=True), router=words, relations=load())
    made.apply(EDITS)
    return made


def last(editor: Editor) -> Audit:
    found = editor.journal.state().audit
    assert found
    return found


def test_all_sorts_are_asked_of_each_edit(editor: Editor) -> None:
    tally = last(editor).tally
    assert list(tally) == [edit.id for edit in EDITS]
    for sorts in tally.values():
        assert {sort: asked for sort, (asked, _) in sorts.items()} == {
            PROMPT: 1, FORM: 2, KEY: 4, MISS: 4,
        }  # fmt: skip


def test_a_worn_form_is_found_and_trained_again(editor: Editor) -> None:
    columns = editor.live.columns(editor.live.bank.recalled()[EDITS[0].id])
    editor.live.Wm[:, columns] = 0
    first = {one.case.sort for one in editor.check(EDITS) if not one.held and one.fired}
    assert FORM in first
    again: list[str] = []
    editor.settle(
        every=True, watch=Watch(again=lambda e: again.append(e.id) or (lambda step, loss: None))
    )  # type: ignore[func-returns-value]
    assert EDITS[0].id in again
    assert len(again) < editor.settings.repairs
    assert last(editor).worn == []


def test_near_misses_that_fire_are_named_and_not_trained(editor: Editor) -> None:
    bank = editor.live.bank
    bank.calibrate(np.full(len(bank.keys), 0.4, np.float32))
    bank.keys = [replace(key, edit=key.source) for key in bank.keys]  # no guard is left
    editor.settings = replace(editor.settings, repairs=0)
    editor.settle(every=True)
    fired = [one for one in last(editor).wrong if one.sort == MISS]
    assert fired
    assert {one.fired for one in fired} <= {edit.id for edit in EDITS}
    assert {one.edit for one in fired} <= set(last(editor).failed)


def test_without_relations_the_keys_are_those_the_memory_was_given(
    editor: Editor, demo: BaseModel, words: Any
) -> None:
    other = Editor(demo, editor.settings, journal=editor.journal, router=words)
    given = {key.text for key in editor.live.bank.keys if key.edit == EDITS[0].id}
    assert set(other.questions.phrasings(EDITS[0])) == given >= {*EDITS[0].keys, EDITS[0].prompt}
    other.again(EDITS[0])
    other.settle()
    assert set(last(other).tally[EDITS[0].id]) >= {PROMPT, FORM, KEY}


def test_what_was_found_wrong_is_asked_in_its_next_training(editor: Editor) -> None:
    own = EDITS[0]
    reached = [
        Wrong(own.id, KEY, "France is run from", "Paris", own.id),
        Wrong(own.id, KEY, "Who runs France?", "Paris", None),  # routing's, not training's
        Wrong(own.id, MISS, "The capital of Spain is", "", own.id),
    ]
    before = editor.jobs.rows(own)
    editor._record(replace(last(editor), wrong=reached))
    told = editor.jobs.rows(own, editor._wrong(own))
    [more] = [row for row in told if row not in before]
    assert editor.base.decode(more.prompt) == "France is run from"


@pytest.mark.parametrize(
    ("kind", "target"), [("Lowercase", "Rome"), ("NFC", "Malmo\u0308"), ("NFKC", "H\u2082O")]
)
def test_what_the_tokenizer_writes_otherwise_holds_here_and_where_it_is_served(
    demo_dir: Path, tmp_path: Path, kind: str, target: str
) -> None:
    pytest.importorskip("optimum", reason="optimum-onnx needs transformers 4")
    from memoir_edge_exporter import export
    from memoir_edge_runtime import Session, recorded, replay

    shutil.copytree(demo_dir, folder := tmp_path / "model")
    file = folder / "tokenizer.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"normalizer": {"type": kind}}))
    base = load_model(str(folder), device="cpu")
    editor = Editor(base, choose(base, Wishes(asked=0)))
    [made] = editor.apply([Edit(id="a", prompt="The capital of France is", target=target, tags={})])
    assert base.shown(target) != target
    assert made.took
    # What is read at once is not generated; where it is, the answer is the same.
    [read] = editor.check([made.edit])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Edited, "gives", lambda self, asked, routes: [False] * len(asked))
        patch.setattr(
            "memoir_edge.editor.holds._known", lambda model, cases, *_: [False] * len(cases)
        )
        assert editor.check([made.edit]) == [read]
    export(model=folder, out=tmp_path / "onnx")
    session = Session(tmp_path / "onnx", memory=editor.memory())
    [[outcome]] = replay(session, session.generation, recorded(editor.memory()))
    assert (outcome.result.text.strip(), outcome.held) == (base.shown(target), True)
