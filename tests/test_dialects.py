"""Records of others: their fields in ours, and ours beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memoir_edge.dialects import native
from memoir_edge.edits import FIELDS, Edit, Unrelated, default_id, from_record, read

FOREIGN: dict[str, tuple[dict[str, Any], Edit]] = {
    "zsre": (
        {"src": "When was X?", "alt": "2006", "subject": "X", "rephrase": "X was when?",
         "answers": ["1998"], "loc": "nq question: who", "loc_ans": "me", "pred": "2011"},
        Edit(prompt="When was X?", target="2006", subject="X", ground_truth="1998", tags={},
             rephrase=("X was when?",), locality=(Unrelated("nq question: who", "me"),)),
    ),
    "counterfact": (
        {"case_id": 1, "requested_rewrite": {"prompt": "The mother tongue of {} is", "subject": "D",
         "target_new": {"str": "English"}, "target_true": {"str": "French"}},
         "paraphrase_prompts": ["D speaks"], "neighborhood_prompts": ["M speaks"]},
        Edit(prompt="The mother tongue of D is", target="English", subject="D", tags={},
             ground_truth="French", rephrase=("D speaks",), hard_negatives=("M speaks",)),
    ),
    "easyedit": (
        {"prompt": "Which family?", "target_new": "N", "subject": "E", "ground_truth": ["A"],
         "rephrase_prompt": "What family?",
         "locality": {"Specific": [{"prompt": "The rank", "ground_truth": [["genus"]]}]}},
        Edit(prompt="Which family?", target="N", subject="E", ground_truth="A", tags={},
             rephrase=("What family?",), locality=(Unrelated("The rank", "genus"),)),
    ),
    "rome": (
        {"case_id": 7, "prompt": "{} was born in", "subject": "E", "relation_id": "P19",
         "target_new": {"str": "N", "id": "Q1"}, "target_true": {"str": "A", "id": "Q2"}},
        Edit(prompt="E was born in", target="N", subject="E", ground_truth="A", tags={}),
    ),
    "easyedit, prepared for its editor": (
        {"prompt": "{} plays", "target_new": ["N"], "subject": "E", "ground_truth": "A",
         "rephrase_prompt": ["E performs", "{} is at the"], "portability": {"hop": {"prompt": "x"}},
         "locality": {"near": {"prompt": ["F, the", "G"], "ground_truth": ["drum"]},
                      "far": {"prompt": "H", "ground_truth": "B"}}},
        Edit(prompt="E plays", target="N", subject="E", ground_truth="A", tags={},
             rephrase=("E performs", "E is at the"),
             locality=(Unrelated("F, the", "drum"), Unrelated("G"), Unrelated("H", "B"))),
    ),
    "easyedit, with fields of ours": (
        {"id": "n", "prompt": "p", "target_new": "N", "keys": ["k"], "guards": ["g"],
         "rephrase": "r", "threshold": 0.5, "hard_negatives": ["h"], "locality_prompt": "l",
         "tags": {"by": "me"}, "locality": [{"prompt": "m"}]},
        Edit(id="n", prompt="p", target="N", keys=("k",), guards=("g",), rephrase=("r",),
             threshold=0.5, hard_negatives=("h",), tags={"by": "me"}, locality=(Unrelated("m"),)),
    ),
}  # fmt: skip


def test_a_record_of_ours_is_not_foreign() -> None:
    assert native({"prompt": "p", "target": "t"}, FIELDS) is None


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_records(name: str) -> None:
    raw, wanted = FOREIGN[name]
    found = from_record(raw)
    assert found.id == (wanted.id or default_id(wanted.prompt, wanted.target))
    assert {**vars(found), "id": wanted.id} == vars(wanted)


@pytest.mark.parametrize("name", FOREIGN)
def test_fields_of_ours_beside_those_of_others(name: str) -> None:
    raw, _ = FOREIGN[name]
    ours: dict[str, Any] = {
        "id": "n", "threshold": 0.5, "keys": ["k"], "guards": ["g"], "tags": {"by": "me"},
        "valid_from": "2026", "valid_to": "2027", "source": "a book",
    }  # fmt: skip
    measured = {"rephrase": ["r"], "locality": [{"prompt": "m"}]}
    found = from_record(measured | raw | ours)
    assert found.record().items() >= ours.items()
    assert "rephrase" in raw or "r" in found.rephrase
    assert "locality" in raw or Unrelated("m") in found.locality
    nothing = raw | dict.fromkeys(ours.keys() - raw.keys())
    assert from_record(nothing) == from_record(raw)


@pytest.mark.parametrize(
    ("name", "count"),
    [("zsre/zsre_eval.json", 1037), ("zsre/knowedit_zsre.json", 1304),
     ("counterfact/counterfact-edit.json", 10000)],
)  # fmt: skip
def test_published_files(name: str, count: int, published: Callable[[str], Path]) -> None:
    edits, problems = read(published(name), skip_bad=True)
    assert len(edits) + len(problems) == count
    assert len(edits) > 0.98 * count  # the rest repeats a prompt and target
    assert all("already used" in problem.reason for problem in problems)
    assert sum(bool(edit.rephrase) for edit in edits) > 0.98 * len(edits)
