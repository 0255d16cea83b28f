"""`memoir-edge eval --dataset`: the paper's table, made in memories of its own, resumable."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import memory as memory_file
from memoir_edge.cli import main
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.errors import InputError
from memoir_edge.evaluate.dataset import claim, edits_of, jobs, mean
from memoir_edge.evaluate.metrics import Report, evaluate


@pytest.fixture
def zsre(tmp_path: Path) -> Path:
    """Four edits of the demo model in ZsRE's fields."""
    records = [
        {
            "subject": edit.subject,
            "src": edit.prompt,
            "alt": edit.target,
            "answers": [edit.ground_truth],
            "rephrase": edit.rephrase[0],
            "loc": edit.locality[0].prompt,
            "loc_ans": edit.locality[0].target,
        }
        for edit in sample(4, seed=3)
    ]
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_table_is_made_once_and_gone_on_with(zsre: Path, tmp_path: Path, run_json: Any) -> None:
    out = tmp_path / "out"
    words = ["eval", "--dataset", "zsre", "--data", zsre, "--model", model_dir(), "--out", out]
    code, done = run_json(*words, "--sizes", "1,3", "--steps", 40)
    assert code == 0
    assert [(row["edits"], row["memories"]) for row in done["rows"]] == [(1, 4), (3, 1)]
    three = done["rows"][1]
    assert three["teacher_forced"]["reliability"] == three["free"]["reliability"] == 1.0
    assert three["teacher_forced"]["locality"] == 1.0
    assert done["rows"][0]["routing"]["false_fires"] is None  # nothing to build hard ones from
    assert three["routing"]["false_fires"] is not None

    reports = sorted(out.glob("zsre-*-*.json"))
    assert len(reports) == 5
    reports[0].unlink()  # interrupted after the edit, before its report
    kept = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.suffix != ".json"}
    assert run_json(*words, "--sizes", "1,3", "--steps", 40) == (0, done)
    grown = [path for path, at in kept.items() if path.stat().st_mtime_ns != at]
    assert {path.name.split(".")[0] for path in grown} <= {reports[0].stem}

    assert main([*map(str, words), "--sizes", "1", "--steps", "41"]) == 2  # another evaluation


def test_answers_of_another_length_are_asked_anew_of_the_same_memory(
    zsre: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def evaluated(*given: Any, max_new_tokens: int, **more: Any) -> Report:
        asked.append(max_new_tokens)
        return evaluate(*given, max_new_tokens=max_new_tokens, **more)

    monkeypatch.setattr("memoir_edge.evaluate.dataset.evaluate", evaluated)
    words = ["eval", "--dataset", "zsre", "--data", zsre, "--model", model_dir()]
    words += ["--out", tmp_path / "out", "--sizes", "1", "--steps", "1", "--quiet"]
    zsre.write_text(json.dumps(json.loads(zsre.read_text())[:1]))
    for most in (16, 4, 16, 4):
        assert main([*map(str, words), "--max-new-tokens", str(most)]) == 0
    assert asked == [16, 4]
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1


@pytest.mark.slow
def test_an_encoder_routes_where_one_is_given(
    zsre: Path, tmp_path: Path, run_json: Any, word_router: type[Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr("memoir_edge.router.Encoder", word_router)
    words = ["eval", "--dataset", "zsre", "--data", zsre, "--model", model_dir()]
    words += ["--out", tmp_path / "out", "--sizes", "2", "--steps", 40, "--thinned", 1]
    code, done = run_json(*words, "--encoder", "words")
    assert code == 0
    assert done["rows"][0]["free"]["reliability"] == 1.0
    made = memory_file.read(tmp_path / "out" / "zsre-2-0.safetensors")
    assert made.codes is not None
    assert made.codes.router.digest == word_router().digest
    assert main([*map(str, words)]) == 2  # by the site's activations: another evaluation


def test_what_cannot_be_measured_is_said(zsre: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of the 4 records .* rephrase and hard_negatives"):
        edits_of("counterfact", zsre)
    with pytest.raises(InputError, match="unknown dataset 'mquake'; known: zsre, counterfact"):
        edits_of("mquake", zsre)
    with pytest.raises(InputError, match="10 edits are wanted of 4"):
        jobs("zsre", edits_of("zsre", zsre)[0], [1, 10])
    common = ["eval", "--dataset", "zsre", "--data", str(zsre), "--model", str(model_dir())]
    assert main(common) == 2  # no --out
    assert main([*common, "--out", str(tmp_path / "o"), "--sizes", "1,x"]) == 2
    assert main([*common, "--out", str(tmp_path / "o"), "--sizes", "0"]) == 2
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("bad", [None, {}, {"src": "a b", "alt": "c"}, "twice"])
def test_records_that_are_left_out_are_counted(
    zsre: Path, tmp_path: Path, capsys: Any, bad: Any
) -> None:
    """Before anything is loaded: what is measured is not all that the file holds."""
    records = json.loads(zsre.read_text())
    zsre.write_text(json.dumps([*records, records[0] | {"alt": "x"} if bad == "twice" else bad]))
    edits, count = edits_of("zsre", zsre)
    assert (len(edits), count) == (4, 5)
    words = ["eval", "--dataset", "zsre", "--data", zsre, "--model", tmp_path / "none"]
    assert main([*map(str, words), "--out", str(tmp_path / "o"), "--sizes", "1"]) == 2
    assert f"4 of 5 records of {zsre} can be measured" in capsys.readouterr().out


def test_an_evaluation_is_begun_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Path, text: str, **rest: Any) -> None:
        self.write_bytes(text.encode()[:9])
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", cut)
        with pytest.raises(OSError, match="full"):
            claim(tmp_path, {"base": "x"}, [])
    claim(tmp_path, {"base": "x"}, [])
    with pytest.raises(InputError, match="an evaluation with other base"):
        claim(tmp_path, {"base": "y"}, [])


def test_memories_of_a_size_are_of_other_edits_each() -> None:
    edits = sample(120, seed=0)
    made = jobs("zsre", edits, [1, 10, 100])
    assert {size: len(parts) for size, parts in made.items()} == {1: 10, 10: 10, 100: 1}
    tens = [edit.id for job in made[10] for edit in job.edits]
    assert tens == [edit.id for edit in edits[:100]]


def test_a_share_that_no_memory_has_is_none() -> None:
    def report(locality: float, recall: float | None) -> dict[str, Any]:
        return {
            "teacher_forced": {"locality": locality},
            "free": {"locality": None},
            "routing": {"recall": recall},
        }

    assert mean([report(1.0, 0.0), report(0.5, None)]) == report(0.75, 0.0)


@pytest.mark.parametrize(
    ("dataset", "name", "least"),
    [
        ("zsre", "zsre/zsre_eval.json", 1000),
        ("zsre", "zsre/knowedit_zsre.json", 1000),
        ("counterfact", "counterfact/counterfact-edit.json", 9000),
    ],
)
def test_the_published_files_hold_enough(
    dataset: str, name: str, least: int, published: Callable[[str], Path]
) -> None:
    edits, _ = edits_of(dataset, published(name))
    assert len(edits) >= least
    assert len({edit.prompt for edit in edits}) == len(edits)
