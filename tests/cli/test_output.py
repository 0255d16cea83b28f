"""Progress for people who read a log, and output that nobody reads to its end."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress, TaskID

from memoir_edge import memory as memories
from memoir_edge import tophash
from memoir_edge.cli import main
from memoir_edge.cli.output import Drawn, Lines, Output, Printer, complain
from memoir_edge_runtime import Result, Routing, Session, Token


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


@pytest.mark.parametrize(
    "words",
    [["inspect", "facts"], ["inspect", "facts", "--json"], ["diff", "facts", "facts"]],
    ids=" ".join,
)
def test_output_that_is_cut_short_ends_quietly(tmp_path: Path, words: list[str]) -> None:
    memories.write(_memory(), tmp_path / "facts")
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does once it has its lines
    ended = subprocess.run(
        [sys.executable, "-c", "from memoir_edge.cli import run; run()", *words],
        cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


PRINTING = """
import os, sys
from pathlib import Path
from memoir_edge import cli

def main():
    print(sys.stdin.read(), flush=True)
    print(end="", file=sys.stderr)
    with Path("kept").open("w") as file:
        for number in (0, 1, 2):
            assert file.fileno() != number and os.fstat(number)
    return 0

cli.main = main
cli.run()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error_and_no_file_takes_its_place(
    tmp_path: Path, closed: str
) -> None:
    memories.write(_memory(), tmp_path / "facts")
    scripts = ("from memoir_edge.cli import run; run()' inspect facts --json", f"{PRINTING}'")
    for script in scripts:
        ended = subprocess.run(
            ["sh", "-c", f"'{sys.executable}' -c '{script} {closed}"],
            cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("words", [["inspect", "facts"], ["inspect", "facts", "--json"]])
def test_a_stream_of_another_encoding_takes_any_name(tmp_path: Path, words: list[str]) -> None:
    memory = replace(_memory(), edits=(memories.Entry("東京", 0),))
    memories.write(memory, tmp_path / "facts")
    ended = subprocess.run(
        [sys.executable, "-c", "from memoir_edge.cli import run; run()", *words],
        cwd=tmp_path, capture_output=True, check=False,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert rb"\u6771\u4eac" in ended.stdout


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


@pytest.mark.parametrize(("rows", "more"), [(0, None), (30, None), (31, 1), (1000, 970)])
def test_a_long_listing_says_how_many_it_leaves_out(
    rows: int, more: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    Output().listing("found", ["edit"], [[f"edit-{i}"] for i in range(rows)])
    out = capsys.readouterr().out
    assert out.count("edit-") == min(rows, 30)
    said = [f"... and {more} more; --json lists all"] if more else []
    assert re.findall(r"\.{3} .*", out) == said


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


# --- Data as it stands ---------------------------------------------------------------------------

WILD = ":key: [b]\\[/b] \x1b]0;owned\x07\x00\x9b2J\r\x7f"
TAME = r":key: [b]\[/b] \x1b]0;owned\x07\x00\x9b2J\r\x7f"


def _noted() -> None:
    with Output().progress("trying", 1) as bar:
        assert isinstance(bar, Lines)
        bar.told -= 60
        bar.note(WILD)


@pytest.mark.parametrize(
    "show",
    [
        lambda: Output().say(WILD),
        lambda: Output().table("edits", ["text"], [[WILD]]),
        lambda: Output().table(WILD, ["text"], [["x" * 80]]),
        lambda: complain(WILD),
        lambda: complain("wrong", WILD),
        _noted,
    ],
    ids=["say", "cell", "title", "error", "hint", "progress"],
)
def test_data_is_shown_as_it_stands_and_commands_nothing(
    show: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show()
    said = "".join(capsys.readouterr())
    assert TAME in said
    assert not _commands(said)


def test_a_bar_shows_data_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Drawn(Progress(console=Printer()), TaskID(0))
    bar.progress.add_task("trying", note="")
    bar.note(WILD)
    assert bar.progress.tasks[0].fields["note"] == TAME


@pytest.mark.parametrize("words", [["inspect", "after"], ["diff", "before", "after"]])
def test_a_memory_commands_no_terminal(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    wild = replace(
        _memory(), created=WILD, tool=WILD, base=memories.Base(WILD),
        edits=(memories.Entry("a", 0, {"prompt": WILD, "target": WILD}),),
    )  # fmt: skip
    memories.write(_memory(), "before")
    memories.write(wild, "after")
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count(TAME) >= 2
    assert not _commands(said)


@pytest.mark.parametrize("asked", [[WILD], [WILD, WILD]], ids=["as it comes", "several"])
def test_an_answer_commands_no_terminal(
    done: Any,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = [Token(row, 1, WILD) for row in range(len(asked))]
    told += [Result(row, WILD, WILD, (1,), "stop", 1, Routing()) for row in range(len(asked))]
    monkeypatch.setattr(Session, "stream", lambda *given: iter(told))
    words = [word for text in asked for word in ("--prompt", text)]
    assert main(["generate", str(done.graph), *words]) == 0
    said = capsys.readouterr().out
    assert said.count(TAME) == (1 if len(asked) == 1 else 4)
    assert not _commands(said)


def test_an_error_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "\x1b[2J", "b"]) == 2
    said = capsys.readouterr().err
    assert r"\x1b[2J" in said
    assert not _commands(said)


def _commands(said: str) -> list[str]:
    return re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", said)
