"""tools/world.py: edits of CounterFact, and what is asked of each."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest


def test_each_edit_has_its_answer_phrasings_and_near_misses(
    published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    published("pararel")
    published("counterfact/counterfact-edit.json")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    world = importlib.import_module("world")
    edits = world.world((), 24, seed=0)
    told = world.world((), 24, seed=0, told=2)
    assert len(edits) == len(told) == 24
    for edit in edits:
        assert edit.target not in ("", "x")
        assert edit.rephrase
        assert edit.hard_negatives
        assert not {edit.prompt, *edit.rephrase} & set(edit.hard_negatives)
        assert not edit.keys
    assert all(len(edit.keys) == 2 and not set(edit.keys) & set(edit.rephrase) for edit in told)
    assert all(edit.locality for edit in world.with_unrelated(edits))
    assert [edit.id for edit in world.world((), 24, seed=0)] == [edit.id for edit in edits]
    assert [edit.id for edit in world.world((), 24, seed=1)] != [edit.id for edit in edits]
