"""Graphs opened on the device that is there."""

from pathlib import Path

import onnx
import pytest

from memoir_edge.errors import GraphError, InputError
from memoir_edge_runtime import Masks, Options, Result, Session, _provider
from memoir_edge_runtime._provider import CPU, CUDA, open_graph


def test_a_graph_that_cannot_be_loaded(spoiled):
    (spoiled / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(GraphError, match=r"model\.onnx cannot be loaded"):
        Session(spoiled)


@pytest.mark.parametrize("package", [False, True])
def test_a_folder_without_its_graph(spoiled, make_memory, prompts, package):
    """A package for another host is not to be replaced by an export at its place."""
    (spoiled / "model.onnx").unlink()
    if package:
        (spoiled / "onnx").mkdir()
    for use in (Session, lambda folder: Masks(folder, make_memory(prompts[:1]))):
        with pytest.raises(GraphError, match=r"it holds no model\.onnx") as raised:
            use(spoiled)
        assert ("give the export that it was made of" in str(raised.value.hint)) == package


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


@pytest.mark.parametrize(("broken", "warned"), [(set(), 0), ({CUDA}, 1), ({CUDA, CPU}, 0)])
def test_where_cuda_fails_the_cpu_serves_and_it_is_told(monkeypatch, caplog, broken, warned):
    """It is there and may fail: what cannot be loaded anywhere is an error alone."""

    def start(path, options, providers):
        if providers[0] in broken:
            raise RuntimeError(f"{providers[0]} has failed\nand more")
        return providers

    monkeypatch.setattr(_provider.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(_provider.onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(_provider.onnxruntime, "InferenceSession", start)
    if CPU in broken:
        with pytest.raises(GraphError, match=f"{CPU} has failed"):
            open_graph(Path("model.onnx"), None, None)
    else:
        assert open_graph(Path("model.onnx"), None, None)[0] == (CPU if broken else CUDA)
    said = "without CUDA, on the CPU: model.onnx cannot be loaded: CUDAExecutionProvider has failed"
    assert [record.getMessage() for record in caplog.records] == [said] * warned


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
