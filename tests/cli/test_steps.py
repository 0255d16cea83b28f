"""What a command writes into the journal, step by step: a run, whole or cut anywhere, and after it.

Frames are read here by their specification alone (docs/journal.md).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import memory as memory_file
from memoir_edge.cli import main
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.edits import Edit, from_record, from_stored
from memoir_edge.history import load

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
        out: Path, *edits: Edit, model: Path = random_model, steps: int = 1, bound: float = 0.01,
        quiet: bool = True, words: Sequence[str] = (),
    ) -> int:  # fmt: skip
        file = tmp_path / "edits.jsonl"
        file.write_text("\n".join(json.dumps(edit.full_record()) for edit in edits))
        return main(["apply", str(file), "--model", str(model), "--out", str(out),
                     "--steps", str(steps), "--thinned", "1", "--repairs", "2",
                     "--false-fires", str(bound), *["--quiet"] * quiet, *words])  # fmt: skip

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


def test_nothing_new_for_another_model_is_refused(
    apply: Apply, demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    apply(out, FIRST)
    before = frames(out), out.read_bytes()
    assert apply(out, FIRST, model=demo_dir) == 3
    assert "the memory's base model is" in capsys.readouterr().err
    assert apply(out, FIRST, model=tmp_path / "absent") == 2
    assert (frames(out), out.read_bytes()) == before


def test_of_several_records_of_a_prompt_the_last_counts(
    apply: Apply, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So repeating the command finds nothing to do, in whatever order they were made before."""
    out = tmp_path / "m.safetensors"
    twin, other = replace(FIRST, id="twin"), replace(FIRST, id="other", target="Bern")
    apply(out, FIRST, twin, SECOND, other, quiet=False)
    said = capsys.readouterr().out
    assert "left out twin: other has its prompt too" in said
    assert [entry.id for entry in memory_file.read(out).edits] == [SECOND.id, "other"]
    before = frames(out)
    apply(out, FIRST, twin, SECOND, other, quiet=False)
    assert frames(out) == before
    assert "holds all 2 edits already" in capsys.readouterr().out
    apply(out, other, FIRST)  # now another is the last
    assert {entry.id for entry in memory_file.read(out).edits} == {SECOND.id, FIRST.id}


def test_an_edit_whose_record_has_changed_is_made_anew_whole_or_cut(
    apply: Apply, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was done for it before is gone, and a run that is cut ends with the same memory."""
    out = tmp_path / "m.safetensors"
    apply(out, FIRST, SECOND)
    begun = len(frames(out))  # whatever comes behind the edits is the same as in any run
    other = replace(FIRST, target="Bern")
    apply(out, other, SECOND, THIRD, quiet=False)
    assert f"records have changed: {FIRST.id}" in capsys.readouterr().out
    ends = kinds(out)
    assert ends[begun : begun + 3] == ["deleted", MADE, MADE]
    whole, parts = out.read_bytes(), [data for _, data in frames(out)]
    for count in range(begun, begun + 4):
        out.unlink()
        out.with_name(out.name + ".journal").write_bytes(b"".join(parts[:count]))
        apply(out, other, SECOND, THIRD)
        assert kinds(out) == ends
        assert out.read_bytes() == whole
    apply(out, other, SECOND, THIRD)
    assert kinds(out) == ends
    main(["delete", str(out), FIRST.id, SECOND.id, THIRD.id, "--no-replay", "--quiet"])
    assert not len(memory_file.read(out).columns)


def test_keys_and_guards_of_a_record_that_has_changed_go_with_it(
    apply: Apply, tmp_path: Path
) -> None:
    """The memory is the one that its new record makes."""
    out, other = tmp_path / "m.safetensors", tmp_path / "other.safetensors"
    edit = replace(FIRST, keys=("one", "two"), guards=("stop",))
    apply(out, edit)
    before = kinds(out)
    apply(out, edit)
    assert kinds(out) == before
    fewer = replace(edit, keys=("two",), guards=())
    apply(out, fewer)
    after = kinds(out)
    assert after[len(before) : len(before) + 2] == ["deleted", MADE]
    apply(out, fewer)
    assert kinds(out) == after
    apply(other, fewer)
    assert memory_file.read(out).bank.tobytes() == memory_file.read(other).bank.tobytes()
    assert memory_file.read(out).values.tobytes() == memory_file.read(other).values.tobytes()


@pytest.mark.parametrize(
    ("held", "new"),
    [
        ({"ground_truth": "Linz"}, {"ground_truth": "Vienna"}),
        ({"source": "a book", "valid_to": "2026"}, {"source": "a book", "valid_to": "2027"}),
        ({"tags": {"by": "me"}}, {}),
        ({"keys": (f"{FIRST.prompt} not", f"{FIRST.prompt} called")}, {}),
    ],
)
def test_whatever_a_record_says_is_held_as_it_was_corrected(
    apply: Apply, tmp_path: Path, held: dict[str, Any], new: dict[str, Any]
) -> None:
    out = tmp_path / "m.safetensors"
    apply(out, replace(FIRST, **held))
    apply(out, replace(FIRST, **new))
    [entry] = memory_file.read(out).edits
    record = from_stored(entry.record)
    assert replace(record, keys=record.own_keys, made=None) == from_record(
        replace(FIRST, **new).record()
    )
    before = kinds(out)
    apply(out, replace(FIRST, **new))
    assert kinds(out) == before


def test_a_changed_record_of_what_cannot_be_taken_back_is_refused(
    apply: Apply, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that is withheld cannot be compared."""
    out = tmp_path / "m.safetensors"
    apply(out, FIRST)
    path = out.with_name(out.name + ".journal")
    path.unlink()
    whole = out.read_bytes()
    assert apply(out, replace(FIRST, target="Bern")) == 2
    assert f"holds edit {FIRST.id!r} by another record" in capsys.readouterr().err
    assert (out.read_bytes(), path.exists()) == (whole, False)
    held = memory_file.read(out)
    memory_file.write(replace(held, edits=(held.edits[0]._replace(record=None),)), out)
    apply(out, replace(FIRST, target="Bern"))
    assert not path.exists()


@pytest.mark.parametrize("state", ["whole", "no file", "earlier", "from another", "changed"])
def test_a_plan_writes_nothing(apply: Apply, tmp_path: Path, state: str) -> None:
    """Whatever a run would do to the files."""
    out, edit = tmp_path / "m.safetensors", FIRST
    apply(out, FIRST)
    if state == "no file":
        out.unlink()
    elif state == "earlier":
        early = out.read_bytes()
        apply(out, FIRST, SECOND)
        out.write_bytes(early)
    elif state == "changed":
        edit = replace(FIRST, target="Bern")
    target = tmp_path / "new.safetensors" if state == "from another" else out
    more = ["--memory", str(out)] if state == "from another" else []
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert apply(target, edit, words=["--plan", *more]) < 2
    after = {path: path.read_bytes() for path in tmp_path.iterdir()}
    edits = tmp_path / "edits.jsonl"  # what the command was given
    assert {**after, edits: b""} == {**before, edits: b""}


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


@pytest.mark.parametrize("interrupted", [True, False])
def test_what_a_deletion_left_unasked_is_asked_by_the_next_run(
    apply: Apply, random_model: Path, tmp_path: Path, monkeypatch: Any, interrupted: bool
) -> None:
    out = tmp_path / "m.safetensors"
    apply(out, FIRST, SECOND)

    def interrupt(*given: Any, **rest: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memoir_edge.editor.Editor.settle", interrupt)
    words = ["--model", str(random_model)] if interrupted else ["--no-replay"]
    code = main(["delete", str(out), SECOND.id, "--quiet", *words])
    assert code == (130 if interrupted else 0)
    before = frames(out)
    assert apply(out, FIRST, words=["--plan"]) == 0
    assert frames(out) == before
    assert apply(out, FIRST) == 1
    asked = [AUDIT, AGAIN, AUDIT, AGAIN, AUDIT, WRITTEN]
    assert kinds(out)[len(before) :] == asked
    assert apply(out, FIRST) == 1
    assert kinds(out)[len(before) :] == asked


def test_looking_at_what_an_interrupted_run_has_left_changes_nothing_of_it(
    apply: Apply, tmp_path: Path
) -> None:
    """A list of steps writes nothing, what would delete brings the file up to its journal, once.

    Either way the run ends as if nobody had looked.
    """
    out = tmp_path / "m.safetensors"
    apply(out, FIRST, SECOND)
    parts, whole = [data for _, data in frames(out)], out.read_bytes()
    path = out.with_name(out.name + ".journal")
    path.write_bytes(b"".join(parts[:3]))
    journal = load(path, write=True)
    assert journal
    with journal:
        journal.write(out, finished=False)
    with path.open("ab") as file:
        file.write(parts[3])
    left = out.read_bytes(), path.read_bytes()
    assert main(["rollback", str(out), "--quiet"]) == 0
    assert (out.read_bytes(), path.read_bytes()) == left
    for _ in range(2):
        assert main(["delete", str(out), "nobody", "--no-replay", "--quiet"]) == 2
        assert kinds(out) == ["begin", MADE, MADE, WRITTEN, AGAIN, WRITTEN]
    apply(out, FIRST, SECOND)
    assert out.read_bytes() == whole


def test_a_rollback_is_one_step(apply: Apply, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    apply(out, FIRST, SECOND)
    whole, before = out.read_bytes(), len(frames(out))
    assert main(["rollback", str(out), "--to", "1", "--quiet"]) == 0
    assert kinds(out)[before:] == ["rollback", WRITTEN]
    assert main(["rollback", str(out), "--to", str(before - 1), "--quiet"]) == 0
    assert kinds(out)[before:] == ["rollback", WRITTEN, "rollback", WRITTEN]
    assert out.read_bytes() == whole
