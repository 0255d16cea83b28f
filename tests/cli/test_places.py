"""What a command writes never replaces what it reads, nor what a model is loaded from."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from memoir_edge.cli import main
from memoir_edge.cli.places import check_apart, check_file
from memoir_edge.demo.facts import model_dir
from memoir_edge.errors import InputError
from memoir_edge.history import path_of


@pytest.fixture
def kept(done: Any, tmp_path: Path) -> Path:
    """A memory with its journal, by a name that a report may have, and its edits."""
    out = tmp_path / "m.md"
    shutil.copy(done.memory, out)
    shutil.copy(path_of(done.memory), path_of(out))
    shutil.copy(done.edits, tmp_path / "e.md")
    return out


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        "adapter m.md --out m.md",
        "adapter m.md --out m.md.journal",
        "adapter m.onnx_adapter",
        "delete m.md ID --no-replay --receipt m.md",
        "delete m.md ID --no-replay --receipt m.md.journal",
        "delete m.md ID --no-replay --receipt none/receipt.json",
        "delete m.md ID --no-replay --receipt .",
        "report m.md --out m.md",
        "report m.md --out ./x/../m.md",
        "report m.md --out hard.md",
        "report m.md --compare other.md --out other.md",
        "report m.md --graph GRAPH --edits e.md --out e.md",
        "eval GRAPH --memory m.md --edits e.md --html m.md",
        "eval GRAPH --memory m.md --edits e.md --html e.md",
        "apply e.md --model MODEL --out e.md",
        "calibrate e.md --model MODEL --out e.md.journal",
        "calibrate GRAPH --memory other.md --out other.md.journal",
        "studio --model MODEL --edits new --out new",
        "studio --model MODEL --edits new.journal --out new",
        "export --onnx x --out x",
        "package optimum x --memory m.md --out x",
        "package web GRAPH --also x --out x",
    ],
)
def test_nothing_that_is_read_is_written_over(
    done: Any, kept: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    folder = kept.parent
    monkeypatch.chdir(folder)
    for name in ("other.md", "m.onnx_adapter", "x/in", "x/memoir_edge.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(kept, name)
    os.link(kept, "hard.md")
    before = content(folder)
    names = {"GRAPH": done.graph, "MODEL": model_dir(), "ID": done.applied["edits"][0]["id"]}
    assert main([str(names.get(word, word)) for word in words.split()]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert content(folder) == before


def test_a_place_beside_them_is_good(tmp_path: Path) -> None:
    memory = tmp_path / "m"
    memory.touch()
    (tmp_path / "in").touch()
    check_file(tmp_path / "new", memory, None)
    check_file(tmp_path / "in", memory)  # that is replaced
    check_apart(tmp_path / "none" / "new", memory)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "part.safetensors"])
@pytest.mark.parametrize(
    "words",
    [
        ["apply", "e.md", "--model", model_dir(), "--out"],
        ["calibrate", "e.md", "--model", model_dir(), "--out"],
        ["adapter", "m.md", "--out"],
        ["delete", "m.md", "ID", "--no-replay", "--receipt"],
    ],
)
def test_no_model_is_loaded_from_what_was_written(
    kept: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: list[object], name: str
) -> None:
    """Where a model is in shards, a file by the name of a whole one would take their place."""
    monkeypatch.chdir(kept.parent)
    model = kept.parent / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    index = {"weight_map": {"a": "part.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    before = content(kept.parent)
    assert main([*map(str, words), str(model / name)]) == 2
    assert "the model in that folder would be loaded from it" in capsys.readouterr().err
    assert content(kept.parent) == before
    with pytest.raises(InputError, match="would be loaded"):
        check_file(model / name)
    check_file(model / "facts.safetensors")
    check_file(kept.parent / name)  # no model's folder


@pytest.mark.parametrize(
    "name",
    ["model.onnx", "memoir_edge.json", "tokenizer.json", "onnx/model_q4.onnx", "m.onnx_data"],
)
@pytest.mark.parametrize(
    "words",
    [
        ["apply", "e.md", "--model", model_dir(), "--out"],
        ["adapter", "m.md", "--out"],
        ["adapter", "m.md", "--graph", "graph", "--out"],
        ["delete", "m.md", "ID", "--no-replay", "--receipt"],
        ["studio", "--model", model_dir(), "--edits"],
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_no_part_of_an_export_or_a_package_is_written_over(
    done: Any,
    kept: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
    name: str,
) -> None:
    monkeypatch.chdir(kept.parent)
    graph = shutil.copytree(done.graph, kept.parent / "graph")
    (graph / "onnx").mkdir()
    for extra in ("onnx/model_q4.onnx", "m.onnx_data"):
        (graph / extra).write_bytes(b"weights")
    (kept.parent / "link").symlink_to(graph / name)
    before = content(kept.parent)
    for out in (graph / name, kept.parent / "link"):
        assert main([*map(str, words), str(out)]) == 2
        assert "the model in that folder would be loaded from it" in capsys.readouterr().err
        assert content(kept.parent) == before


def test_a_receipt_that_cannot_be_written_is_said(
    done: Any, kept: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    id = done.applied["edits"][0]["id"]
    assert main(["delete", str(kept), id, "--no-replay"]) == 2
    said = capsys.readouterr().err
    assert "the edits are deleted, but the receipt" in said
    assert "No space left" in said
