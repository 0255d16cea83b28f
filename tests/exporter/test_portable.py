"""What WebAssembly lacks, in standard operators: the same numbers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from memoir_edge_exporter._portable import portable

V, WIDTH, BLOCK = 10, 64, 32


def reading(bits: int, *, zeros: bool = False) -> onnx.ModelProto:
    """A graph that reads rows of a table in few bits."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.integers(0, 256, (V, WIDTH * bits // 8), dtype=np.uint8),
        "scales": rng.normal(size=(V, WIDTH // BLOCK)).astype(np.float32),
    }
    if zeros:
        weights["zeros"] = np.full((V, WIDTH // BLOCK * bits // 8), 7, np.uint8)
    node = helper.make_node(
        "GatherBlockQuantized", ["table", "ids", "scales", *(["zeros"] if zeros else [])], ["rows"],
        name="/embed/Gather", domain="com.microsoft",
        bits=bits, block_size=BLOCK, gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "reading",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "T"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["B", "T", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_are_those_of_the_operator(open_graph, bits: int) -> None:
    ids = {"ids": np.array([[0, 3, 9], [1, 1, 5]])}
    [expected] = open_graph(reading(bits)).run(None, ids)
    plain = portable(reading(bits))
    assert {node.domain for node in plain.graph.node} == {""}
    onnx.checker.check_model(plain, full_check=True)
    [found] = open_graph(plain).run(None, ids)
    assert np.abs(expected).max() > 1
    np.testing.assert_array_equal(found, expected)


def test_a_table_with_zero_points_stays_as_it_is() -> None:
    model = reading(4, zeros=True)
    assert portable(model).graph.node[0].op_type == "GatherBlockQuantized"
