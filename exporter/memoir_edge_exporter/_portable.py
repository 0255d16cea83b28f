"""Operators that ONNX Runtime has no kernel for in WebAssembly, in standard ones.

`GatherBlockQuantized` reads rows of a table in few bits: the embedding of a quantized graph. In
standard operators the rows are gathered packed, unpacked, and multiplied by their blocks' scales.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def portable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace such operators in place, where rows are read of a table that was rounded evenly.

    What is read otherwise (zero points of its own, another axis) stays as it is.
    """
    nodes = model.graph.node
    for node in [node for node in nodes if node.op_type == "GatherBlockQuantized"]:
        told = {each.name: each.i for each in node.attribute}
        if len(node.input) == 3 and (told.get("gather_axis"), told.get("quantize_axis")) == (0, 1):
            at = list(nodes).index(node)
            nodes.remove(node)
            for offset, each in enumerate(_rows(node, told["bits"], told["block_size"])):
                nodes.insert(at + offset, each)
    return model


def _rows(node: onnx.NodeProto, bits: int, block: int) -> list[onnx.NodeProto]:
    """The rows `[B, T, width]` of a packed table, low bits first."""
    table, ids, scales = node.input
    name = node.name or node.output[0]

    def at(part: str) -> str:
        return f"{name}/{part}"

    def make(op: str, inputs: list[str], part: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [at(part)], name=at(f"{part}/{op}"), **attributes)

    def constant(part: str, array: np.ndarray) -> onnx.NodeProto:
        return make("Constant", [], part, value=numpy_helper.from_array(array, at(part)))

    unpacked = [make("Identity", [at("packed")], "unpacked")]
    if bits == 4:
        unpacked = [
            constant("low_bits", np.array(15, np.uint8)),
            constant("four", np.array(4, np.uint8)),
            make("BitwiseAnd", [at("packed"), at("low_bits")], "low"),
            make("BitShift", [at("packed"), at("four")], "high", direction="RIGHT"),
            make("Unsqueeze", [at("low"), at("last")], "low_apart"),
            make("Unsqueeze", [at("high"), at("last")], "high_apart"),
            make("Concat", [at("low_apart"), at("high_apart")], "unpacked", axis=-1),
        ]
    return [
        constant("last", np.array([-1])),
        constant("blocks", np.array([0, 0, -1, block])),
        constant("row", np.array([0, 0, -1])),
        constant("zero", np.array(1 << (bits - 1), np.float32)),
        make("Gather", [table, ids], "packed"),
        *unpacked,
        make("Reshape", [at("unpacked"), at("blocks")], "apart"),
        make("Cast", [at("apart")], "whole", to=onnx.TensorProto.FLOAT),
        make("Sub", [at("whole"), at("zero")], "signed"),
        make("Gather", [scales, ids], "scale"),
        make("Unsqueeze", [at("scale"), at("last")], "scale_apart"),
        make("Cast", [at("scale_apart")], "scale_typed", to=onnx.TensorProto.FLOAT),
        make("Mul", [at("signed"), at("scale_typed")], "scaled"),
        make("Reshape", [at("scaled"), at("row")], "rows"),
        helper.make_node("CastLike", [at("rows"), scales], node.output, name=at("CastLike")),
    ]
