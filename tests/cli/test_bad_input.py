"""Bad input: one clear line, the exit code that the contract gives it, nothing written."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from memoir_edge.cli import main
from memoir_edge.demo.facts import model_dir
from memoir_edge.history import path_of

GOOD = json.dumps({"prompt": "The capital of France is", "target": "Rome"})


def fails(capsys: Any, code: int, *words: object) -> str:
    """Run a command that must fail; its one line and hint."""
    assert main(list(map(str, words))) == code
    error = str(capsys.readouterr().err)
    assert error.startswith("error: ")
    assert len(error.splitlines()) <= 2
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + "\n{bad", "line 2: no JSON"),
        ("", "holds no edits"),
        (GOOD + "\n" + GOOD[:-1] + ', "source": "a book"}', "line 2: id"),
        (json.dumps({"prompt": "x " * 600, "target": "y"}), "the model's context is 512"),
        ('{"prompt": "x", "target": "go <pad>"}', "the model can only say 'go'"),
    ],
)
def test_edits_that_cannot_be_used(tmp_path: Path, capsys: Any, content: str, message: str) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text(content)
    out = tmp_path / "m.safetensors"
    error = fails(capsys, 2, "apply", edits, "--model", model_dir(), "--out", out)
    assert message in error
    assert list(tmp_path.iterdir()) == [edits]


def test_nothing_usable_is_left(tmp_path: Path, capsys: Any) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text("{bad")
    words = ("apply", edits, "--model", model_dir(), "--out", tmp_path / "m", "--skip-bad")
    assert "no edits, and 1 unusable lines" in fails(capsys, 2, *words)


def test_a_memory_in_the_way_is_not_lost(done: Any, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "m.safetensors"
    out.write_bytes(done.memory.read_bytes())
    words = ("apply", done.edits, "--model", model_dir(), "--out", out, "--memory", done.memory)
    assert "would be lost" in fails(capsys, 2, *words)


@pytest.mark.parametrize("words", ["--model none", "--model M --site none", "--model M --k 3"])
@pytest.mark.parametrize("journal", [True, False])
def test_a_run_from_another_memory_that_is_refused_begins_nothing(
    done: Any, tmp_path: Path, capsys: Any, words: str, journal: bool
) -> None:
    kept, out = tmp_path / "m.safetensors", tmp_path / "out"
    kept.write_bytes(done.memory.read_bytes())
    if journal:
        path_of(kept).write_bytes(path_of(done.memory).read_bytes())
    out.mkdir()
    given = [str(model_dir()) if word == "M" else word for word in words.split()]
    code = main([
        "apply", str(_edits(tmp_path)), *given, "--memory", str(kept), "--out", str(out / "m"),
    ])  # fmt: skip
    assert code in (2, 3)
    assert "error:" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_models_and_sites_that_are_not_there(tmp_path: Path, capsys: Any) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text(GOOD)
    out = tmp_path / "m.safetensors"

    def apply(*words: object) -> str:
        return fails(capsys, 2, "apply", edits, "--out", out, *words)

    assert "no model folder" in apply("--model", tmp_path / "absent")
    assert "is no model folder" in apply("--model", tmp_path)
    error = apply("--model", model_dir(), "--site", "model.layers.9.mlp.down_proj")
    assert "names nothing" in error
    assert "model.layers.{0..7}.mlp.down_proj" in error
    assert "'lm_head' is the head" in apply("--model", model_dir(), "--site", "lm_head")
    assert "cannot use device" in apply("--model", model_dir(), "--device", "cuda:7")
    shutil.copytree(model_dir(), tmp_path / "mute")
    (tmp_path / "mute/tokenizer.json").unlink()
    (tmp_path / "mute/tokenizer_config.json").unlink()
    assert "holds no tokenizer" in apply("--model", tmp_path / "mute")
    assert "tokenizer" in fails(
        capsys, 2, "export", "--model", tmp_path / "mute", "--out", tmp_path / "onnx"
    )
    shutil.copytree(model_dir(), tmp_path / "endless")
    for file in (tmp_path / "endless").glob("*.json"):
        said = json.loads(file.read_text())
        file.write_text(
            json.dumps({k: v for k, v in said.items() if not k.startswith("eos_token")})
        )
    assert "no token that ends a text" in apply("--model", tmp_path / "endless")
    assert not out.exists()
    assert not path_of(out).exists()
    assert not (tmp_path / "onnx").exists()


def test_memories_that_do_not_fit_or_are_damaged(done: Any, tmp_path: Path, capsys: Any) -> None:
    data = done.memory.read_bytes()
    ask = ("generate", done.graph, "--prompt", "x", "--memory")
    for name, content in {"cut": data[:-9], "altered": data[:-9] + b"\1" + data[-8:]}.items():
        (tmp_path / name).write_bytes(content)
        assert str(tmp_path / name) in fails(capsys, 3, *ask, tmp_path / name)
    other = tmp_path / "other"
    shutil.copytree(done.graph, other)
    sidecar = json.loads((other / "memoir_edge.json").read_text())
    (other / "memoir_edge.json").write_text(json.dumps(sidecar | {"digest": "0" * 64}))
    error = fails(capsys, 3, "generate", other, "--prompt", "x", "--memory", done.memory)
    assert "base model" in error
    (other / "memoir_edge.json").write_text(json.dumps(sidecar | {"site": "elsewhere"}))
    assert "site" in fails(capsys, 3, "generate", other, "--prompt", "x", "--memory", done.memory)
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"prompt": "The capital of Spain is", "target": "Rome"}))
    error = fails(
        capsys, 3, "apply", more, "--model", model_dir(), "--k", 5,
        "--memory", done.memory, "--out", tmp_path / "m",
    )  # fmt: skip
    assert "k is 219, asked for is 5" in error
    assert done.memory.read_bytes() == data


def test_directories_that_are_no_exports(tmp_path: Path, capsys: Any) -> None:
    error = fails(capsys, 3, "generate", tmp_path, "--prompt", "x")
    assert "memoir_edge.json" in error
    assert "memoir-edge export" in error
    assert fails(capsys, 3, "verify", model_dir(), "--memory", "m")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("apply", "apply needs EDITS"),
        ("apply e.jsonl", "apply needs --model"),
        ("apply e.jsonl --modle DIR", "needs --model. Did you mean --model instead of --modle?"),
        ("apply e.jsonl --model", "--model needs a value"),
        ("apply e.jsonl --model DIR --out FILE --stepz 3", "--stepz. Did you mean --steps?"),
        ("apply e.jsonl --model DIR --out FILE --steps few", 'unable to convert "few" into int'),
        ("inspect FILE another", "inspect takes no further argument: another"),
        ("package floppy DIR", 'Choose from: "triton", "genai", "optimum", "web"'),
        ("aply", 'Unknown command "aply". Did you mean "apply"?'),
    ],
)  # fmt: skip
def test_arguments_that_are_none(capsys: Any, words: str, said: str) -> None:
    error = fails(capsys, 2, *words.split())
    assert said in error
    assert re.search(r"\nhint: memoir-edge( [a-z]+)? --help\n$", error)


def test_wrong_use(capsys: Any, tmp_path: Path) -> None:
    assert "give an export directory, or --model" in fails(
        capsys, 2, "eval", "--memory", "m", "--edits", _edits(tmp_path)
    )
    assert "cannot read memory" in fails(capsys, 2, "inspect", tmp_path / "absent")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from memoir_edge.errors import InputError

    with pytest.raises(InputError):
        main(["inspect", str(tmp_path / "absent"), "--debug"])


def _edits(folder: Path) -> Path:
    (folder / "edits.jsonl").write_text(GOOD)
    return folder / "edits.jsonl"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ports", "state"], "needs to know as what the route is carried"),
        (["--state", "cache"], "--state cache is for --ports state, not optional"),
        (["--ports", "required", "--state", "recurrent"], "for --ports state, not required"),
    ],
)
def test_ports_and_state_that_do_not_go_together(
    tmp_path: Path, capsys: Any, words: list[str], said: str
) -> None:
    out = tmp_path / "out"
    assert said in fails(capsys, 2, "export", "--model", model_dir(), "--out", out, *words)
    assert not out.exists()


SPOILED = [  # a file of a model's folder, how many of its bytes are left or what it says instead
    ("model.safetensors", 5000, "cannot load a language model from"),
    ("model.safetensors", 4, "cannot load a language model from"),
    ("tokenizer.json", 500, "cannot load the tokenizer of"),
    ("tokenizer.json", 0, "cannot load the tokenizer of"),
    ("tokenizer_config.json", 9, "cannot load the tokenizer of"),
    ("config.json", 9, "cannot be read as JSON"),
    ("generation_config.json", 9, "cannot"),
    ("chat_template.jinja", "{% if %}", "the chat template of model cannot be used"),
    ("chat_template.jinja", "{{ messages.x.y }}", "the chat template of model cannot be used"),
]


@pytest.mark.parametrize(("name", "left", "said"), SPOILED)
def test_a_model_with_a_spoiled_file_begins_nothing(
    tmp_path: Path, capsys: Any, name: str, left: int | str, said: str
) -> None:
    file = Path(shutil.copytree(model_dir(), tmp_path / "model")) / name
    file.write_bytes(left.encode() if isinstance(left, str) else file.read_bytes()[:left])
    out = tmp_path / "out"
    out.mkdir()
    words = ("apply", _edits(tmp_path), "--model", file.parent, "--out", out / "m", "--steps", 1)
    assert said in fails(capsys, 2, *words)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "apply --model= --out m", "apply --model M --out m --device=", "apply --model M --encoder=",
        "apply --model M --without=", "apply --model M --site=", "apply --model M --feature=",
        "delete kept ID --model=", "delete kept ID --encoder=", "delete kept ID --device=",
        "calibrate EDITS --model M --layers=", "export --model M --encoder=",
    ],
)  # fmt: skip
def test_an_option_that_is_given_and_empty_is_refused(
    done: Any, tmp_path: Path, capsys: Any, monkeypatch: Any, words: str
) -> None:
    """As of a variable of a shell that is not set: left out, it would mean something else."""
    monkeypatch.chdir(tmp_path)
    Path("kept").write_bytes(done.memory.read_bytes())
    path_of(Path("kept")).write_bytes(path_of(done.memory).read_bytes())
    names = {"M": model_dir(), "EDITS": _edits(tmp_path), "ID": done.applied["edits"][0]["id"]}
    given: list[object] = [names.get(word, word) for word in words.split()]
    if words.startswith("apply"):
        given.insert(1, names["EDITS"])
    if words.startswith(("apply", "export")) and "--out" not in words:
        given += ["--out", "m"]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert re.search(r"empty|''", fails(capsys, 2, *given))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


UNWRITABLE = Path("/proc")


@pytest.mark.skipif(not UNWRITABLE.is_dir(), reason="needs a folder that takes no file")
@pytest.mark.parametrize("of", ["a journal's copy", "a journal", "a receipt", "a report"])
def test_what_cannot_be_written_is_named(done: Any, tmp_path: Path, capsys: Any, of: str) -> None:
    kept = tmp_path / "m.safetensors"
    for path in (kept, path_of(kept)):
        path.write_bytes((path_of(done.memory) if path != kept else done.memory).read_bytes())
    more, model = _edits(tmp_path), ("--model", model_dir(), "--steps", 1)
    words: dict[str, tuple[object, ...]] = {
        "a journal's copy": ("apply", more, *model, "--memory", kept, "--out", UNWRITABLE / "x"),
        "a journal": ("apply", more, *model, "--out", UNWRITABLE / "x"),
        "a receipt": (
            "delete", kept, done.applied["edits"][0]["id"], "--no-replay",
            "--receipt", UNWRITABLE / "x",
        ),
        "a report": ("report", kept, "--out", UNWRITABLE / "x.html"),
    }  # fmt: skip
    assert str(UNWRITABLE) in fails(capsys, 2, *words[of])


@pytest.mark.parametrize("spoiled", ["a file in its place", "torn", "no object"])
def test_a_folder_of_an_evaluation_that_cannot_be_used(
    tmp_path: Path, capsys: Any, spoiled: str
) -> None:
    out = tmp_path / "out"
    if spoiled == "a file in its place":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "evaluation.json").write_text('{"base": ' if spoiled == "torn" else "[]")
    data = tmp_path / "zsre.json"
    data.write_text(json.dumps([{"src": "a b c", "alt": "d", "rephrase": "c", "loc": "e"}]))
    words = ("--data", data, "--model", model_dir(), "--sizes", 1, "--out", out)
    assert str(out) in fails(capsys, 2, "eval", "--dataset", "zsre", *words)
