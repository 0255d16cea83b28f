"""Experiments of tools/experiments on a few edits of the demo model."""

import json
import subprocess
import sys
from pathlib import Path

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
