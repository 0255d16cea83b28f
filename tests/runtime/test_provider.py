"""Graphs opened on the device that is there."""

import onnx
import pytest

from memoir_edge.errors import GraphError, InputError
from memoir_edge_runtime import Options, Result, Session
from memoir_edge_runtime._provider import open_graph


def test_a_graph_that_cannot_be_loaded(spoiled):
    (spoiled / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(GraphError, match=r"model\.onnx cannot be loaded"):
        Session(spoiled)


def test_providers_and_sizes(export_dir):
    with pytest.raises(InputError, match=r"no provider Absent.*CPUExecutionProvider"):
        Session(export_dir, providers=["Absent"])
    with pytest.raises(InputError, match="max_batch is 0"):
        Session(export_dir, max_batch=0)
    with pytest.raises(InputError, match=r"no provider Absent;"):
        Session(export_dir, providers="Absent")
    assert Session(export_dir, providers="CPUExecutionProvider").decoder.device == "cpu"
    session = Session(str(export_dir), providers=["CPUExecutionProvider"], threads=1)
    assert session.decoder.device == "cpu"
    assert isinstance(session.generate("a", Options(max_new_tokens=1))[0], Result)


def test_a_value_inside_a_graph_becomes_an_output(export_dir, tmp_path):
    onnx.save(
        onnx.load(export_dir / "model.onnx"), tmp_path / "model.onnx",
        save_as_external_data=True, location="weights",
    )  # fmt: skip
    for folder in (export_dir, tmp_path):
        graph = open_graph(folder / "model.onnx", ["CPUExecutionProvider"], 1, shown="memory/a")
        assert [output.name for output in graph.get_outputs()][-1] == "memory/a"
    with pytest.raises(GraphError, match="cannot be loaded"):
        open_graph(export_dir / "model.onnx", None, 1, shown="nowhere")
