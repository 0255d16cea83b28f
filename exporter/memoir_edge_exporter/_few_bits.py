"""A decoder's weights in 8 or 4 bits, by ONNX Runtime's own quantizer.

Rules:
1. Products with a constant weight become `MatMulNBits`: blocks of 32 weights share a scale, and the
   other side is rounded row by row, so a row does not depend on its batch mates. They are made one
   at a time: a message with all weights in it frees none of them until it is gone.
2. A head that is tied to the embedding becomes a weight of its own first, because the quantizer
   takes constants alone. The embedding then reads its rows from the head's few bits.
3. Other embeddings, and biases and norms, stay as they are.
"""

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, helper, numpy_helper

BLOCK = 32
_INT8_PRODUCTS = 4  # MatMulNBits' accuracy_level: what is multiplied is rounded to 8 bits, too


def quantize(model: onnx.ModelProto, bits: int, folder: Path | None = None) -> onnx.ModelProto:
    """Round the weights of a decoder in float32, in place.

    Args:
        model: No ports yet.
        bits: Of a weight: 8 or 4.
        folder: Where weights lie that are not in the model. One is read at a time; what stays as it
            is stays there.
    """
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    heads = _tied(graph)
    rewritten, rounded = onnx.GraphProto(), set[str]()
    for node in graph.node:
        name = node.input[1] if node.op_type in ("MatMul", "Gemm") else ""
        weight = weights.get(heads.get(name, name))
        product = _rounded(model, node, weight, folder, bits) if weight is not None else None
        if product is not None:
            rewritten.node.extend(product.node)
            if name not in rounded:
                rewritten.initializer.extend(product.initializer)
            rounded.add(name)
        elif node.op_type != "Transpose" or node.output[0] not in heads:
            rewritten.node.append(node)
    graph.ClearField("node")
    graph.node.extend(rewritten.node)
    read = {name for node in graph.node for name in node.input}
    for name in rounded & weights.keys() - read:
        graph.initializer.remove(weights[name])
    graph.initializer.extend(rewritten.initializer)
    if not any(opset.domain == "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for head, table in heads.items():
        _share(graph, table, f"{head}_Q{bits}", bits)
    return model


def _tied(graph: onnx.GraphProto) -> dict[str, str]:
    """Tables by the heads that are their transposes and nothing but products read."""
    tables = {weight.name for weight in graph.initializer if len(weight.dims) == 2}
    heads = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in tables
    }
    others = {
        name
        for node in graph.node
        for i, name in enumerate(node.input)
        if (node.op_type, i) != ("MatMul", 1)
    }
    return {head: table for head, table in heads.items() if head not in others}


def _constant(weight: onnx.TensorProto, folder: Path | None, name: str) -> onnx.TensorProto:
    """A weight with its values; a tied head's, which has a name of its own, transposed."""
    if external_data_helper.uses_external_data(weight):
        beside, weight = weight, onnx.TensorProto()
        weight.CopyFrom(beside)
        external_data_helper.load_external_data_for_tensor(weight, str(folder or ""))
    if weight.name == name:
        return weight
    return numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weight).T), name)


def _rounded(
    model: onnx.ModelProto, node: onnx.NodeProto, weight: onnx.TensorProto, folder: Path | None,
    bits: int,
) -> onnx.GraphProto | None:  # fmt: skip
    """What takes the place of a product with a constant: nodes, and constants in few bits.

    None where the quantizer leaves it.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    alone = helper.make_model(
        helper.make_graph(
            [node], "product", [], [], [_constant(weight, folder, node.input[1])]
        ),
        opset_imports=model.opset_import, ir_version=model.ir_version,
    )  # fmt: skip
    ONNXModel(alone).replace_gemm_with_matmul()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it tells of every node
    try:
        MatMulNBitsQuantizer(
            alone, bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=_INT8_PRODUCTS
        ).process()
    finally:
        logging.disable(before)
    few = any(each.op_type == "MatMulNBits" for each in alone.graph.node)
    return alone.graph if few else None


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
