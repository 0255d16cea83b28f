"""A transformers folder as a graph, where optimum-onnx is there."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from transformers.utils import logging as progress

from memoir_edge.base import read_config
from memoir_edge.errors import InputError, install
from memoir_edge_exporter import export
from memoir_edge_exporter._base_graph import base_graph


def test_optimum_is_not_installed(llama, tmp_path: Path, monkeypatch, refused) -> None:
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    error = refused(tmp_path, InputError, "needs optimum-onnx", model=llama.model)
    assert str(error.hint).startswith(install("export"))


def test_a_graph_needs_no_optimum(llama, tmp_path: Path, monkeypatch) -> None:
    for name in ("optimum.exporters.onnx", "torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    assert export(onnx_dir=llama.base, out=tmp_path / "out").sidecar.D == 50


def test_what_optimum_cannot_export_is_one_line(gpt2, tmp_path: Path, refused) -> None:
    error = refused(
        tmp_path, InputError, "cannot export .* as fp16", model=gpt2.model, dtype="fp16"
    )
    assert "\n" not in str(error)
    assert "ONNXRuntimeError" not in str(error)
    assert "export it in fp32" in str(error.hint)
    assert "--onnx DIR" in str(error.hint)


@pytest.fixture
def bars() -> Iterator[None]:
    """transformers shows them, whatever this process has told it before."""
    shown = progress.is_progress_bar_enabled()
    progress.enable_progress_bar()
    yield
    if not shown:
        progress.disable_progress_bar()


@pytest.mark.usefixtures("bars")
def test_a_model_in_parts_is_read_without_a_bar_of_its_own(llama, tmp_path: Path, capfd) -> None:
    """Progress is the command's to show."""
    parts = tmp_path / "parts"
    shutil.copytree(llama.model, parts, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(llama.model).save_pretrained(parts, max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    capfd.readouterr()
    made = export(model=parts, out=tmp_path / "out")
    assert capfd.readouterr().err == ""
    assert made.sidecar.digest == llama.exported.sidecar.digest
    assert progress.is_progress_bar_enabled()


def test_positions_are_those_of_the_model_whichever_transformers_saved_it(
    llama, tmp_path: Path
) -> None:
    old = {"rope_theta": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    new = {"rope_theta": 100.0, "rope_type": "linear", "factor": 2.0}
    rest = {name: said for name, said in read_config(llama.model).items() if "rope" not in name}
    graphs = [(llama.base / "model.onnx").read_bytes()]
    for name, said in (("old", old), ("new", {"rope_parameters": new})):
        model = Path(shutil.copytree(llama.model, tmp_path / name))
        (model / "config.json").write_text(json.dumps(rest | said), encoding="utf-8")
        base_graph(model, tmp_path / f"{name}-graph", "fp32")
        graphs.append((tmp_path / f"{name}-graph/model.onnx").read_bytes())
    assert graphs[0] != graphs[1] == graphs[2]
