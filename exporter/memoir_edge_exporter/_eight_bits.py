"""An encoder's graph in 8 bits, so that a code does not depend on what else is in the batch.

ONNX Runtime's own dynamic quantization rounds a whole batch by one scale: a prompt's code would
change with its neighbours, and a few tokens of large values cost all others their bits.

Rules:
1. Attention, normalization and activation become ONNX Runtime's single nodes where it knows them.
2. A product with a constant weight takes integers on both sides: the weight, 7 bits, with a scale
   for each column, the other side, 8 bits, with a scale for each row. Not so the products that
   attention reads, whose inputs have the widest range, nor the projection, which makes the code.
3. A table of embeddings has a scale for each row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_LARGE = 1000  # rows from which on a table is worth it
_TOP = 127
_ZERO = 128  # of unsigned integers, which all processors multiply quickly with signed ones
_WEIGHT = 63  # beyond it, processors without VNNI clip the sum of two products
Array = npt.NDArray[Any]


def eight_bits(path: Path, kept: str) -> onnx.ModelProto:
    """The graph of a file in 8 bits.

    Args:
        path: A graph in float32.
        kept: How the names of nodes begin that stay as they are.
    """
    model = fused(path)
    graph = model.graph
    rewritten = _Rewritten(graph, kept)
    del graph.node[:]
    graph.node.extend(rewritten.nodes)
    used = {name for node in graph.node for name in node.input}
    weights = [each for each in graph.initializer if each.name in used] + rewritten.weights
    del graph.initializer[:]
    graph.initializer.extend(weights)
    return model


def fused(path: Path) -> onnx.ModelProto:
    """Rule 1."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.use_multi_head_attention = True  # the products before it stay products
    options.enable_embed_layer_norm = False
    options.enable_shape_inference = False  # nothing of this needs it, and it prints when it fails
    found = optimize_model(str(path), "bert", optimization_options=options, opt_level=0)
    found.topological_sort()
    model: onnx.ModelProto = found.model
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


class _Rewritten:
    """The nodes of a graph by rules 2 and 3, and their new constants."""

    def __init__(self, graph: onnx.GraphProto, kept: str) -> None:
        self.weights = [
            numpy_helper.from_array(value, f"eight/{name}")
            for name, value in {
                "last": np.array([-1]), "least": np.array(1e-12, np.float32),
                "top": np.array(_TOP, np.float32), "middle": np.array(_ZERO, np.float32),
                "zero": np.array(_ZERO, np.uint8),
            }.items()
        ]  # fmt: skip
        self.nodes: list[onnx.NodeProto] = []
        self._constants = {each.name: each for each in graph.initializer}
        self._known: set[str] = set()  # tensors that have been rounded
        read = {
            name
            for node in graph.node
            if node.op_type == "MultiHeadAttention"
            for name in node.input
        }
        for node in graph.node:
            left = node.name.startswith(kept) or node.output[0] in read
            if left or not self._rewrite(node):
                self.nodes.append(node)

    def _rewrite(self, node: onnx.NodeProto) -> bool:
        """Whether the node has been replaced."""
        if node.op_type == "MatMul":
            return self._product(node)
        return node.op_type == "Gather" and self._table(node)

    def _product(self, node: onnx.NodeProto) -> bool:
        x, weight = node.input
        W = self._constant(weight)
        if W is None or W.ndim != 2:
            return False
        y = node.output[0]
        self._store(weight, W, 0, _WEIGHT)
        self.nodes += [
            *self._rounded(x),
            _node("MatMulInteger", [f"{x}/8", f"{weight}/8", "eight/zero"], f"{y}/sum"),
            _node("Cast", [f"{y}/sum"], f"{y}/float", to=TensorProto.FLOAT),
            # One after the other: ONNX Runtime takes the product of both scales for that of two
            # single numbers, and fuses wrongly.
            _node("Mul", [f"{y}/float", f"{x}/scale"], f"{y}/rows"),
            _node("Mul", [f"{y}/rows", f"{weight}/scale"], y),
        ]
        return True

    def _rounded(self, x: str) -> Iterator[onnx.NodeProto]:
        """`x/8` and `x/scale`, once for all products that read x."""
        if x in self._known:
            return
        self._known.add(x)
        yield _node("Abs", [x], f"{x}/abs")
        yield _node("ReduceMax", [f"{x}/abs", "eight/last"], f"{x}/max", keepdims=1)
        yield _node("Max", [f"{x}/max", "eight/least"], f"{x}/range")
        yield _node("Div", [f"{x}/range", "eight/top"], f"{x}/scale")
        yield _node("Div", [x, f"{x}/scale"], f"{x}/scaled")
        yield _node("Add", [f"{x}/scaled", "eight/middle"], f"{x}/positive")
        yield _node("Round", [f"{x}/positive"], f"{x}/round")
        yield _node("Cast", [f"{x}/round"], f"{x}/8", to=TensorProto.UINT8)

    def _table(self, node: onnx.NodeProto) -> bool:
        table, rows = node.input
        W = self._constant(table)
        if W is None or W.ndim != 2 or len(W) < _LARGE:
            return False
        y = node.output[0]
        self._store(table, W, 1, _TOP)
        self.nodes += [
            _node("Gather", [f"{table}/8", rows], f"{y}/8"),
            _node("Cast", [f"{y}/8"], f"{y}/float", to=TensorProto.FLOAT),
            _node("Gather", [f"{table}/scale", rows], f"{y}/scale"),
            _node("Mul", [f"{y}/float", f"{y}/scale"], y),
        ]
        return True

    def _constant(self, name: str) -> Array | None:
        found = self._constants.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def _store(self, name: str, W: Array, axis: int, top: int) -> None:
        """W as integers up to `top`, and its scales, the axis reduced."""
        if name in self._known:
            return
        self._known.add(name)
        scale = np.maximum(np.abs(W).max(axis=axis, keepdims=True), 1e-12) / top
        self.weights += [
            numpy_helper.from_array(np.round(W / scale).astype(np.int8), f"{name}/8"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}/scale"),
        ]


def _node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=f"/eight/{output}", **attributes)
