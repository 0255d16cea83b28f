"""Experiments of tools/experiments on a few edits of the demo model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.mark.slow
def test_by_the_number_of_columns(tmp_path: Path) -> None:
    command = [
        sys.executable, str(TOOLS / "experiments/k.py"), "--keep", str(tmp_path / "kept"),
        "--facts", "demo", "--edits", "4", "--shares", "0.25", "--plot", str(tmp_path / "k.png"),
    ]  # fmt: skip
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(said.splitlines()[-1])
    assert [row["k / D"] for row in found["rows"]] == [0.25, found["default"] / found["D"]]
    assert all(row["reliability"] == 1 for row in found["rows"])
    assert (tmp_path / "k.png").stat().st_size > 1000


@pytest.mark.slow
def test_by_one_threshold(tmp_path: Path, real_model: Callable[[str], Path]) -> None:
    real_model("minilm")
    command = [
        sys.executable, str(TOOLS / "experiments/tau.py"), "--facts", "demo", "--edits", "4",
        "--plot", str(tmp_path / "tau.png"),
    ]  # fmt: skip
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = json.loads(said.splitlines()[-1])["rows"]
    assert len(rows) == 3 * 8
    for routing in {row["routing"] for row in rows}:
        for share in ("reach", "fires: near"):
            found = [row[share] for row in rows if row["routing"] == routing]
            assert found == sorted(found, reverse=True)
            assert all(0 <= value <= 1 for value in found)
    assert (tmp_path / "tau.png").stat().st_size > 1000


@pytest.mark.slow
def test_by_the_papers_settings_and_the_defaults(
    tmp_path: Path, real_model: Callable[[str], Path]
) -> None:
    real_model("minilm")
    command = [
        sys.executable, str(TOOLS / "experiments/sanity.py"), "--keep", str(tmp_path),
        "--facts", "demo", "--edits", "2", "--steps", "5",
    ]  # fmt: skip
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = {row["settings"]: row for row in json.loads(said.splitlines()[-1])["rows"]}
    assert list(rows) == ["paper, 5 steps", "default, activations", "default, encoder"]
    paper, plain, routed = rows.values()
    assert paper["k"] == 219
    assert paper["threshold"] == 0.4  # as in the paper, where k / D is
    assert plain["free: reliability"] == routed["free: reliability"] == 1
    assert all(row["forced: locality"] == 1 for row in rows.values())


def test_arrangements_crowd_as_they_say(tool: Callable[[str], ModuleType]) -> None:
    density = tool("experiments/density")
    edits = {label: arranged(100, 0) for label, arranged in density.ARRANGEMENTS.items()}
    assert {
        label: tuple(len({getattr(e, name) for e in some}) for name in ("id", "prompt", "subject"))
        for label, some in edits.items()
    } == {
        "spread": (100, 100, 100),
        "few subjects": (100, 100, 10),
        "one relation": (100, 100, 100),
        "contradicting": (100, 10, 10),
    }
    spread, *_, told_again = map(density.predicted, edits.values())
    assert told_again == pytest.approx(spread / 10)


@pytest.mark.slow
def test_an_encoder_decoder_by_its_activations(t5_dir: Path) -> None:
    command = [
        sys.executable, str(TOOLS / "experiments/t5.py"), "--model", str(t5_dir), "--edits", "2",
        "--keys", "1", "--ways", "activations",
    ]  # fmt: skip
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    torch, onnx = json.loads(said.splitlines()[-1])["rows"]
    shares = ("reliability", "generalization", "locality", "reach", "near", "unrelated")
    assert [torch[name] for name in shares] == [onnx[name] for name in shares]
    assert onnx["same"] == 1
