"""Weights in few bits: what becomes of the products, of a tied head and of the embedding."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from memoir_edge_exporter import export
from memoir_edge_exporter._few_bits import quantize

V, D = 50, 64
rng = np.random.default_rng(0)
IDS = rng.integers(0, V, (2, 7))


def tied(width: int = D) -> onnx.ModelProto:
    """An embedding, one layer, and the embedding again as the head."""
    weights = {
        "embed": rng.normal(size=(V, width)).astype(np.float32),
        "layer": rng.normal(size=(width, width)).astype(np.float32) / 8,
    }
    nodes = [
        helper.make_node("Gather", ["embed", "input_ids"], ["x"], name="/embed/Gather"),
        helper.make_node("MatMul", ["x", "layer"], ["y"], name="/layer/MatMul"),
        helper.make_node("Transpose", ["embed"], ["head"], perm=[1, 0], name="/Transpose"),
        helper.make_node("MatMul", ["y", "head"], ["logits"], name="/lm_head/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "T"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "T", V])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.mark.parametrize(("bits", "error"), [(8, 0.03), (4, 0.3)])
def test_a_tied_head_and_its_embedding_share_few_bits(open_graph, bits: int, error: float) -> None:
    model = tied()
    few = quantize(copied(model), bits)
    assert Counter(node.op_type for node in few.graph.node) == {
        "MatMulNBits": 2, "GatherBlockQuantized": 1, "Reshape": 1,
    }  # fmt: skip
    size = sum(len(w.raw_data) for w in few.graph.initializer)
    assert size < sum(len(w.raw_data) for w in model.graph.initializer) * (bits + 2) / 32
    sessions = [open_graph(each) for each in (model, few)]
    plain, rounded = (session.run(None, {"input_ids": IDS})[0] for session in sessions)
    assert np.abs(rounded - plain).mean() < error * np.abs(plain).mean()
    for row, together in zip(IDS, rounded, strict=True):
        [alone] = sessions[1].run(None, {"input_ids": row[None]})
        np.testing.assert_array_equal(alone[0], together)


def test_an_embedding_whose_rows_do_not_fill_blocks_stays(open_graph) -> None:
    model = tied(width=40)
    few = quantize(copied(model), 4)
    assert Counter(node.op_type for node in few.graph.node) == {"MatMulNBits": 2, "Gather": 1}
    plain, rounded = (open_graph(m).run(None, {"input_ids": IDS})[0] for m in (model, few))
    assert np.abs(rounded - plain).mean() < 0.3 * np.abs(plain).mean()


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_beside_the_graph_become_the_same(tmp_path: Path, bits: int) -> None:
    """They are read one at a time, and what stays as it is stays there."""
    model = tied(width=40)
    onnx.save(copied(model), tmp_path / "model.onnx", save_as_external_data=True, location="data",
              size_threshold=0)  # fmt: skip
    outside = quantize(onnx.load(tmp_path / "model.onnx", load_external_data=False), bits, tmp_path)
    [embed] = [w for w in outside.graph.initializer if external_data_helper.uses_external_data(w)]
    assert embed.name == "embed"
    external_data_helper.load_external_data_for_model(outside, str(tmp_path))
    inside = quantize(model, bits)
    assert list(outside.graph.node) == list(inside.graph.node)
    found, expected = (
        {w.name: numpy_helper.to_array(w) for w in each.graph.initializer}
        for each in (outside, inside)
    )
    np.testing.assert_equal(found, expected)


def test_a_head_that_something_else_reads_stays(open_graph) -> None:
    model = tied()
    model.graph.node.append(helper.make_node("ReduceSum", ["head"], ["sum"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, []))
    few = quantize(copied(model), 4)
    assert Counter(node.op_type for node in few.graph.node) == {
        "Gather": 1, "MatMulNBits": 1, "Transpose": 1, "MatMul": 1, "ReduceSum": 1,
    }  # fmt: skip
    plain, rounded = (open_graph(m).run(None, {"input_ids": IDS})[1] for m in (model, few))
    np.testing.assert_array_equal(rounded, plain)


def test_what_the_quantizer_leaves_stays_as_it_is(open_graph) -> None:
    """Such as a product that is scaled."""
    model = tied()
    model.graph.node[1].CopyFrom(
        helper.make_node("Gemm", ["flat", "layer"], ["product"], alpha=0.5, name="/layer/Gemm")
    )
    shapes = {"rows": [-1, D], "texts": [2, -1, D]}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    model.graph.node.insert(1, helper.make_node("Reshape", ["x", "rows"], ["flat"]))
    model.graph.node.insert(3, helper.make_node("Reshape", ["product", "texts"], ["y"]))
    few = quantize(copied(model), 4)
    names = [weight.name for weight in few.graph.initializer]
    assert len(names) == len(set(names))
    assert Counter(node.op_type for node in few.graph.node)["Gemm"] == 1
    plain, rounded = (open_graph(m).run(None, {"input_ids": IDS})[0] for m in (model, few))
    assert np.abs(rounded - plain).mean() < 0.3 * np.abs(plain).mean()


def test_gpt2s_products_are_rounded_too(gpt2) -> None:
    few = quantize(onnx.load(gpt2.base / "model.onnx"), 4)
    operators = Counter(node.op_type for node in few.graph.node)
    assert not operators["Gemm"]
    assert operators["MatMulNBits"] == 2 * 4 + 1


def test_an_export_in_few_bits_says_so(llama, tmp_path: Path) -> None:
    made = export(model=llama.model, out=tmp_path / "out", dtype="int4")
    assert (made.weights, made.sidecar.dtype) == ("int4", "fp32")
    assert made.sidecar.padding_side == "left"
    assert llama.exported.weights == "fp32"
    assert made.bytes < 0.8 * llama.exported.bytes
