"""What a command writes into the journal, step by step: a run, whole or cut anywhere, and after it.

Frames are read here by their specification alone (docs/journal.md).
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from memoir_edge import memory as memory_file
from memoir_edge.cli import main
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.edits import Edit

Apply = Callable[..., int]
MADE, AGAIN, AUDIT, WRITTEN = "made", "again", "audit", "written"
FIRST, SECOND, THIRD, FOURTH = sample(4)


def frames(out: Path) -> list[tuple[str, bytes]]:
    """The kind of each frame, and its bytes."""
    data, found = out.with_name(out.name + ".journal").read_bytes(), []
    while data:
        assert data[:4] == b"MEJ1"
        end = 44 + int.from_bytes(data[4:12], "little")
        header = 8 + int.from_bytes(data[44:52], "little")
        text = json.loads(data[52 : 44 + header])["__metadata__"]["memoir_edge.journal"]
        found.append((json.loads(text)["kind"], data[:end]))
        data = data[end:]
    return found


def kinds(out: Path) -> list[str]:
    return [kind for kind, _ in frames(out)]


@pytest.fixture
def random_model(tiny_dir: Path) -> Path:
    """In one step no edit of it takes, so every round of repairs is gone through."""
    return tiny_dir


@pytest.fixture
def apply(random_model: Path, tmp_path: Path) -> Apply:
    def run(
        out: Path, *edits: Edit, model: Path = random_model, steps: int = 1, bound: float = 0.01
    ) -> int:
        file = tmp_path / "edits.jsonl"
        file.write_text("\n".join(json.dumps(edit.full_record()) for edit in edits))
        return main(["apply", str(file), "--model", str(model), "--out", str(out), "--quiet",
                     "--steps", str(steps), "--thinned", "1", "--repairs", "2",
                     "--false-fires", str(bound)])  # fmt: skip

    return run


ROUND = [AGAIN, AGAIN, AUDIT]
REPAIRED = ["begin", MADE, MADE, *ROUND, *ROUND, *ROUND, WRITTEN]  # a second pass, two repairs


def test_a_run_with_repairs_whole_or_cut_after_any_frame(apply: Apply, tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    assert apply(whole, FIRST, SECOND) == 1
    assert kinds(whole) == REPAIRED
    assert memory_file.read(whole).parent is None  # what it began from was never a file
    parts = [data for _, data in frames(whole)]
    for count in range(1, len(parts)):
        out = tmp_path / f"{count}.safetensors"
        out.with_name(out.name + ".journal").write_bytes(b"".join(parts[:count]))
        assert apply(out, FIRST, SECOND) == 1
        assert kinds(out) == REPAIRED
        assert out.read_bytes() == whole.read_bytes()


def test_a_run_cut_within_a_group_of_edits(apply: Apply, tmp_path: Path) -> None:
    """More edits than had been asked for: the pass is over all that are fresh."""
    out = tmp_path / "m.safetensors"
    apply(out, FIRST, SECOND)
    parts = [data for _, data in frames(out)]
    out.unlink()
    out.with_name(out.name + ".journal").write_bytes(b"".join(parts[:5]))  # cut in its second pass
    apply(out, FIRST, SECOND, THIRD)
    ROUND = [*[AGAIN] * 3, AUDIT]
    assert kinds(out)[5:] == [MADE, *ROUND, *ROUND, *ROUND, WRITTEN]


def test_nothing_new_is_nothing_done(apply: Apply, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    apply(out, FIRST, SECOND)
    before = frames(out)
    assert apply(out, SECOND) == 1  # it did not hold
    assert frames(out) == before


def test_a_memory_gone_on_with(apply: Apply, tmp_path: Path) -> None:
    """Only what is new is passed over twice; what fails is repaired among all."""
    out = tmp_path / "m.safetensors"
    apply(out, FIRST)
    before = len(frames(out))
    apply(out, FIRST, SECOND)
    assert kinds(out)[before:] == [MADE, AGAIN, AUDIT, *ROUND, *ROUND, WRITTEN]


def test_a_memory_without_its_journal_gone_on_with(apply: Apply, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    apply(out, FIRST)
    out.with_name(out.name + ".journal").unlink()
    apply(out, FIRST, SECOND)
    assert kinds(out) == ["begin", MADE, AGAIN, AUDIT, *ROUND, *ROUND, WRITTEN]


def test_what_holds_is_neither_repaired_nor_asked_twice(apply: Apply, tmp_path: Path) -> None:
    """Two edits make too few near misses for thresholds of their own."""
    out = tmp_path / "m.safetensors"
    assert apply(out, FIRST, SECOND, model=model_dir(), steps=40) == 0
    assert kinds(out) == ["begin", MADE, MADE, AGAIN, AGAIN, AUDIT, WRITTEN]


def test_thresholds_come_before_what_is_checked_with_them(apply: Apply, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    whole = ["begin", *[MADE] * 4, "thresholds", *[*[AGAIN] * 4, AUDIT] * 3, WRITTEN]
    apply(out, *sample(4), bound=0.2)
    assert kinds(out) == whole
    data = [data for _, data in frames(out)]
    out.unlink()
    out.with_name(out.name + ".journal").write_bytes(b"".join(data[:6]))  # cut right behind them
    apply(out, *sample(4), bound=0.2)
    assert kinds(out) == whole


def test_a_deletion_and_what_follows(apply: Apply, random_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    apply(out, FIRST, SECOND, THIRD)
    before = len(frames(out))
    words = ["--quiet", "--repairs", "1"]
    assert main(["delete", str(out), SECOND.id, "--model", str(random_model), *words]) == 1
    assert kinds(out)[before:] == ["deleted", WRITTEN, AUDIT, AGAIN, AGAIN, AUDIT, WRITTEN]
    before = len(frames(out))
    main(["delete", str(out), THIRD.id, "--no-replay", "--quiet"])
    assert kinds(out)[before:] == ["deleted", WRITTEN]
    before = len(frames(out))
    apply(out, FIRST, FOURTH)
    assert kinds(out)[before:] == [MADE, AGAIN, AUDIT, *ROUND, *ROUND, WRITTEN]


def test_a_rollback_is_one_step(apply: Apply, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    apply(out, FIRST, SECOND)
    whole, before = out.read_bytes(), len(frames(out))
    assert main(["rollback", str(out), "--to", "1", "--quiet"]) == 0
    assert kinds(out)[before:] == ["rollback", WRITTEN]
    assert main(["rollback", str(out), "--to", str(before - 1), "--quiet"]) == 0
    assert kinds(out)[before:] == ["rollback", WRITTEN, "rollback", WRITTEN]
    assert out.read_bytes() == whole
