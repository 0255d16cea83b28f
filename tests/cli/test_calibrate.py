"""`memoir-edge calibrate`: a choice measured on the model, and thresholds for a memory."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memoir_edge import memory as memory_file
from memoir_edge.cli import main
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.history import path_of


@pytest.fixture
def kept(done: Any, tmp_path: Path) -> Path:
    copy = tmp_path / "m.safetensors"
    shutil.copy(done.memory, copy)
    shutil.copy(path_of(done.memory), path_of(copy))
    return copy


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


def test_the_best_routing_is_chosen_and_kept(tmp_path: Path, run_json: Any, capsys: Any) -> None:
    edits = written(tmp_path / "e.jsonl", [edit.full_record() for edit in sample(40)])
    out = tmp_path / "start.safetensors"
    words = ("calibrate", edits, "--model", model_dir(), "--layers", "5,6", "--out", out)
    code, found = run_json(*words)
    assert code == 0
    best = found["best"]
    assert best["recall"] == max(trial["recall"] for trial in found["trials"])
    assert {trial["site"] for trial in found["trials"]} == {
        f"model.layers.{layer}.mlp.down_proj" for layer in (5, 6)
    }
    # The paper's feature is measured beside the others, and the last token wins on this model.
    by_feature = {
        name: max(t["recall"] for t in found["trials"] if t["feature"] == name)
        for name in ("mean", "last")
    }
    assert by_feature["last"] > by_feature["mean"] + 0.3
    empty = memory_file.read(out)
    assert (empty.site, empty.feature, empty.k) == (best["site"], best["feature"], best["k"])
    assert empty.edits == ()
    assert main([*map(str, words)]) == 2
    assert "exists" in capsys.readouterr().err


def test_a_memory_gets_new_thresholds_and_can_have_the_old_ones_back(
    kept: Path, run_json: Any
) -> None:
    before = memory_file.read(kept)
    code, found = run_json("calibrate", "--memory", kept, "--model", model_dir(),
                           "--false-fires", "0.3")  # fmt: skip
    after = memory_file.read(kept)
    assert code == 0
    assert found["digest"] == after.digest != before.digest
    assert (after.bank == before.bank).all()
    assert (after.values == before.values).all()
    low, high = found["thresholds"]["lowest"], found["thresholds"]["highest"]
    assert 0 < low <= high <= 0.95
    _, steps = run_json("rollback", kept)
    assert steps["steps"][-2]["what"] == "gave each key its threshold"
    run_json("rollback", kept, "--to", 8)
    assert memory_file.read(kept).digest == before.digest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "what to calibrate?"),
        (("--memory", "KEPT"), "too few near misses"),
        (("--memory", "KEPT", "--false-fires", "1"), "expected above 0 and below 1"),
        (("EDITS",), "too few to measure"),
        (("EDITS", "--layers", "five"), "expected numbers such as"),
        (("EDITS", "--layers", "77"), "names nothing"),
        (("EDITS", "--unrelated", "missing.txt"), "cannot read missing.txt: No such file"),
        (("EDITS", "--unrelated", "KEPT"), "is not UTF-8: byte "),
    ],
)
def test_bad_input(
    kept: Path, tmp_path: Path, words: tuple[str, ...], said: str, capsys: Any
) -> None:
    edits = written(
        tmp_path / "e.jsonl", [{"prompt": "The capital of France is", "target": "Rome"}]
    )
    before = kept.read_bytes()
    place = {"KEPT": str(kept), "EDITS": str(edits)}
    asked = [place.get(word, word) for word in words]
    assert main(["calibrate", *asked, "--model", str(model_dir())]) == 2
    assert said in capsys.readouterr().err
    assert kept.read_bytes() == before


def test_a_memory_gets_the_keys_of_the_graph_that_is_deployed(
    done: Any, tmp_path: Path, run_json: Any, capsys: Any
) -> None:
    graph, out = tmp_path / "int4", tmp_path / "int4.safetensors"
    words = ("--model", model_dir(), "--dtype", "int4", "--quiet")
    assert main(["export", *map(str, words), "--out", str(graph)]) == 0
    capsys.readouterr()
    code, found = run_json("calibrate", graph, "--memory", done.memory, "--out", out)
    assert code == 0
    assert not found["calibrated"]  # three edits are too few
    assert all(each["overlap"] < 1 for each in found["moved"])
    assert all(each["overlap_now"] == 1 and each["fires"] for each in found["moved"])
    before, after = memory_file.read(done.memory), memory_file.read(out)
    assert (after.digest, after.parent) == (found["digest"], before.digest)
    assert not path_of(out).exists()
    code, asked = run_json("verify", graph, "--memory", out)
    assert (code, asked["checked"], asked["failed"]) == (0, 3, [])


def test_a_graph_is_calibrated_for_a_memory_of_activations(
    done: Any, tmp_path: Path, capsys: Any
) -> None:
    out, memory = tmp_path / "new.safetensors", tmp_path / "coded.safetensors"
    router = memory_file.Router("encoder", "0" * 64, 64, 32)
    empty = replace(
        memory_file.read(done.memory), edits=(), codes=memory_file.no_codes(router),
        bank=np.zeros((0, 96), np.uint8), owner=np.zeros(0, np.int32),
        thresholds=np.zeros(0, np.float32), probes=(),
    )  # fmt: skip
    memory_file.write(empty, memory)
    asked = ["calibrate", str(done.graph), "--memory"]
    for words, said in (
        (asked[:2], "give --memory FILE --out NEW"),
        ([*asked, str(done.memory)], "give --memory FILE --out NEW"),
        ([*asked, str(memory), "--out", str(out)], "whose codes are those of any graph"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert not out.exists()
