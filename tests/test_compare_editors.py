"""tools/compare_editors.py and tools/peers.py on the demo model."""

import json
from pathlib import Path
from typing import Any

import compare_editors as compare
import numpy as np
import peers
import pytest

from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import BaseModel, Watch, choose, load
from memoir_edge.errors import InputError
from memoir_edge.evaluate.dataset import Way
from memoir_edge.relations import Relation

EDITS = sample(2, seed=3)
CAPITAL = Relation("country.capital", ("The capital of {} is", "What is {}'s capital?"))


@pytest.fixture(scope="module")
def demo() -> BaseModel:
    return load(str(model_dir()), device="cpu")


@pytest.fixture
def making(demo: BaseModel, words: Any, tmp_path: Path) -> Any:
    way = Way(demo, choose(demo, coded=True), words, [CAPITAL])
    return peers.Making(way, EDITS, tmp_path / "m.safetensors", Watch())


def compared(tmp_path: Path, *words: str) -> list[str]:
    """The tool's arguments for two edits in ZsRE's fields."""
    records = [
        {"subject": e.subject, "src": e.prompt, "alt": e.target, "answers": [e.ground_truth],
         "rephrase": e.rephrase[0], "loc": e.locality[0].prompt, "loc_ans": e.locality[0].target}
        for e in EDITS
    ]  # fmt: skip
    (tmp_path / "zsre.json").write_text(json.dumps(records), encoding="utf-8")
    given = ["compare", f"zsre={tmp_path / 'zsre.json'}", "--out", str(tmp_path / "out")]
    given += ["--model", str(model_dir()), "--encoder", "words", *words]
    return given


@pytest.mark.slow
def test_methods_are_asked_the_same_and_what_is_done_is_kept(
    tmp_path: Path,
    word_router: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plot = tmp_path / "plot.png"
    methods = "memoir-edge,tuning,in-context,grace"
    given = compared(tmp_path, "--methods", methods, "--edits", "2", "--plot", str(plot))
    monkeypatch.setattr(compare, "Encoder", word_router)
    monkeypatch.setattr(compare, "relations_of", lambda given: [CAPITAL])
    monkeypatch.setattr("sys.argv", given)
    compare.main()
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["method"]: row for row in first["rows"]}
    assert list(rows) == methods.split(",")
    right = {name: row["free"]["reliability"] for name, row in rows.items()}
    assert right == right | {"memoir-edge": 1.0, "tuning": 1.0}
    grace = rows["grace"]
    assert grace["free"]["locality"] == grace["teacher_forced"]["locality"] == 1.0
    failing = 1 - grace["free"]["generalization"]
    assert sum(grace["why"].values()) == pytest.approx(failing)
    assert all(row["bytes"] > 0 and row["cpu_seconds_per_edit"] > 0 for row in rows.values())
    assert plot.stat().st_size > 0

    monkeypatch.setattr(compare, "measure", None)  # all is there already
    compare.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first

    monkeypatch.setattr("sys.argv", [*given, "--encoder", "other"])
    with pytest.raises(SystemExit, match="other router"):
        compare.main()


def test_hard_negatives_of_each_kind_are_asked() -> None:
    edits = sample(60, seed=1)
    kinds = {
        compare.kind_of(edit, text)
        for edit in compare.probed(edits)
        for text in edit.hard_negatives
        if text not in next(e for e in edits if e.id == edit.id).hard_negatives
    }
    assert {compare.SAME_TEMPLATE, compare.SAME_SUBJECT} <= kinds
    prompts = {edit.prompt for edit in edits}
    assert all(not prompts & {*edit.hard_negatives} for edit in compare.probed(edits))


def test_tuned_models_are_the_base_model_again(making: Any) -> None:
    edit = EDITS[0]
    base = making.way.base
    with peers.METHODS["tuning"](making) as made:
        [said] = made.model.answer([edit.prompt], 8, memory=True)
        [other] = made.model.answer([edit.prompt], 8, memory=False)
    assert said.text.strip() == edit.target != other.text.strip()
    assert other.text.strip() == edit.ground_truth
    assert not any(p.requires_grad for p in base.net.parameters())


def test_all_rows_are_those_of_forms_and_phrasings_too(making: Any) -> None:
    plain, found = peers.plain_rows(making), peers.all_rows(making)
    assert len(plain) == len(EDITS)
    assert len(found) > 3 * len(plain)
    assert all(row in found for row in plain)


@pytest.mark.parametrize("method", ["lora", "lora-rows"])
def test_lora_is_taken_off_again(making: Any, method: str) -> None:
    pytest.importorskip("peft")
    edit = EDITS[0]
    before = dict(making.way.base.net.named_modules()).keys()
    with peers.METHODS[method](making) as made:
        [said] = made.model.answer([edit.prompt], 8, memory=True)
        [other] = made.model.answer([edit.prompt], 8, memory=False)
    assert (said.text.strip(), other.text.strip()) == (edit.target, edit.ground_truth)
    assert dict(making.way.base.net.named_modules()).keys() == before


def test_what_lora_needs_is_said(making: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(InputError, match="LoRA needs peft"):
        peers.METHODS["lora"](making)


def test_a_fact_stands_before_prompts_that_ask_for_it(making: Any) -> None:
    edit = EDITS[0]
    model = peers.InContext(making.way, EDITS)
    assert model.reached([edit.prompt, "Nobody was late again"]) == [edit, None]
    [found, other] = peers.before([edit, None], ["Who?", "Why?"])
    assert (found, other) == (f"{edit.prompt} {edit.target}.\nWho?", "Why?")
    assert peers.first(" Lyon. It lies on the Rhone.\nQ:") == "Lyon"


def test_radii_grow_for_the_same_label_and_are_shared_with_another(demo: BaseModel) -> None:
    grace = peers.Grace(demo, choose(demo).site, radius=1.0)
    at = lambda x: np.array([x, 0.0], np.float32)  # noqa: E731
    assert grace.entered(at(0), (1,)) == 0
    assert grace.entered(at(1.5), (1,)) == 0  # its ball of 1 would touch the first
    assert grace.radii == [1.5]
    assert grace.entered(at(5), (2,)) == 1  # far from all
    assert grace.entered(at(4), (3,)) == 2  # near another label: half of the way is each one's
    assert grace.radii == pytest.approx([1.5, 0.5, 0.5], abs=1e-4)


def test_only_prompts_within_a_radius_get_a_value(demo: BaseModel) -> None:
    edit = EDITS[0]
    grace = peers.Grace(demo, choose(demo).site, lr=0.1)
    grace.edit(edit)
    prompts = [edit.prompt, edit.locality[0].prompt]
    assert grace.fired(prompts) == [0, None]
    mine, other = grace.answer(prompts, 8, memory=True)
    assert (mine.text.strip(), mine.edit) == (edit.target, edit.id)
    assert other == grace.answer(prompts, 8, memory=False)[1]
    [forced, still] = grace.forced(prompts, [edit.target, "a"], memory=True)
    assert forced.predicted == forced.target
    assert [still] == grace.forced(prompts[1:], ["a"], memory=False)
