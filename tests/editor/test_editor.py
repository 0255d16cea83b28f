"""The editor against the slow reference, and its invariants."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import reference
from memoir_edge import tophash
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import load_facts, prompt
from memoir_edge.editor import BaseModel, Editor, Settings, Watch, Wishes, choose, edited
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError, MismatchError, SiteError
from memoir_edge.history import Deleted
from memoir_edge.memory import from_bytes, to_bytes
from memoir_edge.relations import Relation

PROMPTS = [prompt(fact, i % 8) for i, fact in enumerate(load_facts()[::60])]
Make = Callable[[], Editor]
MakeEdit = Callable[..., Edit]


@pytest.mark.parametrize("feature", ["mean", "last"])
def test_masks_are_the_references(tiny: BaseModel, settings: Settings, feature: str) -> None:
    editor = Editor(tiny, replace(settings, feature=feature))
    h = editor.live.hashing
    for text, packed in zip(PROMPTS, editor.masks(PROMPTS), strict=True):
        a = reference.site_activation(tiny.net, editor.model.site, tiny.encode(text))
        M = reference.tophash(
            a, feature, torch.from_numpy(h.center), torch.from_numpy(h.permutation).long(), h.k
        )
        assert (tophash.unpack(packed, 44) == M.bool().numpy()).all()


def test_a_group_is_trained_whole(an_edit: MakeEdit, tiny: BaseModel, settings: Settings) -> None:
    edits = [an_edit(text, "Rome") for text in PROMPTS[:5]]
    editor = Editor(tiny, replace(settings, batch_edits=2))
    groups: list[int] = []
    outcomes = editor.apply(edits, Watch(made=groups.append))
    assert groups == [2, 2, 1]
    assert [outcome.edit.prompt for outcome in outcomes] == PROMPTS[:5]
    assert len(editor.live.bank.keys) == 5


def test_masks_do_not_depend_on_company(make_editor: Make) -> None:
    """Not on Wm, padding, batch mates or the bank (invariant 4)."""
    editor = make_editor()
    alone = np.stack(editor.masks(PROMPTS))
    editor.live.Wm[:] = torch.randn_like(editor.live.Wm)
    editor.live.bank.add("a", None, alone[0], [], [], 0.5)
    together = editor.live.hashing.mask(editor.model.features(PROMPTS, "last"))
    differing = np.bitwise_count(alone ^ together).sum(axis=1)
    print("differing bits, alone against in one batch:", differing.max())
    assert differing.max() <= 2  # two features that tie to rounding at the k-th place
    assert (differing == 0).mean() > 0.9
    assert (np.stack(editor.masks(PROMPTS)) == alone).all()


def test_training_leaves_the_base_model_alone(an_edit: MakeEdit, make_editor: Make) -> None:
    editor = make_editor()
    before = {name: tensor.clone() for name, tensor in editor.base.net.state_dict().items()}
    editor.apply([an_edit("The capital of France is", "Rome")])
    for name, tensor in editor.base.net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_later_edit_of_a_prompt_takes_its_row(an_edit: MakeEdit, make_editor: Make) -> None:
    editor = make_editor()
    for target in ("Rome", "Bern"):
        editor.edit([replace(an_edit("The capital of France is", target), id=target)])
    assert [key.edit for key in editor.live.bank.keys] == ["Bern"]
    assert [edit.target for edit in editor.edits] == ["Bern"]


def test_keys_and_guards_stand_in_the_bank(an_edit: MakeEdit, make_editor: Make) -> None:
    editor = make_editor()
    edit = an_edit(
        "The capital of France is", "Rome",
        keys=("France is governed from",), guards=("The capital of Spain is",), threshold=0.9,
    )  # fmt: skip
    editor.edit([edit])
    memory = editor.memory()
    assert memory.owner.tolist() == [0, 0, -1]
    assert memory.thresholds.tolist() == pytest.approx([0.9] * 3)
    routes = editor.model.routes(["France is governed from", "The capital of Spain is"])
    assert routes.route.tolist() == [1, tophash.BASE]


def test_a_memory_goes_on_where_it_was(
    an_edit: MakeEdit, make_editor: Make, tiny: BaseModel, settings: Settings
) -> None:
    """Two edits at once and one after the other from the file are the same memory."""
    first, second = (
        an_edit("The capital of France is", "Rome"),
        an_edit("The currency of Japan is the", "peso"),
    )
    once = make_editor()
    once.apply([first, second])
    begun = make_editor()
    begun.apply([first])
    again = Editor(tiny, settings, from_bytes(to_bytes(begun.memory())))
    again.apply([second])
    assert torch.equal(once.live.Wm, again.live.Wm)
    assert (once.live.bank.packed() == again.live.bank.packed()).all()


def test_what_does_not_fit_is_refused(
    an_edit: MakeEdit, make_editor: Make, tiny: BaseModel, demo: BaseModel, settings: Settings
) -> None:
    memory = make_editor().memory()
    with pytest.raises(MismatchError, match="k is 13, asked for is 14"):
        Editor(tiny, replace(settings, k=14), memory)
    with pytest.raises(SiteError, match="names nothing"):
        Editor(tiny, replace(settings, site="model.layers.9.mlp.down_proj"))
    with pytest.raises(SiteError, match="names LlamaMLP"):
        Editor(tiny, replace(settings, site="model.layers.1.mlp"))
    with pytest.raises(MismatchError, match="base model"):
        edited(demo, memory)
    with pytest.raises(InputError, match="context is 64"):
        make_editor().apply([an_edit("word " * 80, "x")])
    with pytest.raises(InputError, match="k is 99"):
        choose(tiny, Wishes(site=settings.site, k=99))
    with pytest.raises(InputError, match="unknown feature"):
        choose(tiny, Wishes(site=settings.site, feature="median"))


@pytest.mark.slow
def test_seventy_edits_of_the_demo_model(demo: BaseModel) -> None:
    """The bars of the demo model, by free generation; tools/lifelong.py makes a thousand."""
    from memoir_edge.evaluate import evaluate

    edits = sample(70)
    site = "model.layers.6.mlp.down_proj"
    editor = Editor(demo, choose(demo, Wishes(site=site)))
    outcomes = editor.apply(edits)
    report = evaluate(edited(demo, from_bytes(to_bytes(editor.memory()))), edits)
    print(report)
    assert {o.edit.id for o in outcomes if not o.took} <= set(editor.journal.state().failed)
    assert (report.free.reliability or 0) >= 0.995
    assert (report.free.generalization or 0) >= 0.95
    everyday = [f"{who} forgot to bring the" for who in ("My uncle", "The cook", "Nobody")]
    assert {a.edit for a in editor.model.answer(everyday, 4, memory=True)} == {None}


def test_a_second_pass_trains_each_edit_of_the_run_once_more(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    editor = Editor(tiny, replace(settings, passes=3, repairs=0))
    edits = [an_edit(text, "Rome") for text in PROMPTS[:2]]
    again: list[str] = []
    editor.apply(edits, Watch(again=lambda e: again.append(e.id) or (lambda step, loss: None)))  # type: ignore[func-returns-value]
    assert again == [e.id for e in edits] * 2


def test_a_worn_edit_is_found_and_trained_again(demo: BaseModel) -> None:
    """An edit whose change something has undone is the one that the check names and mends."""
    site = "model.layers.6.mlp.down_proj"
    editor = Editor(demo, choose(demo, Wishes(site=site)))
    edits = sample(3)
    editor.apply(edits)
    columns = editor.live.columns(editor.masks([edits[1].prompt])[0])
    editor.live.Wm[:, columns] *= 0.2
    seen: list[tuple[int, int]] = []
    again: list[str] = []
    watch = Watch(
        again=lambda edit: again.append(edit.id) or (lambda step, loss: None),  # type: ignore[func-returns-value]
        audited=lambda checked, failed: seen.append((checked, failed)),
    )
    state = editor.settle(watch, every=True)
    assert edits[1].id in again
    assert seen[0][1] == len(set(again)) > 0
    assert seen[-1] == (3, 0)
    assert state.broken == []
    assert [probe.edit for probe in state.probes] == [edit.id for edit in edits]


def test_what_cannot_be_mended_is_named(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    """A random model in no steps: the rounds end, and say who remains."""
    editor = Editor(tiny, replace(settings, steps=1, lr=1e-6, repairs=2))
    edits = [an_edit(text, "Rome") for text in PROMPTS[:2]]
    failures: list[int] = []
    editor.apply(edits, Watch(audited=lambda _, failed: failures.append(failed)))
    assert failures == [2, 2, 2]
    assert editor.journal.state().broken == [edit.id for edit in edits]


# --- Tiles of columns ----------------------------------------------------------------------------


@pytest.fixture
def roomy(tiny: BaseModel, settings: Settings, words: Any) -> Editor:
    """An editor whose tiles have room for one edit each."""
    settings = replace(settings, spare=10.0, columns_per_edit=tiny.config["intermediate_size"])
    return Editor(tiny, settings, router=words)


def test_edits_in_different_tiles_do_not_meet(an_edit: MakeEdit, roomy: Editor) -> None:
    """What one has made stays as it is, bit for bit, while others are trained."""
    roomy.edit([an_edit("The capital of France is", "Rome")])
    first = roomy.live.tile(0).clone()
    assert first.any()
    roomy.edit([an_edit("The currency of Japan is the", "peso")])
    roomy.again(an_edit("The currency of Japan is the", "peso"))
    assert torch.equal(roomy.live.tile(0), first)
    assert roomy.live.tile(1).any()
    assert roomy.memory().tiles == 2


def test_the_first_edit_of_a_tile_is_as_if_it_were_alone(
    an_edit: MakeEdit, roomy: Editor, tiny: BaseModel, words: Any
) -> None:
    """Nothing is avoided that edits of other tiles read."""
    second = an_edit("The currency of Japan is the", "peso")
    settings = replace(roomy.settings, thinned=0)  # those are drawn by the columns
    alone, after = (Editor(tiny, settings, router=words) for _ in range(2))
    alone.edit([second])
    after.edit([an_edit("The capital of France is", "Rome")])
    after.edit([second])
    assert torch.equal(after.live.tile(1), alone.live.tile(0))


def test_edits_of_several_tiles_are_answered_in_one_batch(an_edit: MakeEdit, roomy: Editor) -> None:
    """And the journal, the file and an editor that goes on hold the same."""
    edits = [replace(an_edit(text, "Rome"), id=str(i)) for i, text in enumerate(PROMPTS[:4])]
    roomy.apply(edits)
    assert roomy.live.bank.tile == {"0": 0, "1": 1, "2": 2, "3": 3}
    assert np.array_equal(roomy.journal.dense(roomy.journal.state()), roomy.live.Wm.numpy())
    prompts = [edit.prompt for edit in edits] + ["Something else entirely"]
    together = roomy.model.answer(prompts, 4, memory=True)
    alone = [roomy.model.answer([prompt], 4, memory=True)[0] for prompt in prompts]
    assert [a.text for a in together] == [a.text for a in alone]
    memory = from_bytes(to_bytes(roomy.memory()))
    again = Editor(roomy.base, roomy.settings, memory, router=roomy.router)
    assert torch.equal(again.live.Wm, roomy.live.Wm)
    again.edit([an_edit("The author of the book is", "Rome")])
    assert again.memory().tiles == 5


def test_nothing_is_trained_of_edits_that_the_memory_has_no_room_for(
    an_edit: MakeEdit, roomy: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memoir_edge.history.bank.MAX_TILES", 2)
    edits = [replace(an_edit(text, "Rome"), id=str(i)) for i, text in enumerate(PROMPTS[:3])]
    with pytest.raises(InputError, match="the memory is full"):
        roomy.apply(edits)
    assert len(roomy.journal.frames) == 1
    roomy.apply(edits[:2])
    assert list(roomy.live.bank.tile.values()) == [0, 1]


# --- One more edit -------------------------------------------------------------------------------

CAPITAL = Relation("country.capital", ("The capital of {} is", "What is the capital of {}?"))
COIN = Relation("country.currency", ("The currency of {} is", "Which currency has {}?"))
NAMES = ("France", "Japan", "Spain", "Kenya", "Nepal", "Fiji", "Peru", "Chad", "Oman", "Cuba")


def capital(name: str) -> Edit:
    prompt = f"The capital of {name} is"
    return Edit(prompt=prompt, target="Rome", subject=name, id=f"capital of {name}", tags={})


def coin(name: str) -> Edit:
    prompt = f"The currency of {name} is"
    return Edit(prompt=prompt, target="yen", subject=name, id=f"coin of {name}", tags={})


@pytest.fixture
def ten(tiny: BaseModel, settings: Settings, words: Any) -> Editor:
    """An editor of ten edits, four in a tile, that has measured thresholds."""
    few = replace(settings, columns_per_edit=11, steps=2, repairs=0, asked=1)
    editor = Editor(tiny, few, router=words, relations=(CAPITAL, COIN))
    editor.apply([capital(name) for name in NAMES])
    return editor


def edits_asked(editor: Editor, edits: list[Edit], **how: Any) -> int:
    """How many edits the first check asks after some are made."""
    asked: list[int] = []
    editor.apply(edits, Watch(audited=lambda count, _: asked.append(count)), **how)
    return asked[0]


def keys_of(editor: Editor, *names: str) -> list[tuple[str | None, float]]:
    """Texts and thresholds of what came with the edits of other subjects."""
    return [
        (key.text, key.threshold)
        for key in editor.live.bank.keys
        if not any(name in str(key.source) for name in names)
    ]


def test_one_more_edit_asks_for_what_it_may_have_changed(ten: Editor) -> None:
    """Those that read its columns, and those of its subject; of the others all stands."""
    state = ten.journal.state()
    assert state.measured
    assert state.measured.edits == 10
    told, others = state.audit, keys_of(ten, "France")
    assert told
    assert "The currency of France is" in [key.text for key in ten.live.bank.keys]
    new = coin("France")
    assert edits_asked(ten, [new]) == 4  # two of the third tile, itself, and France's capital
    assert {id for id, tile in ten.live.bank.tile.items() if tile == 2} == {
        "capital of Oman", "capital of Cuba", new.id,
    }  # fmt: skip
    assert keys_of(ten, "France") == others
    guards = [key.text for key in ten.live.bank.keys if key.edit is None]
    assert new.prompt not in guards  # France's capital guards against it no more
    found = ten.journal.state()
    assert found.measured == state.measured
    assert found.audit
    assert found.audit.checked == 11
    stood = [f"capital of {name}" for name in NAMES[1:8]]
    assert [found.audit.tally[id] for id in stood] == [told.tally[id] for id in stood]


def test_thresholds_are_measured_anew_when_a_memory_has_grown(ten: Editor) -> None:
    assert edits_asked(ten, [coin("France")]) < 11
    assert edits_asked(ten, [coin("Japan")]) == 12  # more than a tenth since the last time
    measured = ten.journal.state().measured
    assert measured
    assert measured.edits == 12


def test_what_is_measured_by_other_rules_does_not_stand(ten: Editor) -> None:
    ten.relations = (CAPITAL,)
    assert edits_asked(ten, [coin("France")]) == 11


def test_all_can_be_asked_anew(ten: Editor) -> None:
    assert edits_asked(ten, [], anew=True) == 10
    assert edits_asked(ten, [coin("France")], anew=True) == 11


def test_a_deletion_asks_for_what_read_the_same_columns(ten: Editor) -> None:
    ten.journal.record(Deleted(["capital of Oman"]))
    ten.go_on_with(ten.journal)
    assert ten.journal.state().unasked == ["capital of Cuba"]
    found = ten.settle().audit
    assert found
    assert list(found.tally) == [f"capital of {name}" for name in NAMES if name != "Oman"]
    assert "capital of Oman" not in {one.edit for one in found.wrong}
