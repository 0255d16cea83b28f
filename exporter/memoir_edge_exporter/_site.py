"""Which node of a graph is the edited layer.

Rules:
1. A node belongs to a module path when its name, slashes read as dots, is the path and one more
   part: `model.layers.6.mlp.down_proj` owns `/model/layers.6/mlp/down_proj/MatMul`.
2. It must multiply by a weight: MatMul, Gemm (GPT-2's Conv1D) or MatMulNBits (quantized).
3. Its first input is the site's input `a`, its output is `W0 a` (with a Gemm's bias in it).
"""

from collections.abc import Callable
from typing import NamedTuple

import onnx

from memoir_edge.errors import SiteError


class Site(NamedTuple):
    """The edited layer in a graph, and its input and output width."""

    path: str
    node: onnx.NodeProto
    D: int
    d: int

    @property
    def folded(self) -> bool:
        """A Gemm reads `[B * T, D]`, batch and tokens folded into one axis."""
        return bool(self.node.op_type == "Gemm")


def find_site(graph: onnx.GraphProto, path: str) -> Site:
    """Find the node of a module path.

    Raises:
        SiteError: None, or more than one; lists the layers there are.
    """
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    sites = [site for node in graph.node if (site := _site(node, path, shapes))]
    if len(sites) == 1:
        return sites[0]
    found = "no matrix product" if not sites else f"{len(sites)} matrix products"
    raise SiteError(
        f"the graph has {found} of site {path!r}, expected one", hint=f"it has: {_layers(graph)}"
    )


def _site(node: onnx.NodeProto, path: str, shapes: dict[str, tuple[int, ...]]) -> Site | None:
    owner, _, _ = _dotted(node).rpartition(".")
    if owner != path or node.op_type not in _WIDTHS:
        return None
    widths = _WIDTHS[node.op_type](node, shapes)
    return None if widths is None else Site(path, node, *widths)


def _dotted(node: onnx.NodeProto) -> str:
    return str(node.name).strip("/").replace("/", ".")


_Shapes = dict[str, tuple[int, ...]]


def _matmul(node: onnx.NodeProto, shapes: _Shapes) -> tuple[int, int] | None:
    shape = shapes.get(node.input[1], ())
    return (shape[0], shape[1]) if len(shape) == 2 else None


def _gemm(node: onnx.NodeProto, shapes: _Shapes) -> tuple[int, int] | None:
    widths = _matmul(node, shapes)
    return widths[::-1] if widths and _attributes(node).get("transB") else widths  # type: ignore[return-value]


def _matmul_nbits(node: onnx.NodeProto, _shapes: _Shapes) -> tuple[int, int] | None:
    attributes = _attributes(node)
    return attributes["K"], attributes["N"]


def _attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {attribute.name: int(attribute.i) for attribute in node.attribute}


_WIDTHS: dict[str, Callable[[onnx.NodeProto, _Shapes], tuple[int, int] | None]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "MatMulNBits": _matmul_nbits,
}


def _layers(graph: onnx.GraphProto) -> str:
    """The module paths that own a product with a weight, block numbers folded."""
    folded: dict[str, list[int]] = {}
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    for node in graph.node:
        if node.op_type in _WIDTHS and _WIDTHS[node.op_type](node, shapes):
            parts = _dotted(node).split(".")[:-1]
            numbers = [int(part) for part in parts if part.isdigit()]
            name = ".".join("*" if part.isdigit() else part for part in parts)
            folded.setdefault(name, []).append(numbers[0] if numbers else 0)
    listed = [
        name.replace("*", f"{{{min(numbers)}..{max(numbers)}}}", 1) for name, numbers in folded.items()
    ]
    return ", ".join(listed) or "no product with a weight at all"
