"""What was done to a memory, seen and taken back: delete, rollback, diff, and a plan before it."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import memory as memory_file
from memoir_edge.cli import main
from memoir_edge.cli.journals import opened, taken_along
from memoir_edge.cli.output import Output
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import Editor
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError
from memoir_edge.history import Again, Deleted, Journal, load, path_of

CAPITAL, CURRENCY, LANGUAGE = showcase()[:3]
EACH = 4  # keys of these edits: the prompt, in small letters, as a chat, behind other text
ROW = 96 + 8  # bytes of a key: 768 bits, owner and threshold


@pytest.fixture
def kept(done: Any, tmp_path: Path) -> Path:
    """Three edits and their journal, to be changed."""
    out = tmp_path / "m.safetensors"
    shutil.copy(done.memory, out)
    shutil.copy(path_of(done.memory), path_of(out))
    return out


def written(path: Path, *edits: Edit) -> Path:
    path.write_text("\n".join(json.dumps(edit.full_record()) for edit in edits), encoding="utf-8")
    return path


def ids(path: Path) -> list[str]:
    return [entry.id for entry in memory_file.read(path).edits]


# --- Deletion ------------------------------------------------------------------------------------


def test_delete_brings_the_base_model_back(kept: Path, run_json: Any) -> None:
    before = memory_file.read(kept)
    code, document = run_json("delete", kept, CURRENCY.id)
    after = memory_file.read(kept)
    assert code == 0
    assert ids(kept) == [CAPITAL.id, LANGUAGE.id]
    assert len(after.bank) == 2 * EACH
    assert document["deleted"] == [
        {"id": CURRENCY.id, "prompt": CURRENCY.prompt, "target": "peso", "before": "peso",
         "base": "yen", "after": "yen", "edit": None, "base_is_back": True}
    ]  # fmt: skip
    assert document["remaining"] == {"edits": 2, "failed": [], "trained_again": []}
    assert (document["digest_before"], document["digest_after"]) == (before.digest, after.digest)
    receipt = json.loads(Path(document["receipt"]).read_text(encoding="utf-8"))
    assert receipt == {name: v for name, v in document.items() if name != "receipt"}
    assert after.parent == before.digest


def test_delete_takes_the_change_out_exactly(
    done: Any, kept: Path, tmp_path: Path, run_json: Any
) -> None:
    """What is left is what the other edits changed, and nothing else."""
    run_json("delete", kept, CAPITAL.id, CURRENCY.id, "--no-replay")
    run_json("delete", kept, LANGUAGE.id, "--no-replay")
    nothing = memory_file.read(kept)
    assert len(nothing.bank) == len(nothing.columns) == 0
    code, document = run_json("rollback", kept, "--to", 1)
    assert (code, document["edits"]) == (0, 1)
    assert ids(kept) == [CAPITAL.id]


@pytest.mark.parametrize("point", ["before it is asked", "before it is written", "with no model"])
def test_a_deletion_that_is_interrupted_is_gone_on_with(
    kept: Path, tmp_path: Path, run_json: Any, monkeypatch: Any, capsys: Any, point: str
) -> None:
    """The memory and the receipt are those of one that nothing interrupted."""
    whole = tmp_path / "whole.safetensors"
    shutil.copy(kept, whole)
    shutil.copy(path_of(kept), path_of(whole))
    words = [CURRENCY.id, CAPITAL.id, *["--no-replay"] * (point == "with no model")]
    code, expected = run_json("delete", whole, *words)
    write = Journal.write

    def interrupted(*given: Any, **rest: Any) -> None:
        raise KeyboardInterrupt

    def half(journal: Journal, out: Path, *, finished: bool = True) -> Any:
        return interrupted() if finished else write(journal, out, finished=finished)

    with monkeypatch.context() as patch:
        if point == "before it is asked":
            patch.setattr(Editor, "settle", interrupted)
        else:
            patch.setattr(Journal, "write", half)
        assert main(["delete", str(kept), *words]) == 130
    assert capsys.readouterr().err.strip().endswith("interrupted")
    assert not list(tmp_path.glob("m.*.json"))
    assert main(["delete", str(kept), LANGUAGE.id, CAPITAL.id]) == 2  # that is another one
    assert f"there is no edit {CAPITAL.id!r}" in capsys.readouterr().err
    again, document = run_json("delete", kept, *reversed(words[:2]), *words[2:])
    assert again == code == 0
    assert kept.read_bytes() == whole.read_bytes()
    ours = {"memory", "at", "receipt"}
    document["deleted"].reverse()
    assert {n: v for n, v in document.items() if n not in ours} == {
        name: value for name, value in expected.items() if name not in ours
    }
    assert Path(document["receipt"]).exists()
    assert main(["delete", str(kept), *words]) == 2


def test_edits_may_be_called_anything(tmp_path: Path, run_json: Any) -> None:
    """Ids that are words of a receipt, too."""
    named = [replace(CAPITAL, id="remaining"), replace(CURRENCY, id="held")]
    edits, out = written(tmp_path / "e.jsonl", *named), tmp_path / "m.safetensors"
    words = ("--model", model_dir(), "--steps", "40")
    assert run_json("apply", edits, "--out", out, *words)[0] == 0
    code, document = run_json("delete", out, "held")
    assert code == 0
    assert [row["id"] for row in document["deleted"]] == ["held"]
    assert document["remaining"] == {"edits": 1, "failed": [], "trained_again": []}
    assert json.loads(Path(document["receipt"]).read_text(encoding="utf-8"))["deleted"]


def test_an_edit_that_answers_a_deleted_one_is_named(
    tmp_path: Path, run_json: Any, capsys: Any
) -> None:
    near = replace(LANGUAGE, keys=(CAPITAL.prompt,), target=CAPITAL.target)
    edits = written(tmp_path / "edits.jsonl", CAPITAL, near)
    out = tmp_path / "m.safetensors"
    words = ("--model", model_dir(), "--out", out, "--steps", 40, "--asked", 0)
    run_json("apply", edits, *words)
    assert main(["delete", str(out), CAPITAL.id]) == 1
    said = f"{CAPITAL.id} is not the base model's again: {near.id} answers it"
    assert said in capsys.readouterr().out


def test_what_leant_on_a_deleted_edit_is_trained_again(kept: Path, run_json: Any) -> None:
    """An edit that is wrong without the deleted one's change, as after a deletion it may be."""
    journal = load(path_of(kept), write=True)
    assert journal
    with journal:  # the language's change is now shared out between it and the currency edit
        [frame] = [
            f for f in journal.frames if f.data.get("edits", [{}])[0].get("id") == LANGUAGE.id
        ]
        tensors = journal.tensors(frame)
        from memoir_edge.history import Change

        journal.record(Again(LANGUAGE.id, Change(-tensors["0.V"], tensors["0.U"])))
        journal.write(kept)
    code, document = run_json("delete", kept, CURRENCY.id)
    assert code == 0
    assert document["remaining"] == {"edits": 2, "failed": [], "trained_again": [LANGUAGE.id]}


def test_delete_refuses_and_nothing_changes(
    done: Any, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept.read_bytes(), path_of(kept).read_bytes()

    def refused(*words: object) -> str:
        assert main(["delete", *map(str, words)]) == 2
        return capsys.readouterr().err

    assert "there is no edit 'nobody'" in refused(kept, CAPITAL.id, "nobody")
    assert "no edit is named" in refused(kept)
    assert "--no-replay" in refused(kept, CAPITAL.id, "--model", tmp_path / "nowhere")
    assert (kept.read_bytes(), path_of(kept).read_bytes()) == before
    assert "no memory file" in refused(tmp_path / "none", CAPITAL.id)
    alone = tmp_path / "alone.safetensors"
    shutil.copy(done.memory, alone)
    assert "has no journal beside it" in refused(alone, CAPITAL.id)


def test_a_memory_behind_its_journal_is_brought_up_to_it(kept: Path, capsys: Any) -> None:
    """As after a kill between the journal's step and the memory's replacement."""
    journal = load(path_of(kept), write=True)
    assert journal
    with journal:
        journal.record(Deleted([CAPITAL.id]))
    assert CAPITAL.id in ids(kept)
    assert main(["rollback", str(kept), "--to", "9"]) == 0
    said = f"{kept} is behind its journal; brought up to it first: {CAPITAL.id} went"
    assert said in capsys.readouterr().out
    assert ids(kept) == [CURRENCY.id, LANGUAGE.id]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("it cannot be looked at")])
def test_a_correction_that_is_only_looked_at_leaves_the_former_edit(
    kept: Path, tmp_path: Path, monkeypatch: Any, capsys: Any, error: BaseException
) -> None:
    before = kept.read_bytes(), path_of(kept).read_bytes()
    edits = written(tmp_path / "edits.jsonl", replace(CAPITAL, target="Madrid"))

    def looked(*_: Any) -> None:
        raise error

    monkeypatch.setattr("memoir_edge.editor.look_at", looked)
    words = ["apply", str(edits), "--model", str(model_dir()), "--out", str(kept)]
    assert main(words) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert f"to be made anew, because their records have changed: {CAPITAL.id}" in (
        capsys.readouterr().out
    )
    assert (kept.read_bytes(), path_of(kept).read_bytes()) == before


@pytest.mark.parametrize("words", [("--out", "KEPT"), ("--memory", "KEPT", "--out", "NEW")])
@pytest.mark.parametrize("plan", [(), ("--plan",)])
def test_going_on_from_an_earlier_state_is_said(
    kept: Path, tmp_path: Path, capsys: Any, words: tuple[str, ...], plan: tuple[str, ...]
) -> None:
    before = kept.read_bytes()
    assert main(["delete", str(kept), CAPITAL.id, "--no-replay", "--quiet"]) == 0
    kept.write_bytes(before)
    edits = written(tmp_path / "edits.jsonl", CURRENCY, LANGUAGE)
    place = {"KEPT": str(kept), "NEW": str(tmp_path / "new.safetensors")}
    asked = [place.get(word, word) for word in (*words, *plan)]
    assert main(["apply", str(edits), "--model", str(model_dir()), *asked]) == 0
    assert f"{kept} is an earlier state; going on from the last of" in capsys.readouterr().out


# --- Rollback ------------------------------------------------------------------------------------


def test_rollback_lists_the_steps(kept: Path, run_json: Any, capsys: Any) -> None:
    _, document = run_json("rollback", kept)
    assert [step["step"] for step in document["steps"]] == ["0", "1-3", "4-6", "7", "8"]
    assert [step["what"].split()[0] for step in document["steps"]] == [
        "began", "made", "trained", "asked", "wrote",
    ]  # fmt: skip
    assert main(["rollback", str(kept)]) == 0
    assert "asked what may have changed of 3 edits: 0 do not hold" in capsys.readouterr().out


def test_steps_are_listed_and_nothing_is_done(kept: Path, capsys: Any) -> None:
    """While another command writes the journal, too, and where the memory is behind it."""
    journal = load(path_of(kept), write=True)
    assert journal
    with journal:
        journal.record(Deleted([CAPITAL.id]))
        before = {path: path.read_bytes() for path in kept.parent.iterdir()}
        assert main(["rollback", str(kept)]) == 0
        assert {path: path.read_bytes() for path in kept.parent.iterdir()} == before
    said = capsys.readouterr().out
    assert f"{kept} is behind its journal\n" in said
    assert f"deleted {CAPITAL.id}" in said


def test_rollback_and_forth_byte_for_byte(kept: Path, run_json: Any) -> None:
    before = kept.read_bytes()
    run_json("delete", kept, CURRENCY.id, "--no-replay")
    without = kept.read_bytes()
    _, document = run_json("rollback", kept, "--to", 8)
    assert kept.read_bytes() == before
    assert document["digest"] == memory_file.read(kept).digest
    run_json("rollback", kept, "--to", 10)
    assert kept.read_bytes() == without


def test_rollback_to_a_date(kept: Path, run_json: Any, capsys: Any) -> None:
    _, document = run_json("rollback", kept, "--to", "2999-01-01")
    assert document["to"] == 8
    assert main(["rollback", str(kept), "--to", "2001-01-01T00:00:00+02:00"]) == 2
    assert "the journal begins at" in capsys.readouterr().err
    for neither in ("yesterday", "²", "1.5", ""):
        assert main(["rollback", str(kept), "--to", neither]) == 2
        assert "expected the number of a step or a date" in capsys.readouterr().err
    assert main(["rollback", str(kept), "--to", "77"]) == 2
    assert "there is no step 77" in capsys.readouterr().err


# --- Differences ---------------------------------------------------------------------------------


def test_diff(kept: Path, done: Any, tmp_path: Path, run_json: Any, capsys: Any) -> None:
    run_json("delete", kept, CURRENCY.id, "--no-replay")
    _, document = run_json("diff", done.memory, kept)
    assert [(row["what"], row["id"]) for row in document["edits"]] == [("went", CURRENCY.id)]
    assert document["same"] == 2
    assert document["same_model"]
    sizes = document["bytes"]
    assert sizes["file"] == [done.memory.stat().st_size, kept.stat().st_size]
    old = memory_file.read(done.memory)
    assert sizes["keys"] == [3 * EACH * ROW, 2 * EACH * ROW]
    assert sizes["columns"][0] == len(old.columns) * (old.d * 4 + 4)
    # 219 columns, some of them read by no other edit; its keys and its record
    [went] = document["edits"]
    assert EACH * ROW < went["bytes"] <= EACH * ROW + 219 * (old.d * 4 + 4) + 600
    _, back = run_json("diff", kept, done.memory)
    assert [(row["what"], row["bytes"]) for row in back["edits"]] == [("came", went["bytes"])]
    assert main(["diff", str(kept), str(kept)]) == 0
    assert "0 came, 0 went, 0 changed, 2 are the same" in capsys.readouterr().out


def test_diff_tells_memories_of_other_layers(done: Any, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other.safetensors"
    memory_file.write(replace(memory_file.read(done.memory), site="model.layers.2.mlp"), other)
    assert main(["diff", str(done.memory), str(other)]) == 0
    assert "the memories are of different models or layers" in capsys.readouterr().out


def test_diff_tells_what_changed(done: Any, tmp_path: Path, run_json: Any) -> None:
    memory = memory_file.read(done.memory)
    first, *rest = memory.edits
    other = tmp_path / "m.safetensors"
    record = {**(first.record or {}), "target": "Oslo"}
    memory_file.write(replace(memory, edits=(first._replace(record=record), *rest)), other)
    _, document = run_json("diff", done.memory, other)
    assert [(row["what"], row["target"]) for row in document["edits"]] == [("changed", "Oslo")]


# --- Before training -----------------------------------------------------------------------------


def test_a_plan_says_what_is_doubtful_and_touches_nothing(
    done: Any, tmp_path: Path, run_json: Any
) -> None:
    twin = replace(CAPITAL, id="twin")
    other = replace(CAPITAL, id="other", target="Bern")
    near = replace(CAPITAL, id="near", prompt="The capital city of France is called")
    long = replace(CURRENCY, id="long", prompt="word " * 600)
    edits = written(tmp_path / "edits.jsonl", replace(CAPITAL, id="first"), twin, other, near, long)
    out = tmp_path / "m.safetensors"
    code, document = run_json("apply", edits, "--model", model_dir(), "--out", out, "--plan")
    assert code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["edits.jsonl"]
    found = {(f["kind"], f["edit"], f["other"]) for f in document["findings"]}
    assert ("too long", "long", None) in found
    assert ("duplicate", "twin", "first") in found
    assert ("contradiction", "other", "first") in found
    assert ("same fact?", "near", "first") in found
    assert all(0.58 <= f["overlap"] <= 1 for f in document["findings"] if f["overlap"])
    [warning] = document["warnings"]
    assert "fewer than the 100" in warning
    assert "Thresholds stay 0.58" in warning
    assert document["seconds"] > 0
    assert document["memory_bytes"] > 0


def test_a_plan_beside_a_memory(done: Any, kept: Path, tmp_path: Path, run_json: Any) -> None:
    edits = written(tmp_path / "edits.jsonl", CAPITAL, replace(CURRENCY, id="new", target="euro"))
    before = kept.read_bytes(), path_of(kept).read_bytes()
    _, document = run_json("apply", edits, "--model", model_dir(), "--out", kept, "--plan")
    assert document["edits"] == 1  # the other is there already
    [finding] = document["findings"]
    assert (finding["kind"], finding["other"]) == ("contradiction", CURRENCY.id)
    assert (kept.read_bytes(), path_of(kept).read_bytes()) == before


def test_the_plans_sizes_come_near(done: Any, tmp_path: Path, run_json: Any) -> None:
    out = tmp_path / "m.safetensors"
    _, document = run_json("apply", done.edits, "--model", model_dir(), "--out", out, "--plan")
    assert document["findings"] == []
    assert document["memory_bytes"] == pytest.approx(done.memory.stat().st_size, rel=0.05)
    assert document["journal_bytes"] == pytest.approx(
        path_of(done.memory).stat().st_size - 10_000, rel=0.5
    )


# --- Going on ------------------------------------------------------------------------------------


def test_a_run_from_another_memory_takes_its_journal_along(
    done: Any, tmp_path: Path, run_json: Any
) -> None:
    edits = written(tmp_path / "edits.jsonl", showcase()[3])
    out = tmp_path / "m.safetensors"
    words = ("--model", model_dir(), "--steps", 40)
    code, document = run_json("apply", edits, "--memory", done.memory, "--out", out, *words)
    assert (code, document["checked"]) == (0, 4)
    assert memory_file.read(out).parent == done.applied["digest"]
    code, _ = run_json("delete", out, CAPITAL.id, "--no-replay")
    assert code == 0
    assert len(ids(done.memory)) == 3


@pytest.mark.parametrize(
    ("point", "journal"), [("looking", True), ("training", False), ("writing", True)]
)
def test_a_run_from_another_memory_is_gone_on_with(
    kept: Path, tmp_path: Path, monkeypatch: Any, capsys: Any, point: str, journal: bool
) -> None:
    """By the same command; once it is finished there is something to be lost."""
    if not journal:
        path_of(kept).unlink()
    edits = written(tmp_path / "edits.jsonl", *showcase()[3:5])
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    words = ["apply", str(edits), "--model", str(model_dir()), "--memory", str(kept)]
    words += ["--steps", "20", "--asked", "0", "--repairs", "0"]
    code = main([*words, "--out", str(whole)])
    edit, write, made = Editor.edit, Journal.write, []

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def one(editor: Editor, *given: Any) -> Any:
        made.append(editor)
        return edit(editor, *given) if len(made) == 1 else interrupted()

    def half(journal: Journal, out: Path, *, finished: bool = True) -> Any:
        return interrupted() if finished else write(journal, out, finished=finished)

    with monkeypatch.context() as patch:
        if point == "looking":
            patch.setattr("memoir_edge.editor.look_at", interrupted)
        elif point == "training":
            patch.setattr(Editor, "edit", one)
        else:
            patch.setattr(Journal, "write", half)
        assert main([*words, "--out", str(out)]) == 130
    assert main([*words, "--out", str(out)]) == code
    assert out.read_bytes() == whole.read_bytes()
    assert main([*words, "--out", str(out)]) == 2
    assert f"{out} exists and would be lost" in capsys.readouterr().err


def test_a_memory_to_which_nothing_is_added_takes_its_journal_along(
    kept: Path, done: Any, tmp_path: Path, run_json: Any
) -> None:
    out = tmp_path / "out.safetensors"
    path_of(kept).write_bytes(path_of(kept).read_bytes() + b"MEJ1 and no more")
    words = ("apply", done.edits, "--model", model_dir(), "--memory", kept, "--out", out)
    assert run_json(*words, "--plan")[0] == 0
    assert not path_of(out).exists()
    assert run_json(*words)[0] == 0
    assert out.read_bytes() == kept.read_bytes()
    assert run_json("delete", out, CAPITAL.id, "--no-replay")[0] == 0
    assert CAPITAL.id in ids(kept)


def test_a_journal_is_not_taken_to_where_another_was_begun_meanwhile(
    kept: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    path_of(out).write_bytes(b"the other's")
    with ExitStack() as stack, opened(kept, Output()) as journal:
        with pytest.raises(InputError, match="was begun by another command meanwhile"):
            taken_along(journal, out, stack)
        assert taken_along(journal, kept, stack) is journal
    assert path_of(out).read_bytes() == b"the other's"
    assert not list(tmp_path.glob(".*"))


def test_a_memory_without_a_journal_is_gone_on_from(
    done: Any, tmp_path: Path, run_json: Any, capsys: Any
) -> None:
    out = tmp_path / "m.safetensors"
    shutil.copy(done.memory, out)
    edits = written(tmp_path / "edits.jsonl", showcase()[3])
    words = ("--model", model_dir(), "--steps", 40)
    code, document = run_json("apply", edits, "--out", out, *words)
    assert (code, document["checked"]) == (0, 4)
    assert memory_file.read(out).parent == done.applied["digest"]
    assert main(["delete", str(out), CAPITAL.id, "--no-replay"]) == 2
    assert "was in the memory that the journal began from" in capsys.readouterr().err
    code, _ = run_json("delete", out, showcase()[3].id, "--no-replay")
    assert code == 0
    assert memory_file.read(out).values.tobytes() == memory_file.read(done.memory).values.tobytes()


def test_a_link_is_followed_by_every_command(kept: Path, tmp_path: Path, run_json: Any) -> None:
    """As operators have it: `current` leads to a version, whose journal lies beside it."""
    link = tmp_path / "links" / "current"
    link.parent.mkdir()
    link.symlink_to(kept)
    first = ids(kept)[0]
    assert run_json("delete", link, first, "--no-replay")[0] == 0
    assert link.is_symlink()
    assert first not in ids(kept)
    last = run_json("rollback", link)[1]["steps"][-3]["step"]
    assert run_json("rollback", link, "--to", last.rpartition("-")[2])[0] == 0
    assert link.is_symlink()
    assert first in ids(kept)
    assert not path_of(kept).with_name("current.journal").exists()
