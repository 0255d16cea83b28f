"""A transformers folder as a graph, where optimum-onnx is there."""

import sys
from pathlib import Path

from memoir_edge.errors import InputError, install
from memoir_edge_exporter import export


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
    assert "--onnx DIR" in str(error.hint)
