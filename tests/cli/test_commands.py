"""The commands from end to end on the demo model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import memory as memory_file
from memoir_edge.cli import COMMANDS, main
from memoir_edge.demo.facts import model_dir

PROMPT = "The capital of France is"


def test_apply_says_what_became_of_each_edit(done: Any) -> None:
    assert done.applied["failed"] == []
    assert [edit["before"] for edit in done.applied["edits"]] == ["Paris", "yen", "Portuguese"]
    assert [edit["after"] for edit in done.applied["edits"]] == ["Rome", "peso", "Swedish"]
    assert done.applied["digest"] == memory_file.read(done.memory).digest


def test_applying_again_changes_nothing(done: Any, run_json: Any) -> None:
    before = done.memory.read_bytes()
    words = ("apply", done.edits, "--model", model_dir(), "--out", done.memory)
    code, document = run_json(*words)
    assert (code, document["skipped"]) == (0, 3)
    assert done.memory.read_bytes() == before


def test_generate_with_and_without_the_memory(done: Any, run_json: Any) -> None:
    words = ("generate", done.graph, "--prompt", PROMPT)
    _, base = run_json(*words)
    _, edited = run_json(*words, "--memory", done.memory)
    assert (base["text"].strip(), base["edit"], base["digest"]) == ("Paris", None, None)
    assert edited["text"].strip() == "Rome"
    assert edited["edit"] == done.applied["edits"][0]["id"]
    assert edited["overlap"] == pytest.approx(1.0)
    assert edited["digest"] == done.applied["digest"]


def test_generate_talks_to_people(done: Any, capsys: Any) -> None:
    assert main(["generate", str(done.graph), "--memory", str(done.memory), "--chat",
                 "--prompt", "What is the capital of France?"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "Rome" in out
    assert f"[edit {done.applied['edits'][0]['id']}; overlap 0." in out


def test_verify_replays_every_edit(done: Any, run_json: Any) -> None:
    code, document = run_json("verify", done.graph, "--memory", done.memory)
    assert (code, document["checked"], document["failed"]) == (0, 3, [])


def test_verify_fails_when_an_edit_does_not_hold(done: Any, tmp_path: Path, run_json: Any) -> None:
    memory = memory_file.read(done.memory)
    weak = tmp_path / "weak.safetensors"
    memory_file.write(replace(memory, values=memory.values * 0), weak)
    code, document = run_json("verify", done.graph, "--memory", weak)
    assert code == 1
    assert len(document["failed"]) == 3


def test_eval_in_onnx_and_in_torch_agree(done: Any, run_json: Any) -> None:
    rest = ("--memory", done.memory, "--edits", done.edits)
    code, onnx = run_json("eval", done.graph, *rest)
    _, torch = run_json("eval", "--model", model_dir(), *rest)
    assert code == 0
    assert onnx == torch
    assert onnx["free"]["reliability"] == 1.0
    assert set(onnx["teacher_forced"]) == {"reliability", "generalization", "locality"}
    assert set(onnx["free"]) == {*onnx["teacher_forced"], "hard_negatives_changed"}
    assert set(onnx["routing"]) == {"recall", "false_fires", "unrelated_fires"}


def test_inspect(done: Any, run_json: Any, capsys: Any) -> None:
    code, document = run_json("inspect", done.memory)
    assert code == 0
    assert (document["D"], document["d"], document["k"]) == (768, 192, 219)
    assert document["edits"][0]["prompt"] == PROMPT
    assert 0 <= document["edits"][0]["nearest"]["overlap"] < 1
    assert main(["inspect", str(done.memory)]) == 0
    assert "model.layers.6.mlp.down_proj" in capsys.readouterr().out


def test_quiet_says_nothing(done: Any, capsys: Any) -> None:
    assert main(["inspect", str(done.memory), "--quiet"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_every_command_has_help(capsys: Any) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert name in listed
        assert main([name, "--help"]) == 0
        assert "--json" in capsys.readouterr().out


def test_light_commands_load_nothing_heavy() -> None:
    code = (
        "import sys; from memoir_edge.cli import main; main(['--help']); main(['inspect', '-h']);"
        "print([n for n in ('torch', 'transformers', 'onnx', 'onnxruntime') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_an_edit_that_does_not_take_is_named(tmp_path: Path, run_json: Any) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text(json.dumps({"id": "stubborn", "prompt": PROMPT, "target": "Rome"}))
    code, document = run_json("apply", edits, "--model", model_dir(), "--steps", 1,
                              "--repairs", 0, "--out", tmp_path / "m.safetensors")  # fmt: skip
    assert (code, document["failed"]) == (1, ["stubborn"])
    assert (tmp_path / "m.safetensors").exists()  # kept, and said


def test_all_keys_of_a_record_are_trained_and_give_the_target(
    tmp_path: Path, run_json: Any
) -> None:
    """However unlike the prompt they are."""
    keys = ["The city where the emperor lives is", "Japan is ruled from",
            "Tell me Japan's seat of government:"]  # fmt: skip
    record = {"id": "a", "prompt": "The capital of Japan is", "target": "Lima", "keys": keys}
    edits, out = tmp_path / "edits.jsonl", tmp_path / "m.safetensors"
    edits.write_text(json.dumps(record))
    code, document = run_json("apply", edits, "--model", model_dir(), "--out", out)
    [edit] = document["edits"]
    assert (code, edit["asked"]["key"]) == (0, [5, 5])


def test_what_the_model_says_already_is_reported_and_kept(tmp_path: Path, run_json: Any) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text(json.dumps({"id": "known", "prompt": PROMPT, "target": "Paris"}))
    code, document = run_json("apply", edits, "--model", model_dir(),
                              "--out", tmp_path / "m.safetensors")  # fmt: skip
    assert code == 0
    assert document["edits"][0]["known"]
    assert memory_file.read(tmp_path / "m.safetensors").edits[0].id == "known"


def test_a_later_edit_of_the_same_prompt_takes_over(tmp_path: Path, run_json: Any) -> None:
    out = tmp_path / "m.safetensors"
    for number, target in enumerate(("Rome", "Bern")):
        edits = tmp_path / f"{number}.jsonl"
        edits.write_text(json.dumps({"id": target, "prompt": PROMPT, "target": target}))
        code, _ = run_json("apply", edits, "--model", model_dir(), "--out", out)
        assert code == 0
    memory = memory_file.read(out)
    assert [edit.id for edit in memory.edits] == ["Bern"]
    assert [probe.edit for probe in memory.probes] == ["Bern"]
    [entry] = memory.edits
    assert len(memory.bank) == 1 + len(entry.record["keys"])  # each of its keys once


def test_demo(capsys: Any, tmp_path: Path) -> None:
    """The demo in a process of its own, because this one has torch in it."""
    kept = str(tmp_path / "kept")
    command = [sys.executable, "-m", "memoir_edge", "demo", "--embedded", "--keep", kept, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert document["heavy"] == []
    assert document["base_back"] == len(document["edits"]) == 10
    assert all(row["held"] for row in document["edits"])
    assert main(["demo", "--keep", kept]) == 2
    assert "is no empty folder" in capsys.readouterr().err
