"""Which node of a graph is the edited layer.

Rules:
1. A node's name, slashes read as dots and its last part dropped, is a module path:
   `/model/layers.6/mlp/down_proj/MatMul` belongs to `model.layers.6.mlp.down_proj`.
2. It must multiply by a weight of two dimensions: MatMul, Gemm (GPT-2's Conv1D), or quantized
   MatMulNBits, MatMulInteger and DynamicQuantizeMatMul. The weight may stand behind a cast, a
   transposition or the like.
3. The site is the one node whose path is the wanted one. If there is none, it is the one whose
   path ends in the wanted one (`layers.6.mlp.down_proj`). If there is none either, it is the one
   whose path is the end of the wanted one, because an exporter may trace from an inner module
   (OPT's `model.decoder.layers.6.fc2` is `/decoder/layers.6/fc2/Gemm`). The longer of the two paths
   names the site.
4. Its first input is the site's input `a`, its output is `W0 a` (with a Gemm's bias in it). Around
   a MatMulInteger, `a` is what is quantized for it, and `W0 a` what its integers are scaled to.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import onnx

from memoir_edge.errors import SiteError
from memoir_edge.sites import folded, listed


class Site(NamedTuple):
    """The edited layer in a graph.

    Module path, node, input and output width, and the names of its input and output.
    """

    path: str
    node: onnx.NodeProto
    D: int
    d: int
    a: str
    W0_a: str


def find_site(graph: onnx.GraphProto, path: str) -> Site:
    """Find the node of a module path.

    Raises:
        SiteError: None, or more than one; lists what there is.

    Example:
        >>> graph = onnx.load("onnx/model.onnx").graph
        >>> site = find_site(graph, "layers.6.mlp.down_proj")
        >>> site.path, site.D, site.d
        ('model.layers.6.mlp.down_proj', 768, 192)
    """
    products = list(_products(graph))
    found = [site for site in products if site.path == path]
    found = found or [site for site in products if site.path.endswith(f".{path}")]
    found = found or [s._replace(path=path) for s in products if path.endswith(f".{s.path}")]
    if not found:
        has = folded(site.path for site in products if site.path)
        raise SiteError(
            f"the graph has no matrix product of site {path!r}",
            hint=f"it has: {listed(has) or 'no named product with a weight at all'}",
        )
    if len(found) > 1:
        raise SiteError(
            f"the graph has {len(found)} matrix products of site {path!r}, expected one",
            hint=f"they are: {listed([site.node.name for site in found])}",
        )
    return found[0]


def find_sites(graph: onnx.GraphProto, paths: Sequence[str]) -> list[Site]:
    """Find the nodes of several module paths, in the graph's order, each once.

    Raises:
        SiteError: One is not there or not the only one; or their widths differ.
    """
    place = {node.name: i for i, node in enumerate(graph.node)}
    each = {site.path: site for site in (find_site(graph, path) for path in paths)}
    found = sorted(each.values(), key=lambda site: place[site.node.name])
    if len({(site.D, site.d) for site in found}) > 1:
        told = ", ".join(f"{site.path} is {site.D} to {site.d}" for site in found)
        raise SiteError(
            f"sites of one graph have the same widths, but {told}",
            hint="name layers of the same kind, such as the down-projections of several blocks",
        )
    return found


def bits(node: onnx.NodeProto) -> int | None:
    """Of each weight of a `MatMulNBits`; None of another product."""
    return next((int(each.i) for each in node.attribute if each.name == "bits"), None)


# --- Rules 1 and 2 -------------------------------------------------------------------------------

_Shapes = dict[str, tuple[int, ...]]
_Widths = tuple[int, int] | None


def _products(graph: onnx.GraphProto) -> Iterator[Site]:
    shapes = _weights(graph)
    for node in graph.node:
        if node.op_type in _WIDTHS and (widths := _WIDTHS[node.op_type](node, shapes)):
            ends = (node.input[0], node.output[0])
            if node.op_type == "MatMulInteger":
                ends = _around_integers(graph, node)
            yield Site(_path(node), node, *widths, *ends)


def _around_integers(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[str, str]:
    """`a` and `W0 a` of a product of integers, as ONNX Runtime's dynamic quantization writes it."""
    a, y = node.input[0], node.output[0]
    for other in graph.node:
        if other.op_type == "DynamicQuantizeLinear" and other.output[0] == a:
            a = other.input[0]
        if other.op_type in ("Cast", "Mul") and y in other.input:
            y = other.output[0]  # first the cast to floats, then the product with both scales
            if other.op_type == "Mul":
                break
    return a, y


def _path(node: onnx.NodeProto) -> str:
    return node.name.strip("/").replace("/", ".").rpartition(".")[0]


def _weights(graph: onnx.GraphProto) -> _Shapes:
    """Shapes, by name, of the constant tensors that may be a layer's weight."""
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    for node in graph.node:
        if node.op_type in _ALIKE and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]][:: _ALIKE[node.op_type]]
    return shapes


# Steps between an initializer and its product: dimensions kept, or reversed.
_ALIKE = {"Identity": 1, "Cast": 1, "DequantizeLinear": 1, "Transpose": -1}


def _matmul(node: onnx.NodeProto, shapes: _Shapes) -> _Widths:
    shape = shapes.get(node.input[1], ())
    return (shape[0], shape[1]) if len(shape) == 2 else None


def _gemm(node: onnx.NodeProto, shapes: _Shapes) -> _Widths:
    widths, attributes = _matmul(node, shapes), _attributes(node)
    if widths is None or attributes.get("transA"):
        return None
    return (widths[1], widths[0]) if attributes.get("transB") else widths


def _matmul_nbits(node: onnx.NodeProto, _: _Shapes) -> _Widths:
    attributes = _attributes(node)
    return attributes["K"], attributes["N"]


def _attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {attribute.name: int(attribute.i) for attribute in node.attribute}


_WIDTHS: dict[str, Callable[[onnx.NodeProto, _Shapes], _Widths]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "MatMulNBits": _matmul_nbits,
    "MatMulInteger": _matmul,
    "DynamicQuantizeMatMul": _matmul,
}
