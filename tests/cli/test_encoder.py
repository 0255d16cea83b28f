"""Edits that an encoder routes, from `apply` to taking one back, with a router that reads words."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memoir_edge import memory as memory_file
from memoir_edge.cli import main
from memoir_edge.demo.edits import sample, showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.errors import InputError
from memoir_edge.history import load, path_of
from memoir_edge.memory import Codes

CAPITAL, CURRENCY, _, CONTINENT = showcase()[:4]
WORDS = ("--model", str(model_dir()), "--steps", "40", "--thinned", "1")


ENCODER = "words"


@pytest.fixture(scope="module", autouse=True)
def _reads_words(word_router: type[Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memoir_edge.router.Encoder", word_router)
        yield


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edits") / "edits.jsonl"
    path.write_text("\n".join(json.dumps(e.full_record()) for e in (CAPITAL, CURRENCY)))
    return path


@pytest.fixture(scope="module")
def whole(_reads_words: None, edits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of two edits and its journal."""
    out = tmp_path_factory.mktemp("whole") / "m.safetensors"
    words = ["apply", str(edits), "--out", str(out), "--encoder", ENCODER, "--quiet"]
    assert main([*words, *WORDS]) == 0
    return out


@pytest.fixture
def kept(whole: Path, tmp_path: Path) -> Path:
    out = tmp_path / "m.safetensors"
    out.write_bytes(whole.read_bytes())
    path_of(out).write_bytes(path_of(whole).read_bytes())
    return out


def kinds(out: Path) -> list[str]:
    journal = load(path_of(out), write=False)
    assert journal
    with journal:
        return [frame.kind for frame in journal.frames]


def codes(out: Path) -> Codes:
    found = memory_file.read(out).codes
    assert found
    return found


def test_keys_and_guards_are_made_and_kept_with_their_texts(whole: Path) -> None:
    assert kinds(whole) == ["begin", "made", "made", "keys", "again", "again", "audit", "written"]
    found = codes(whole)
    assert found.router.kind == "encoder"
    assert found.keys.shape == (len(found.owner), found.router.bits // 8)
    first = {int(owner): found.texts[i] for i, owner in reversed([*enumerate(found.owner)])}
    assert (first[0], first[1]) == (CAPITAL.prompt, CURRENCY.prompt)
    guards = [text for text, owner in zip(found.texts, found.owner, strict=True) if owner < 0]
    assert len(guards) > 10
    assert "The population of France is" in guards
    backwards = {
        edit.prompt.replace(str(edit.subject), str(answer))
        for edit in (CAPITAL, CURRENCY)
        for answer in (edit.target, edit.ground_truth)
    }
    assert backwards < set(guards)
    assert all("France" in text or "Japan" in text for text in set(guards) - backwards)
    records = [entry.record for entry in memory_file.read(whole).edits]
    given = [CAPITAL.record(), CURRENCY.record()]
    assert records == [record | {"made": 0} for record in given]  # no key is the tool's


@pytest.mark.slow
def test_a_run_that_is_cut_goes_on_to_the_same_memory(
    edits: Path, whole: Path, tmp_path: Path
) -> None:
    """The encoder need not be named again: the journal does."""
    journal = load(path_of(whole), write=False)
    assert journal
    with journal:
        ends = [frame.offset + frame.length for frame in journal.frames]
    for count in (1, 3, 6, 7):
        out = tmp_path / f"{count}.safetensors"
        path_of(out).write_bytes(path_of(whole).read_bytes()[: ends[count - 1]])
        assert main(["apply", str(edits), "--out", str(out), "--quiet", *WORDS]) == 0
        assert out.read_bytes() == whole.read_bytes()


def test_another_router_is_refused_and_nothing_is_lost(
    edits: Path,
    kept: Path,
    done: Any,
    tmp_path: Path,
    capsys: Any,
) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps(CONTINENT.full_record()))
    before = kept.read_bytes(), path_of(kept).read_bytes()
    words = ["apply", str(more), "--encoder", "other words", *WORDS, "--out"]
    assert main([*words, str(kept)]) == 3
    assert "the memory's router is encoder" in capsys.readouterr().err
    assert (kept.read_bytes(), path_of(kept).read_bytes()) == before
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(done.memory.read_bytes())
    assert main([*words, str(plain)]) == 3
    assert "routed by the model's activations" in capsys.readouterr().err


def test_an_edit_is_taken_back(kept: Path, run_json: Any) -> None:
    before = codes(kept)
    code, document = run_json("delete", kept, CURRENCY.id)
    assert code == 0
    assert document["deleted"][0]["base_is_back"]
    after = codes(kept)
    assert not any("Japan" in text for text in after.texts)
    assert len(after.keys) < len(before.keys)
    whole = memory_file.read(kept).digest
    assert run_json("rollback", kept, "--to", len(kinds(kept)) - 1)[1]["digest"] == whole
    assert run_json("rollback", kept, "--to", 7)[0] == 0
    assert codes(kept).texts == before.texts


def test_an_edit_whose_record_has_changed_is_made_anew(
    kept: Path, tmp_path: Path, run_json: Any
) -> None:
    """What the router made of the record is no change; a cut behind any step changes no byte."""
    file, begun = tmp_path / "edits.jsonl", len(kinds(kept))
    other = replace(CURRENCY, target="euro", keys=("What Japan pays with is",))
    file.write_text("\n".join(json.dumps(e.full_record()) for e in (CAPITAL, other)))
    words = ("apply", file, "--out", kept, *WORDS)
    code, document = run_json(*words)
    assert (code, document["skipped"]) == (0, 1)
    assert kinds(kept)[begun : begun + 3] == ["deleted", "made", "keys"]
    assert "What Japan pays with is" in codes(kept).texts
    whole, data, ends = kept.read_bytes(), path_of(kept).read_bytes(), kinds(kept)
    for step in (begun, begun + 1):
        journal = load(path_of(kept), write=False)
        assert journal
        with journal:
            end = journal.frames[step].offset + journal.frames[step].length
        kept.unlink()
        path_of(kept).write_bytes(data[:end])
        assert run_json(*words)[0] == 0
        assert (kept.read_bytes(), kinds(kept)) == (whole, ends)
    assert run_json(*words)[1]["skipped"] == 2


def test_it_is_looked_into_and_compared(whole: Path, kept: Path, run_json: Any) -> None:
    held = codes(whole)
    _, document = run_json("inspect", whole)
    assert document["router"]["kind"] == "encoder"
    assert (document["keys"], document["guards"]) == (len(held.keys), int((held.owner < 0).sum()))
    assert document["chance_overlap"] == 0.5
    first = document["edits"][0]
    assert first["keys"] == int((held.owner == 0).sum())
    assert first["threshold"] == held.thresholds[0]
    run_json("delete", kept, CURRENCY.id, "--no-replay")
    _, document = run_json("diff", whole, kept)
    assert [(row["what"], row["id"]) for row in document["edits"]] == [("went", CURRENCY.id)]
    assert document["bytes"]["keys"][1] == len(codes(kept).keys) * (128 + 8)
    assert document["bytes"]["masks"] == [2 * 96, 96]


def test_thresholds_can_be_made_anew(kept: Path, run_json: Any) -> None:
    before = codes(kept)
    words = ("calibrate", "--memory", kept, "--model", model_dir(), "--false-fires", "0.4")
    assert run_json(*words)[0] == 0
    assert codes(kept).texts == before.texts
    assert np.median(codes(kept).thresholds) < np.median(before.thresholds)


@pytest.mark.slow
def test_it_is_measured_beside_the_activations(
    tmp_path: Path, run_json: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["memoir_edge.router.asks"], "EACH", (6, 6))  # for speed
    records = [edit.record() for edit in showcase()[:4]]
    edits = tmp_path / "e.jsonl"
    edits.write_text("\n".join(json.dumps(record) for record in records))
    words = ("calibrate", edits, "--model", model_dir(), "--layers", "6", "--encoder", ENCODER,
             "--false-fires", "0.05")  # fmt: skip
    code, document = run_json(*words)
    assert code == 0
    alone, guarded, told = document["encoder"]
    assert 0 < alone["at_1"] <= alone["at_5"] <= alone["nearest"] <= 1
    assert told["nearest"] >= guarded["nearest"]
    assert all(t["at_1"] <= t["at_5"] <= t["nearest"] for t in document["trials"])
    assert main([*map(str, words), "--out", str(tmp_path / "m")]) == 2
    assert "an encoder needs neither" in capsys.readouterr().err


def test_it_is_measured_in_pytorch(
    edits: Path, whole: Path, tmp_path: Path, run_json: Any, capsys: Any
) -> None:
    words = ("eval", "--memory", whole, "--edits", edits, "--model", model_dir())
    for named in (("--encoder", ENCODER), ()):  # by default what the journal names
        code, document = run_json(*words, *named)
        assert code == 0
        assert document["free"]["reliability"] == 1
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(whole.read_bytes())
    words = ("eval", "--memory", alone, *words[3:])
    assert run_json(*words, "--encoder", ENCODER)[0] == 0
    assert main([*map(str, words)]) == 3
    assert "--encoder" in capsys.readouterr().err


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch, word_router: type[Any]) -> str:
    """The encoder is not where the journal says any more, but under this name."""

    def made(name: str) -> Any:
        if name != "moved":
            raise InputError(f"no model folder at {name}", hint="give a folder")
        return word_router(ENCODER)

    monkeypatch.setattr("memoir_edge.router.Encoder", made)
    return "moved"


@pytest.mark.parametrize("more", [(), ("--no-replay",)])
def test_an_edit_is_taken_back_where_the_encoder_has_moved(
    kept: Path, run_json: Any, capsys: Any, moved: str, more: tuple[str, ...]
) -> None:
    before = kept.read_bytes(), path_of(kept).read_bytes()
    words = ("delete", kept, CURRENCY.id)
    assert main([*map(str, words)]) == 2
    assert "--encoder, or pass --no-replay" in capsys.readouterr().err
    assert (kept.read_bytes(), path_of(kept).read_bytes()) == before
    code, document = run_json(*words, *(more or ("--encoder", moved)))
    assert (code, document["remaining"]["edits"]) == (0, 1)


def test_an_encoder_that_has_moved_is_asked_for(
    edits: Path, kept: Path, capsys: Any, moved: str
) -> None:
    model, to = ("--model", str(model_dir())), ("--out", str(kept))
    for words in (
        ["apply", str(edits), "--anew", *to, *model],
        ["eval", "--memory", str(kept), "--edits", str(edits), *model],
        ["calibrate", "--memory", str(kept), *model],
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "the encoder that the journal names: no model folder at" in said
        assert "with --encoder" in said


def test_a_plan_says_how_each_edit_is_read(edits: Path, tmp_path: Path, run_json: Any) -> None:
    out = tmp_path / "m.safetensors"
    words = ("apply", edits, "--out", out, "--encoder", ENCODER, *WORDS, "--plan")
    _, document = run_json(*words)
    assert [row["subject"] for row in document["asked"]] == ["France", "Japan"]
    assert all(row["guards"] > 5 for row in document["asked"])
    assert not out.exists()
    assert not path_of(out).exists()


def test_a_plan_says_which_subject_is_not_found(tmp_path: Path, capsys: Any) -> None:
    edits = tmp_path / "e.jsonl"
    records = [
        {"prompt": "The capital of France is", "target": "Rome", "subject": "Japan"},
        {"prompt": "...", "target": "Rome"},
        {"prompt": "The capital of Peru is", "target": "Rome"},
    ]
    edits.write_text("\n".join(json.dumps(record) for record in records))
    words = ["apply", str(edits), "--out", str(tmp_path / "m"), "--encoder", ENCODER, *WORDS]
    assert main([*words, "--plan"]) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "'Japan' does not stand in 'The capital of France is'" in said
    assert "no subject is found in '...'" in said
    assert said.count("name it as it is there") == 2


def test_a_subject_that_is_not_found_is_told_by_a_run_too(
    edits: Path, tmp_path: Path, run_json: Any
) -> None:
    other = tmp_path / "e.jsonl"
    other.write_text(edits.read_text().replace('"subject": "France"', '"subject": "Gaul"'))
    words = ("apply", other, "--out", tmp_path / "m", "--encoder", ENCODER, *WORDS)
    found = [run_json(*words, *more)[1]["findings"] for more in (["--plan"], [])]
    assert [[f["kind"] for f in some] for some in found] == [["unnamed"], ["unnamed"]]


def test_a_run_says_how_each_edit_is_read(
    edits: Path, tmp_path: Path, run_json: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    some, words = tmp_path / "e.jsonl", ("--encoder", ENCODER, *WORDS)
    unknown = {"id": "unknown", "prompt": "It rains; Qux", "target": "Rome"}
    some.write_text(f"{edits.read_text()}\n{json.dumps(unknown)}")
    _, planned = run_json("apply", some, "--out", tmp_path / "m", *words, "--plan")
    _, document = run_json("apply", some, "--out", tmp_path / "m", *words)
    names = ("id", "subject", "kind", "relation")
    told = [{name: row[name] for name in names} for row in document["edits"]]
    assert told == [{name: row[name] for name in names} for row in planned["asked"]]
    assert [row["relation"] for row in told] == ["country.capital", "country.currency", None]
    main(["apply", str(some), "--out", str(tmp_path / "n"), *words])
    said = capsys.readouterr().out
    assert "read as" in said
    assert all(word in said.split() for word in ("France:", "country.capital", "Qux:"))


def test_relations_are_left_out_or_brought(edits: Path, tmp_path: Path, capsys: Any) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[country.motto]\nphrasings = ["The motto of {} is", "{} has the motto",\n'
                   '"What is the motto of {}?", "Which motto does {} have?"]\n')  # fmt: skip
    out = tmp_path / "m.safetensors"
    words = ["apply", str(edits), "--out", str(out), "--encoder", ENCODER, "--quiet"]
    assert main([*words, "--relations", str(own), "--without", "P1082", *WORDS]) == 0
    texts = codes(out).texts
    assert "The motto of France is" in texts
    assert not any("population of France" in text for text in texts)
    own.write_text('[country.motto]\nphrasings = ["The motto of {} is"]\n')
    other = ["apply", str(edits), "--out", str(tmp_path / "o"), "--encoder", ENCODER]
    assert main([*other, "--relations", str(own), *WORDS]) == 2
    assert "own.toml" in capsys.readouterr().err
    assert not path_of(tmp_path / "o").exists()


def test_one_more_edit_asks_for_what_it_may_have_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Edits of its tile, that is, which holds four here; or for all."""
    out, file = tmp_path / "m.safetensors", tmp_path / "edits.jsonl"
    few = ("--steps", "2", "--passes", "1", "--repairs", "0", "--columns-per-edit", "192")
    words = ["apply", str(file), "--out", str(out), "--encoder", ENCODER, *WORDS[:2], *few]
    edits = [json.dumps(edit.full_record()) for edit in sample(13)]

    def apply(count: int, *more: str) -> dict[str, Any]:
        file.write_text("\n".join(edits[:count]))
        main([*words, "--json", *more])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert (first := apply(12))["asked"] == first["checked"] == 12
    one_more = apply(13)
    assert one_more["checked"] == 13
    assert 1 <= one_more["asked"] < 6
    assert (again := apply(13, "--anew"))["asked"] == again["checked"] == 13
    main([*words, "--anew"])
    assert "asked for all 13 edits" in capsys.readouterr().out
