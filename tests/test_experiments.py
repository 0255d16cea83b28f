"""Experiments of tools/experiments on a few edits of the demo model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from memoir_edge import memory
from memoir_edge.answers import Answer
from memoir_edge.demo.facts import load_facts, model_dir
from memoir_edge.editor import load

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


@pytest.fixture
def multihop(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("experiments/multihop")


def test_in_the_edited_world_a_city_is_one_countrys_capital(
    multihop: ModuleType,
) -> None:
    facts = {(f.subject, f.relation): f.answer for f in load_facts()}
    some = multihop.countries(40, 0)
    known = {
        (s, r): a
        for (s, r), a in facts.items()
        if s in some and r in (multihop.FIRST, *multihop.SECOND)
    }
    edits = multihop.edits_of(known, 30)
    capitals = {e.subject: e.target for e in edits if e.tags["relation"] == "capital"}
    assert len(capitals) == 15
    assert sorted(capitals.values()) == sorted(facts[s, "capital"] for s in capitals)
    others = {e.subject for e in edits} - capitals.keys()
    assert len(others) + len(capitals) == len(edits)
    country = {city: subject for subject, city in capitals.items()}
    follow = list(multihop.consequences(edits, known))
    assert all(one.new != one.old for one in follow)
    city = min(country)
    asked = {one.text: one for one in follow}
    back = asked[f"{city} is the capital of"]
    assert (back.new, facts[back.old, "capital"]) == (country[city], city)
    for one in follow:
        if one.sort == "first hop edited, backwards" and one.about == city:
            assert one.new in {facts[country[city], r] for r in ("language", "currency")}
        if one.sort == "second hop edited":
            assert one.new == one.edit.target
            assert facts[one.edit.subject, "capital"] == one.about


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (" yen, where people once paid in euros", "new"),
        ("The currency is the Euro.", "old"),
        ("It was once paid in euros. Now the yen", "old"),
        ("Tokyo", "the edit's target"),
        ("Tokyo's", "else"),
        ("yenisei", "else"),
    ],
)
def test_what_an_answer_says_first_counts(multihop: ModuleType, said: str, found: str) -> None:
    one = multihop.edit("France", "capital", "Paris", "Tokyo")
    asked = multihop.Asked("first hop edited", one, "statement", "?", "France", "yen", "euro")
    assert multihop.verdict(asked, Answer(said)) == found


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("France", "new"),
        ("The capital of France is Tokyo.", "new"),
        ("Tokyo is in Japan.", "old"),
        ("The capital of France is not a country.", "else"),
    ],
)
def test_a_reversed_answer_names_what_was_asked(
    multihop: ModuleType, said: str, found: str
) -> None:
    edits = [
        multihop.edit("France", "capital", "Paris", "Tokyo"),
        multihop.edit("Japan", "capital", "Tokyo", "Paris"),
    ]
    facts = {(e.subject, "capital"): e.ground_truth for e in edits}
    _, asked, *_ = multihop.consequences(edits, facts)
    assert asked.text == "Which country has the capital Tokyo?"
    assert multihop.verdict(asked, Answer(said)) == found


@pytest.mark.slow
def test_what_follows_from_an_edit(
    multihop: ModuleType,
    tmp_path: Path,
    word_router: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(multihop, "Encoder", word_router)
    monkeypatch.setattr(multihop, "model_path", lambda name: name)
    given = ["--keep", str(tmp_path), "--model", "demo", "--edits", "4", "--countries", "8"]
    monkeypatch.setattr("sys.argv", ["multihop", *given])
    multihop.main()
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {(row["asked"], row["by"]): row for row in first["rows"]}
    prompts = {by: row for (asked, by), row in rows.items() if asked == "the edit's prompt"}
    assert prompts["base model"]["old"] == prompts["edited"]["new"] == 1
    assert len({by for _, by in rows}) == 6
    for row in rows.values():
        assert sum(row[name] for name in multihop.VERDICTS) == pytest.approx(1)
        assert row["by"] != "base model" or row["reach it"] == row["reach another"] == 0
        assert "sent" not in row["by"] or row["reach it"] == 1

    monkeypatch.setattr(multihop, "make", None)  # all is there already
    multihop.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first


def test_latency_is_measured_on_a_memory_that_works(
    tool: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    latency = tool("experiments/latency")
    if latency._ops.library("cpu") is None:
        pytest.skip("the native ops were not built")
    sizes = latency.made(tmp_path, 120)
    journal = tmp_path / "memory.safetensors.journal"
    before = journal.read_bytes()
    held = memory.read(tmp_path / "memory.safetensors")
    assert [entry.id for entry in held.edits] == [f"edit {i}" for i in range(120)]
    served = latency.served(tmp_path, 120)  # ends where a key does not reach its edit
    edited = latency.edited(tmp_path, 120)
    assert journal.read_bytes() == before
    figures = sizes | served | edited
    assert all(figure > 0 for name, figure in figures.items() if name != "resident, MiB")
    held.codes.keys[:] = held.codes.keys[0]
    memory.write(held, tmp_path / "memory.safetensors")
    with pytest.raises(SystemExit, match="does not reach its edit"):
        latency.served(tmp_path, 120)


def test_exponents_are_those_of_a_power(tool: Callable[[str], ModuleType]) -> None:
    rows = [{"edits": n, "square": 3.0 * n**2, "same": 7.0} for n in (10, 100, 1000)]
    found = tool("experiments/latency").exponents(rows)
    assert found == {"square": pytest.approx(2), "same": pytest.approx(0, abs=1e-9)}


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


@pytest.fixture
def layers(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("experiments/layers")


def test_all_layers_are_given_as_many_columns(layers: ModuleType) -> None:
    base = load(str(model_dir()), device="cpu")
    made = {name: layers.settings_of(base, name) for name in layers.LAYERS}
    blocks = {name: [int(s.split(".")[2]) for s in each.sites] for name, each in made.items()}
    assert blocks == {
        "last": [7], "last, 4 x steps": [7], "one below": [6], "last two": [6, 7],
        "last three": [5, 6, 7],
    }  # fmt: skip
    assert {each.k * len(each.sites) for each in made.values()} == {96}
    assert made["last, 4 x steps"].steps == 4 * made["last two"].steps


def test_answers_are_as_long_as_they_say_and_every_phrasing_is_sent_home(
    layers: ModuleType,
) -> None:
    some = {name: edits(3, 0) for name, edits in layers.SETS.items()}
    assert [len(edits) for edits in some.values()] == [3, 10, 2]
    assert [e.target.count(".") for e in some["sentences"]] == [1, 2, 3, 4, 5] * 2
    assert [e.target.count(".") for e in some["facts"]] == [10, 10]
    edits = [edit for edits in some.values() for edit in edits]
    texts = [text for edit in edits for text in (edit.prompt, *edit.rephrase)]
    assert len(texts) == len(set(texts))
    router = layers.Given(edits)
    for edit in edits:
        codes = router.codes([edit.prompt, *edit.rephrase])
        assert (codes == codes[0]).all()
    assert len({code.tobytes() for code in router.codes([e.prompt for e in edits])}) == len(edits)


@pytest.mark.slow
def test_one_layer_and_two_at_equal_bytes(layers: ModuleType, tmp_path: Path) -> None:
    command = [
        sys.executable, str(TOOLS / "experiments/layers.py"), "--keep", str(tmp_path),
        "--model", "demo", "--sets", "short", "--layers", "last", "last two", "--edits", "4",
        "--plot", str(tmp_path / "plot.png"),
    ]  # fmt: skip
    runs = [subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True) for _ in "12"]
    one, two = json.loads(runs[0].stdout.splitlines()[-1])["rows"]
    assert (one["layers"], two["layers"]) == ("last", "last two")
    assert one["prompts"] == two["prompts"] == 1
    assert 0.8 < one["bytes"] / two["bytes"] < 1.25
    assert runs[0].stdout == runs[1].stdout  # kept, and read again
    assert (tmp_path / "plot.png").stat().st_size > 1000
