"""`memoir-edge report` and `eval --html`, from a file to a page."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import memory as memory_file
from memoir_edge.cli import main
from memoir_edge.evaluate.metrics import evaluate
from memoir_edge.memory import Base

FIRST = "| france-capital | The capital of France is | Rome | "


def test_a_report_asks_and_compares(done: Any, tmp_path: Path, run_json: Any) -> None:
    memory = memory_file.read(done.memory)
    old = tmp_path / "old.safetensors"
    memory_file.write(replace(memory, values=memory.values * 0), old)
    words = ("--graph", done.graph, "--edits", done.edits, "--out", tmp_path / "r.md")
    code, document = run_json("report", done.memory, *words, "--compare", old)
    assert (code, document["failed"], document["digest"]) == (0, [], memory.digest)
    text = (tmp_path / "r.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith(FIRST)]
    assert "| Rome | 1.000 | yes |" in line
    assert "**3 of 3** edits answer as they should" in text
    assert "| The capital of France is | Paris | Rome | differs |" in text


def test_answers_are_compared_as_far_as_the_targets_go(
    done: Any, tmp_path: Path, run_json: Any
) -> None:
    words = ("--graph", done.graph, "--max-new-tokens", 1, "--out", tmp_path / "r.md")
    code, document = run_json("report", done.memory, *words, "--compare", done.memory)
    assert (code, document["failed"]) == (0, [])
    text = (tmp_path / "r.md").read_text()
    target = memory_file.read(done.memory).edits[1].record["target"]
    assert f"| {target} | {target} | same |" in text


@pytest.mark.parametrize(
    "other", [{"site": "model.layers.1.mlp.down_proj"}, {"base": Base("other", "ab" * 32)}]
)
def test_a_memory_that_does_not_fit_the_graph_is_compared_without_its_answers(
    done: Any, tmp_path: Path, capsys: Any, other: dict[str, Any]
) -> None:
    old, page = tmp_path / "old.safetensors", tmp_path / "r.md"
    memory_file.write(replace(memory_file.read(done.memory), **other), old)
    words = ("report", done.memory, "--graph", done.graph, "--compare", old, "--out", page)
    assert main([*map(str, words)]) == 0
    assert f"{old} is not asked: the memory's {next(iter(other))}" in capsys.readouterr().out
    assert "The two are of different models or layers" in page.read_text()
    assert "**3 of 3** edits answer as they should" in page.read_text()


@pytest.mark.parametrize(
    ("new", "old", "given"),
    [("bare", "whole", True), ("whole", "bare", True), ("bare", "bare", True),
     ("whole", "bare", False)],
)  # fmt: skip
def test_edits_that_are_given_stand_in_for_withheld_records(
    done: Any, tmp_path: Path, new: str, old: str, given: bool
) -> None:
    memory = memory_file.read(done.memory)
    bare = replace(memory, edits=tuple(entry._replace(record=None) for entry in memory.edits))
    for name, each in (("whole", memory), ("bare", bare)):
        memory_file.write(each, tmp_path / name)
    words = ["--graph", done.graph, "--compare", tmp_path / old, "--out", tmp_path / "r.md"]
    words += ["--edits", done.edits] if given else []
    assert main(["report", *map(str, (tmp_path / new, *words)), "--quiet"]) == 0
    assert "| The capital of France is | Rome | Rome | same |" in (tmp_path / "r.md").read_text()


def test_where_nobody_knows_a_prompt_there_are_no_answers_to_compare(
    done: Any, tmp_path: Path
) -> None:
    memory = memory_file.read(done.memory)
    bare = replace(memory, edits=tuple(entry._replace(record=None) for entry in memory.edits))
    memory_file.write(bare, tmp_path / "bare")
    other = {"prompt": "The capital of Spain is", "target": "Madrid"}
    (tmp_path / "other.jsonl").write_text(json.dumps(other))
    words = ["--graph", done.graph, "--edits", tmp_path / "other.jsonl", "--quiet"]
    words += ["--compare", tmp_path / "bare", "--out", tmp_path / "r.md"]
    main(["report", *map(str, (tmp_path / "bare", *words))])
    assert "before | after" not in (tmp_path / "r.md").read_text()


def test_an_edit_that_does_not_hold_fails_the_report(
    done: Any, tmp_path: Path, run_json: Any
) -> None:
    weak = tmp_path / "weak.safetensors"
    memory = memory_file.read(done.memory)
    memory_file.write(replace(memory, values=memory.values * 0), weak)
    code, document = run_json("report", weak, "--graph", done.graph, "--out", tmp_path / "r.html")
    assert (code, len(document["failed"])) == (1, 3)
    assert '<td class="bad">no</td>' in (tmp_path / "r.html").read_text()


def test_an_evaluation_is_the_same_page(done: Any, tmp_path: Path, capsys: Any) -> None:
    words = [done.graph, "--memory", done.memory, "--edits", done.edits, "--html"]
    assert main(["eval", *map(str, words), str(tmp_path / "e.html")]) == 0
    text = (tmp_path / "e.html").read_text()
    assert '<td class="good">yes</td>' in text
    assert "<svg" in text


@pytest.mark.parametrize("name", ["eval", "report"])
def test_a_page_is_of_the_memory_that_was_asked(
    done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    memory, held = tmp_path / "m.safetensors", memory_file.read(done.memory)
    memory.write_bytes(done.memory.read_bytes())
    module = importlib.import_module(f"memoir_edge.cli.commands.{name}")

    def evaluated(*given: Any, **more: Any) -> Any:
        memory_file.write(replace(held, values=held.values * 0), memory)  # meanwhile
        return evaluate(*given, **more)

    monkeypatch.setattr(module, "evaluate", evaluated)
    out, edits = tmp_path / "r.md", ("--edits", str(done.edits))
    words = {
        "eval": ("eval", done.graph, "--memory", memory, *edits, "--html", out),
        "report": ("report", memory, "--graph", done.graph, *edits, "--out", out),
    }[name]
    assert main([*map(str, words), "--quiet"]) == 0
    assert str(held.digest) in out.read_text()


def test_an_evaluation_says_what_it_leaves_out(
    done: Any, tmp_path: Path, run_json: Any, capsys: Any
) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text(f'{done.edits.read_text()}\n{{"prompt": "no target"}}')
    words = ["eval", done.graph, "--memory", done.memory, "--edits", edits]
    assert main([*map(str, words)]) == 2
    assert "apply and eval leave such out with --skip-bad" in capsys.readouterr().err
    code, document = run_json(*words, "--skip-bad")
    assert (code, document["edits"]) == (0, 3)
    assert [(one["line"], one["unit"]) for one in document["skipped_bad"]] == [(4, "line")]
    assert main([*map(str, words), "--skip-bad"]) == 0
    assert "skipped line 4: target is missing or empty" in capsys.readouterr().out


def test_what_cannot_be_reported_is_said(done: Any, tmp_path: Path, capsys: Any) -> None:
    assert main(["report", str(done.memory), "--out", str(tmp_path / "r.pdf")]) == 2
    assert "let the name end in .html or .md" in capsys.readouterr().err
    words = ["--edits", str(done.edits), "--out", str(tmp_path / "r.html")]
    assert main(["report", str(done.memory), *words]) == 2
    assert "give an export directory as --graph" in capsys.readouterr().err
    memory = memory_file.read(done.memory)
    bare = replace(memory, edits=tuple(entry._replace(record=None) for entry in memory.edits))
    memory_file.write(bare, tmp_path / "bare.safetensors")
    words = ["--graph", str(done.graph), "--out", str(tmp_path / "r.html")]
    assert main(["report", str(tmp_path / "bare.safetensors"), *words]) == 2
    assert "withholds its records" in capsys.readouterr().err
