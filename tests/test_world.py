"""tools/world.py and router_worlds.py: edits, and what is asked of each, and how it is typed."""

import random
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import router_worlds as worlds
import world

from memoir_edge.relations import fill
from memoir_edge.relations import load as load_relations


def test_each_edit_has_its_answer_phrasings_and_near_misses(
    published: Callable[[str], Path],
) -> None:
    published("pararel")
    published("counterfact/counterfact-edit.json")
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


def test_edits_of_our_own_are_asked_what_the_package_does_not_hold() -> None:
    edits = world.own_world(24, seed=0)
    assert len({edit.id for edit in edits}) == 24
    for edit in edits:
        assert edit.subject.lower() in edit.prompt.lower()
        held = {
            fill(phrasing, edit.subject)
            for relation in load_relations()
            for phrasing in relation.phrasings
        }
        assert edit.prompt in held
        assert edit.rephrase
        assert not set(edit.rephrase) & held
    assert [edit.id for edit in world.own_world(24, seed=0)] == [edit.id for edit in edits]
    everything = world.own_world(1_000_000, seed=0)
    answers = tomllib.loads(Path(world.__file__).with_name("bench_answers_own.toml").read_text())
    assert {edit.target for edit in everything} <= {
        target for targets in answers["answers"].values() for target in targets
    }
    ids = {relation.id for relation in load_relations()}
    assert answers["answers"].keys() <= ids


@pytest.mark.parametrize("seed", range(20))
def test_a_text_is_mistyped_by_one_letter_or_space(seed: int) -> None:
    text, dice = "The auditor of Ironleaf is", random.Random(seed)
    assert sorted(worlds.typo(text, dice)) == sorted(text)
    assert abs(len(worlds.slip(text, dice)) - len(text)) <= 1
    spaced = worlds.space(text, dice)
    assert spaced.replace(" ", "") == text.replace(" ", "")
    assert abs(len(spaced) - len(text)) == 1


def test_somebody_else_is_asked_about_by_one_letter_of_a_strange_name() -> None:
    named = {"Kestrel Aerospace": "Kestrel", "Ironleaf": "Ironleaf", "Nepal": None}
    edits = [worlds.edit(f"The auditor of {name} is", name) for name in named]
    facts = [worlds.Fact("auditor", "firm", (), (name,), edited=True) for name in named]
    asked = worlds.World(edits, [], {}, (), facts=facts)
    made = worlds.renamed(asked, {"nepal", "aerospace"}, seed=0)
    strange = [name for name, word in named.items() if word]
    assert len(made) == len(strange)
    for text, name in zip(made, strange, strict=True):
        before = f"The auditor of {name} is"
        assert sum(a != b for a, b in zip(text, before, strict=True)) == 1
