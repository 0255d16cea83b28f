"""A decoder's weights in 8 or 4 bits, by ONNX Runtime's own quantizer.

Rules:
1. Products with a constant weight become `MatMulNBits`: blocks of 32 weights share a scale, and the
   other side is rounded row by row, so a row does not depend on its batch mates.
2. A head that is tied to the embedding becomes a weight of its own first, because the quantizer
   takes constants alone. The embedding then reads its rows from the head's few bits.
3. Other embeddings, and biases and norms, stay as they are.
"""

import logging

import numpy as np
import onnx
from onnx import helper, numpy_helper

BLOCK = 32
_INT8_PRODUCTS = 4  # MatMulNBits' accuracy_level: what is multiplied is rounded to 8 bits, too


def quantize(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """Round the weights of a decoder in float32, in place.

    Args:
        model: Its weights inside, no ports yet.
        bits: Of a weight: 8 or 4.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    ONNXModel(model).replace_gemm_with_matmul()
    tables = _untie(model.graph)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it tells of every node
    try:
        MatMulNBitsQuantizer(
            model, bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=_INT8_PRODUCTS
        ).process()
    finally:
        logging.disable(before)
    for table, head in tables.items():
        _share(model.graph, table, f"{head}_Q{bits}", bits)
    return model


def _untie(graph: onnx.GraphProto) -> dict[str, str]:
    """Give each head that is a transposed table a weight of its own: names of heads by table."""
    weights = {weight.name: weight for weight in graph.initializer}
    tables: dict[str, str] = {}
    for node in [node for node in graph.node if node.op_type == "Transpose"]:
        table, head = node.input[0], node.output[0]
        if table in weights and len(weights[table].dims) == 2:
            W = numpy_helper.to_array(weights[table])
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(W.T), head))
            graph.node.remove(node)
            tables[table] = head
    return tables


def _share(graph: onnx.GraphProto, table: str, head: str, bits: int) -> None:
    """Let what reads rows of a table read them from a head in few bits, and drop the table."""
    weights = {weight.name: weight for weight in graph.initializer}
    product = next((n for n in graph.node if head in n.input), None)
    V, width = weights[table].dims
    if product is None or width % BLOCK:  # packed rows would not be those of the table
        return
    shape = numpy_helper.from_array(np.array([V, width * bits // 8]), f"{table}/shape")
    graph.initializer.append(shape)
    rows = f"{table}/rows"
    places = [i for i, n in enumerate(graph.node) if n.op_type == "Gather" and n.input[0] == table]
    for i in places:
        node = graph.node[i]
        gather = helper.make_node(
            "GatherBlockQuantized", [rows, node.input[1], product.input[2]], node.output,
            name=node.name, domain="com.microsoft",
            bits=bits, block_size=BLOCK, gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        node.CopyFrom(gather)
    graph.node.insert(0, helper.make_node("Reshape", [head, shape.name], [rows], name=f"/{rows}"))
    if not any(table in node.input for node in graph.node):
        graph.initializer.remove(weights[table])
