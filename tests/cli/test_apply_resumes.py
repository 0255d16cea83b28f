"""An interrupted `apply` goes on where it was and ends with the same memory, byte for byte."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import history as journal_file
from memoir_edge import memory as memory_file
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.history import load, path_of

# A few steps only: some edits do not take at first, so that there is something to train again.
OPTIONS = ("--model", str(model_dir()), "--steps", "6", "--thinned", "1", "--repairs", "2")
EDITS = 12


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edits") / "edits.jsonl"
    path.write_text("\n".join(json.dumps(edit.full_record()) for edit in sample(EDITS)))
    return path


def command(edits: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "memoir_edge", "apply", str(edits), "--out", str(out), *OPTIONS]


@pytest.fixture(scope="module")
def whole(edits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The memory of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "m.safetensors"
    subprocess.run(command(edits, out), check=False, capture_output=True)
    kinds = [frame.kind for frame in frames(out)]
    print(kinds)
    assert kinds[:1] == ["begin"]
    assert kinds.count("made") == EDITS
    assert kinds.count("again") > 1
    return out


def frames(out: Path) -> list[Any]:
    journal = load(path_of(out), write=False)
    assert journal
    with journal:
        return journal.frames


def _heed_interrupts() -> None:
    """Whoever runs these tests in the background may have told its children to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def begun(edits: Path, out: Path, size: int) -> "subprocess.Popen[str]":
    """A run whose journal has grown to so many bytes."""
    running = subprocess.Popen(
        command(edits, out), stdout=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    )
    path = path_of(out)
    while not path.exists() or path.stat().st_size < size:
        assert running.poll() is None
        time.sleep(0.01)
    return running


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(edits: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    with begun(edits, out, path_of(whole).stat().st_size // 6) as running:
        running.send_signal(signal.SIGINT)
        rest = running.communicate()[0]
    assert running.returncode == 130
    assert "repeat the command to go on" in rest
    assert 0 < len(memory_file.read(out).edits) < EDITS
    subprocess.run(command(edits, out), check=False, capture_output=True)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.4, 0.7, 0.95])
def test_kill_at_an_instant(edits: Path, whole: Path, tmp_path: Path, share: float) -> None:
    out = tmp_path / "m.safetensors"
    with begun(edits, out, int(path_of(whole).stat().st_size * share)) as running:
        running.kill()
    assert not out.exists()  # written once, whole, at the end
    subprocess.run(command(edits, out), check=False, capture_output=True)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_from_any_step_on(edits: Path, whole: Path, tmp_path: Path) -> None:
    """Cut within frames of every kind; a cut loses that frame alone, and the end is the same."""
    data, cut = path_of(whole).read_bytes(), []
    for kind in ("begin", "made", "again", "audit", "written"):
        frame = [f for f in frames(whole) if f.kind == kind][-1]
        cut.append(frame.offset + frame.length // 2)
    for i, end in enumerate(cut):
        out = tmp_path / f"{i}.safetensors"
        path_of(out).write_bytes(data[:end])
        # A process of its own, like the whole run's: torch rounds otherwise with other threads.
        done = subprocess.run([*command(edits, out), "--json"], check=False, capture_output=True)
        assert out.read_bytes() == whole.read_bytes()
        assert json.loads(done.stdout)["checked"] == EDITS


def test_another_writer_is_refused(
    edits: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from memoir_edge.cli import main

    journal = load(path_of(whole), write=True)
    assert journal
    with journal:
        assert main(["apply", str(edits), "--out", str(whole), *OPTIONS]) == 2
    assert "another process is writing" in capsys.readouterr().err


def test_the_journal_of_another_memory_is_refused(
    edits: Path, whole: Path, done: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from memoir_edge.cli import main

    out = tmp_path / "m.safetensors"
    out.write_bytes(done.memory.read_bytes())
    path_of(out).write_bytes(path_of(whole).read_bytes())
    assert main(["apply", str(edits), "--out", str(out), *OPTIONS]) == 3
    assert "is not the journal of" in capsys.readouterr().err
    assert out.read_bytes() == done.memory.read_bytes()


def test_the_memory_is_what_the_journal_compiles_to(whole: Path) -> None:
    journal = load(path_of(whole), write=False)
    assert journal
    with journal:
        assert memory_file.to_bytes(journal.compile()) == whole.read_bytes()
        assert journal_file.path_of(whole) == journal.path
