"""Graphs opened on the device that is there."""

import pytest

from memoir_edge.errors import GraphError, InputError
from memoir_edge_runtime import Options, Result, Session


def test_a_graph_that_cannot_be_loaded(spoiled):
    (spoiled / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(GraphError, match=r"model\.onnx cannot be loaded"):
        Session(spoiled)


def test_providers_and_sizes(export_dir):
    with pytest.raises(InputError, match=r"no provider Absent.*CPUExecutionProvider"):
        Session(export_dir, providers=["Absent"])
    with pytest.raises(InputError, match="max_batch is 0"):
        Session(export_dir, max_batch=0)
    session = Session(str(export_dir), providers=["CPUExecutionProvider"], threads=1)
    assert session.decoder.device == "cpu"
    assert isinstance(session.generate("a", Options(max_new_tokens=1))[0], Result)
