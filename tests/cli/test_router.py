"""`export --encoder`, and what the commands say of a memory whose keys are codes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memoir_edge import memory as memories
from memoir_edge.cli import main
from memoir_edge.demo.facts import model_dir
from memoir_edge.memory import Codes, Router, by_codes
from memoir_edge.router.encoder import Encoder
from memoir_edge_runtime import Options, Session


@pytest.fixture(scope="module")
def routed(done: Any, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, exported with a router, at the site of the demo's memory."""
    out = tmp_path_factory.mktemp("routed") / "onnx"
    site = memories.read(done.memory).site
    words = ["export", "--model", str(model_dir()), "--out", str(out), "--site", site]
    assert main([*words, "--encoder", str(encoder_dir), "--encoder-dtype", "fp32", "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def coded(done: Any, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The memory of the demo's edits, its keys codes of their prompts, with a guard."""
    memory, encoder = memories.read(done.memory), Encoder(str(encoder_dir))
    rows = [entry.row for entry in memory.edits]
    texts = [str(entry.record["prompt"]) for entry in memory.edits if entry.record]
    texts.append("Who lives in Atlantis?")
    codes = Codes(
        router=Router(encoder.kind, encoder.digest, encoder.bits, encoder.weight),
        keys=encoder.codes(texts),
        owner=np.array([*range(len(rows)), -1], np.int32),
        thresholds=np.full(len(texts), 0.99, np.float32),
        texts=tuple(texts),
    )
    edits = tuple(entry._replace(row=i) for i, entry in enumerate(memory.edits))
    made = replace(memory, edits=edits, codes=codes, **by_codes(memory.bank[rows]))
    path = tmp_path_factory.mktemp("coded") / "m.safetensors"
    memories.write(made, path)
    return path


def test_export_says_which_router_it_wrote(routed: Path, encoder_dir: Path) -> None:
    router = json.loads((routed / "memoir_edge.json").read_text())["router"]
    assert router == {
        "kind": "encoder", "digest": Encoder(str(encoder_dir)).digest, "bits": 1024,
        "weight": 512, "max_tokens": 24,
    }  # fmt: skip


def test_every_edit_holds_on_the_export(routed: Path, coded: Path, run_json: Any) -> None:
    code, said = run_json("verify", routed, "--memory", coded)
    assert (code, said["failed"], said["checked"]) == (0, [], 3)


def test_generate_says_what_decided(
    routed: Path, coded: Path, run_json: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = memories.read(coded).codes.texts  # type: ignore[union-attr]
    words = ("generate", routed, "--memory", coded, "--max-new-tokens", 4, "--prompt")
    _, fired = run_json(*words, asked[0])
    assert (fired["key"], fired["guard"], fired["cut"]) == (asked[0], False, False)
    assert fired["edit"] == memories.read(coded).edits[0].id
    _, guarded = run_json(*words, asked[-1])
    assert (guarded["edit"], guarded["guard"], guarded["key"]) == (None, True, asked[-1])
    assert main([*map(str, words), asked[-1]]) == 0
    assert f"with guard {asked[-1]!r}" in "".join(capsys.readouterr())
    assert main([*map(str, words), "x " * 40]) == 0
    assert "its last part decided" in "".join(capsys.readouterr())


def test_a_memory_whose_keys_are_codes_needs_a_router(
    done: Any, coded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", str(done.graph), "--memory", str(coded), "--prompt", "a"]
    assert main(words) == 3
    said = capsys.readouterr().err
    assert "the export has no router" in said
    assert "--encoder" in said


def test_an_encoder_without_a_tokenizer_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, out = tmp_path / "empty", tmp_path / "onnx"
    empty.mkdir()
    words = ["export", "--model", str(model_dir()), "--out", str(out), "--encoder", str(empty)]
    assert main(words) == 2
    assert "holds no tokenizer" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["empty"]


def test_triton_refuses_a_memory_whose_keys_are_codes(
    routed: Path, coded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["package", "triton", str(routed), "--out", str(tmp_path / "repository")]
    assert main([*words, "--memory", str(coded)]) == 2
    assert "which Triton does not run" in capsys.readouterr().err
    assert not (tmp_path / "repository").exists()


def test_a_package_for_genai_brings_the_router_and_its_keys(
    routed: Path, coded: Path, tmp_path: Path
) -> None:
    out = tmp_path / "package"
    words = ["package", "genai", str(routed), "--out", str(out), "--memory", str(coded), "--quiet"]
    assert main(words) == 0
    assert (out / coded.name).read_bytes() == coded.read_bytes()
    assert (out / "router" / "route.onnx").is_file()
    code = (out / "README.md").read_text().split("```python")[1].split("```")[0]
    for line in (f'memory.read(Path("{coded.name}"))', 'set_model_input("memory.route"'):
        assert line in code
    session = Session(out, memory=coded, threads=1)
    [asked] = session.generate("The capital of France is", Options(8))
    decided = session.generation.decide(["The capital of France is"])
    assert decided is not None
    assert decided.routes.route[0] > 0
    assert asked.fired == "france-capital"
