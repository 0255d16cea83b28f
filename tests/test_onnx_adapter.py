"""A memory as ONNX Runtime's adapter file; tests/cli/test_adapter.py runs a graph with one."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from memoir_edge import onnx_adapter, ports, tophash
from memoir_edge.errors import InputError
from memoir_edge.memory import Base, Entry, Memory, from_dense


@pytest.fixture
def memory() -> Memory:
    return from_dense(
        np.arange(30, dtype=np.float32).reshape(3, 10),
        bank=tophash.pack(np.arange(10)[None] < 4),
        site="layer",
        feature="last",
        k=4,
        base=Base("tiny"),
        owner=np.zeros(1, np.int32),
        thresholds=np.full(1, 0.5, np.float32),
        center=np.zeros(10, np.float32),
        scale=np.ones(10, np.float32),
        permutation=np.arange(10, dtype=np.int32)[::-1],  # not contiguous
        edits=(Entry("a", 0),),
    )


def test_it_holds_what_the_ports_are_fed(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "new" / "facts.onnx_adapter"
    for _ in range(2):  # the second replaces the first
        onnx_adapter.write(memory, path)
        held = onnxruntime.AdapterFormat.read_adapter(str(path)).get_parameters()
        assert held.keys() == ports.MEMORY.keys()
        for name, array in ports.feeds(memory).items():
            np.testing.assert_array_equal(held[name].numpy(), array, strict=True)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_leaves_nothing(memory: Memory, tmp_path: Path) -> None:
    (tmp_path / "facts.onnx_adapter").mkdir()
    with pytest.raises(InputError, match="cannot write adapter"):
        onnx_adapter.write(memory, tmp_path / "facts.onnx_adapter")
    assert [each.name for each in tmp_path.iterdir()] == ["facts.onnx_adapter"]
