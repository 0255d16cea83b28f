"""Progress for people who read a log, and output that nobody reads to its end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memoir_edge import memory as memories
from memoir_edge import tophash
from memoir_edge.cli.output import Lines, Output


def test_a_line_is_written_every_few_seconds_and_says_how_long_it_takes() -> None:
    time, lines = [0.0], list[str]()
    bar = Lines("editing", 10, lines.append, clock=lambda: time[0])
    for time[0], what in ((1.0, "a"), (4.9, "b"), (5.0, "c"), (6.0, "d")):
        bar.note(what)
    assert lines == ["editing: 0 of 10, 5 s  c"]
    time[0] = 20.0
    bar.advance(4)
    assert lines[1:] == ["editing: 4 of 10, 20 s, about 30 s left"]
    time[0] = 30.0
    bar.advance(9)
    assert lines[2:] == ["editing: 10 of 10, 30 s"]


def test_output_that_is_cut_short_ends_quietly(tmp_path: Path) -> None:
    path = tmp_path / "facts.safetensors"
    memories.write(_memory(), path)
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does once it has its lines
    ended = subprocess.run(
        [sys.executable, "-c", "from memoir_edge.cli import run; run()", "inspect", path, "--json"],
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


MAKING = """
import time
from pathlib import Path
from memoir_edge import cli
from memoir_edge_exporter._write import directory

def main():
    with directory(Path("out")) as folder:
        (folder / "half").touch()
        print("made", flush=True)
        time.sleep(60)

cli.main = main
cli.run()
"""


def test_a_program_that_is_told_to_end_leaves_nothing_half_made(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKING], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        assert running.stdout.readline() == "made\n"
        assert list(tmp_path.iterdir())
        running.send_signal(signal.SIGTERM)
    assert running.returncode == 143
    assert not list(tmp_path.iterdir())


def _memory() -> memories.Memory:
    return memories.from_dense(
        np.zeros((3, 8), np.float32),
        bank=tophash.pack(np.arange(8)[None] < 2),
        site="layer",
        feature="mean",
        k=2,
        base=memories.Base("tiny"),
        owner=np.zeros(1, np.int32),
        thresholds=np.full(1, 0.5, np.float32),
        center=np.zeros(8, np.float32),
        scale=np.ones(8, np.float32),
        permutation=np.arange(8, dtype=np.int32),
        edits=(memories.Entry("a", 0),),
    )


ID, ASKED = "f24616a4847fee9b", "Who has been working for Acme since the spring?"


def printed(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    Output().table("edits", ["id", "text", "loss"], [[ID, ASKED, 0.05]], spare=["loss"])
    return capsys.readouterr().out


@pytest.mark.parametrize(("columns", "loss"), [(120, True), (50, True), (40, False)])
def test_short_cells_are_not_broken_and_spare_columns_make_room(
    columns: int, loss: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(columns, monkeypatch, capsys)
    assert ID in said
    assert ("loss" in said) == loss
    assert max(map(len, said.splitlines())) <= columns


def test_nothing_is_lost_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(24, monkeypatch, capsys)
    assert all(part in said for part in (ID[:8], ID[8:], "working", "spring?"))


def test_a_log_has_long_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS")
    Output().table("edits", ["text"], [[ASKED + ASKED]])
    assert ASKED + ASKED in capsys.readouterr().out
