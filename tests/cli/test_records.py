"""Of several records of one prompt the last counts, whatever is done with the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from memoir_edge.cli.output import Output
from memoir_edge.cli.records import counting
from memoir_edge.edits import from_record


def test_the_last_record_of_a_prompt_counts_in_its_place(capsys: Any) -> None:
    said = (("A", "x"), ("B", "x"), ("A", "y"), ("C", "x"), ("A", "z"))
    edits = [
        from_record({"id": f"{prompt}{target}", "prompt": prompt, "target": target})
        for prompt, target in said
    ]
    counts = counting(edits, Path("edits.jsonl"), Output())
    assert [(p, edit.id) for p, edit in counts.items()] == [("B", "Bx"), ("C", "Cx"), ("A", "Az")]
    assert capsys.readouterr().out.splitlines() == [
        f"left out {id}: Az has its prompt too, later in edits.jsonl" for id in ("Ax", "Ay")
    ]


@pytest.mark.parametrize("name", ["eval", "report"])
def test_what_apply_leaves_out_of_a_file_is_not_measured(
    done: Any, tmp_path: Path, run_json: Any, name: str
) -> None:
    records = [json.loads(line) for line in done.edits.read_text().splitlines()]
    twins = [record | {"id": f"twin {i}", "target": "Oslo"} for i, record in enumerate(records)]
    edits = tmp_path / "edits.jsonl"
    edits.write_text("\n".join(map(json.dumps, [*twins, *records])))
    words = {
        "eval": (done.graph, "--memory", done.memory),
        "report": (done.memory, "--graph", done.graph, "--out", tmp_path / "r.md"),
    }[name]
    code, document = run_json(name, *words, "--edits", edits)
    assert (code, document["failed"]) == (0, [])
