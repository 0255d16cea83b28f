"""Models that are traced without their weights, and the weights that come into the graph later."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.external_data_helper import uses_external_data

from memoir_edge_exporter._base_graph import OPSET, quiet
from memoir_edge_exporter._trace import put_weights, weightless

IDS = np.arange(2, 11)[None]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_graph_is_the_one_that_optimum_makes_with_weights(
    request, name: str, tmp_path: Path, Graph
) -> None:
    from optimum.exporters.onnx import main_export

    made = request.getfixturevalue(name)
    with quiet():
        main_export(
            str(made.model), output=tmp_path, task="text-generation-with-past", opset=OPSET,
            device="cpu", do_validation=False, local_files_only=True,
        )  # fmt: skip
    ours, theirs = Graph(made.base), Graph(tmp_path)
    assert ours.names == theirs.names
    found, wanted = (graph.run(IDS, np.ones_like(IDS)) for graph in (ours, theirs))
    for output in ours.names:
        np.testing.assert_array_equal(found[output], wanted[output])
    kinds = [
        sorted(n.op_type for n in onnx.load(folder / "model.onnx").graph.node if n.op_type in HEAVY)
        for folder in (made.base, tmp_path)
    ]
    assert kinds[0] == kinds[1]


HEAVY = {"MatMul", "Gemm", "Transpose", "Gather"}


class Tied(torch.nn.Module):
    """Two products with one weight, and one with another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = (torch.nn.Linear(4, 4, bias=False) for _ in range(3))
        self.again.weight = self.first.weight

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.last(self.again(self.first(x)) - y)


@pytest.fixture
def traced(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor], Tied]:
    model, path = Tied(), tmp_path / "model.onnx"
    x, y = torch.ones(1, 4), torch.zeros(1, 4)
    with weightless() as weights, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, ({"y": y, "x": x},), f=str(path), input_names=["x", "y"],
            output_names=["z"], opset_version=OPSET, dynamo=False,
        )  # type: ignore[arg-type]  # fmt: skip
    return path, weights, model


def test_a_traced_graph_holds_no_weights(traced) -> None:
    path, weights, _ = traced
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["x", "y", "first.weight", "last.weight"]
    assert not graph.initializer
    assert list(weights) == ["first.weight", "last.weight"]
    assert weights["last.weight"].untyped_storage().nbytes() == 4 * 4 * 4  # no stand-in


@pytest.mark.parametrize("inside", [0, 1 << 20])
def test_weights_come_into_the_graph_or_beside_it(traced, inside: int) -> None:
    path, weights, _ = traced
    large = {name: weight.repeat(20, 20) for name, weight in weights.items()}
    put_weights(path, large, inside)
    found = onnx.load(path, load_external_data=False).graph
    assert [value.name for value in found.input] == ["x", "y"]
    assert [weight.name for weight in found.initializer] == ["first.weight.T", "last.weight.T"]
    assert all(uses_external_data(weight) == (inside == 0) for weight in found.initializer)
    places = {e.value for w in found.initializer for e in w.external_data if e.key == "offset"}
    assert places == ({"0", "28672"} if inside == 0 else set())  # each begins a page
    whole = onnx.load(path).graph.initializer
    for weight, tensor in zip(large.values(), whole, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), weight.numpy().T)


def test_what_the_graph_computes_is_what_the_model_does(traced) -> None:
    path, weights, _ = traced
    put_weights(path, weights)
    x, y = np.arange(4, dtype=np.float32)[None], np.ones((1, 4), np.float32)
    first, last = (weight.numpy() for weight in weights.values())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [z] = session.run(None, {"x": x, "y": y})
    np.testing.assert_allclose(z, (x @ first.T @ first.T - y) @ last.T, rtol=1e-5)


def test_a_weight_that_is_read_in_two_ways_stays_as_it_is(tmp_path: Path) -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (int64[2] ids, bool yes, float[5, 3] table, float[3, 3] inner, float[2, 2] unread)
            => (float[2, 5] head, float[3, 3] chosen)
        {
            rows = Gather(table, ids)
            turned = Transpose <perm = [1, 0]> (table)
            head = MatMul(rows, turned)
            chosen = If (yes) <
                then_branch = a () => (float[3, 3] x) { x = Transpose <perm = [1, 0]> (inner) },
                else_branch = b () => (float[3, 3] y) { y = Identity(inner) }
            >
        }
    """)
    path = tmp_path / "model.onnx"
    onnx.save(graph, path)
    weights = {"table": torch.rand(5, 3), "inner": torch.rand(3, 3), "unread": torch.rand(2, 2)}
    put_weights(path, weights)
    found = onnx.load(path).graph
    assert [weight.name for weight in found.initializer] == ["table", "inner"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids, table = np.array([4, 1]), weights["table"].numpy()
    head, chosen = session.run(None, {"ids": ids, "yes": np.array(True)})
    np.testing.assert_allclose(head, table[ids] @ table.T, rtol=1e-5)
    np.testing.assert_array_equal(chosen, weights["inner"].numpy().T)
