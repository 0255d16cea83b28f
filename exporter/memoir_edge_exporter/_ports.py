"""Put the ports and the two ops at the site.

Rules:
1. Each memory port becomes a graph input with an initializer of the same name, the empty memory:
   left alone, the graph is the base model. `memory.route` and `memory.span` likewise.
2. `memory.span` is read where it is not negative; elsewhere the attention mask's last T columns
   stand for it.
3. Route and Recall read the site's input `a`; a folded one is unfolded first.
4. y = W0 a + delta: every former reader of the site's output reads the sum.
5. The functions of the two ops travel in the model.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from memoir_edge import ports
from memoir_edge_exporter._bodies import VERSION, bodies
from memoir_edge_exporter._site import Site

ROUTE_INPUTS = (
    "memory.bank",
    "memory.owner",
    "memory.thresholds",
    "memory.center",
    "memory.scale",
    "memory.permutation",
    "memory.k",
)
MIN_OPSET = 18


def add_ports(model: onnx.ModelProto, site: Site) -> onnx.ModelProto:
    """Give the model the ports, in place.

    Args:
        model: A decoder with inputs `input_ids` and `attention_mask`, opset 18 or newer.
        site: Where; a node of this model's graph.
    """
    graph = model.graph
    site = site._replace(node=_own(graph, site.node))
    at = list(graph.node).index(site.node)
    base = f"{site.node.output[0]}/base"
    wanted = site.node.output[0]
    site.node.output[0] = base
    nodes = [*_per_run(), *_unfold(site), *_ops(site), *_sum(site, base, wanted)]
    for offset, node in enumerate(nodes, start=1):
        graph.node.insert(at + offset, node)
    _declare(graph, site)
    model.functions.extend(bodies())
    _import(model, ports.DOMAIN, VERSION)
    return model


def _own(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.NodeProto:
    return next(own for own in graph.node if own.name == node.name and own.output == node.output)


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=f"/memory/{outputs[0]}", **attributes)


def _ints(name: str, values: list[int]) -> onnx.NodeProto:
    return _node("Constant", [], [name], value_ints=values)


def _per_run() -> list[onnx.NodeProto]:
    """Rule 2: `route` [B] and `span` [B, T] of this run, whatever was fed."""
    return [
        _node("Shape", ["input_ids"], ["memory/BT"]),
        _node("Shape", ["input_ids"], ["memory/B"], start=0, end=1),
        _node("Shape", ["input_ids"], ["memory/T"], start=1, end=2),
        _node("Expand", ["memory.route", "memory/B"], ["memory/route"]),
        _node("Neg", ["memory/T"], ["memory/from"]),
        _ints("memory/end", [np.iinfo(np.int64).max]),
        _ints("memory/axis", [1]),
        _node(
            "Slice",
            ["attention_mask", "memory/from", "memory/end", "memory/axis"],
            ["memory/attention"],
        ),
        _ints("memory/zero", [0]),
        _node("Less", ["memory.span", "memory/zero"], ["memory/unset"]),
        _node("Where", ["memory/unset", "memory/attention", "memory.span"], ["memory/span"]),
    ]


def _unfold(site: Site) -> list[onnx.NodeProto]:
    """Rule 3: `memory/a` [B, T, D]."""
    a = site.node.input[0]
    if not site.folded:
        return [_node("Identity", [a], ["memory/a"])]
    return [
        _ints("memory/D", [site.D]),
        _node("Concat", ["memory/BT", "memory/D"], ["memory/BTD"], axis=0),
        _node("Reshape", [a, "memory/BTD"], ["memory/a"]),
    ]


def _ops(site: Site) -> list[onnx.NodeProto]:
    return [
        _node(
            "Route",
            ["memory/a", "memory/span", "memory/route", *ROUTE_INPUTS],
            list(ports.OUTPUTS),
            domain=ports.DOMAIN,
        ),
        _node(
            "Recall",
            ["memory/a", "memory.route_out", "memory.bank", "memory.columns", "memory.values"],
            ["memory/delta"],
            domain=ports.DOMAIN,
        ),
    ]


def _sum(site: Site, base: str, wanted: str) -> list[onnx.NodeProto]:
    """Rule 4, in the graph's own type and the site's own shape."""
    cast = _node("CastLike", ["memory/delta", base], ["memory/delta_like"])
    if not site.folded:
        return [cast, _node("Add", [base, "memory/delta_like"], [wanted])]
    return [
        cast,
        _ints("memory/folded", [-1, site.d]),
        _node("Reshape", ["memory/delta_like", "memory/folded"], ["memory/delta_folded"]),
        _node("Add", [base, "memory/delta_folded"], [wanted]),
    ]


def _declare(graph: onnx.GraphProto, site: Site) -> None:
    """Rule 1."""
    widths = {"D": site.D, "d": site.d, "ceil(D/8)": -(-site.D // 8)}
    names = {"B": "batch_size", "T": "sequence_length"}
    defaults = ports.empty(site.D, site.d) | ports.run_defaults()
    for name, port in (ports.MEMORY | ports.RUN).items():
        graph.input.append(_info(name, port, widths | names if name in ports.MEMORY else {}))
        graph.initializer.append(numpy_helper.from_array(defaults[name], name))
    graph.output.extend(_info(name, port, names) for name, port in ports.OUTPUTS.items())


def _info(name: str, port: ports.Port, known: dict[str, int | str]) -> onnx.ValueInfoProto:
    # A run's own ports may be fed broadcast, so their dimensions get names of their own.
    shape = [known.get(str(dim), f"memory_{dim}" if isinstance(dim, str) else dim) for dim in port.shape]
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
    return helper.make_tensor_value_info(name, dtype, shape)


def _import(model: onnx.ModelProto, domain: str, version: int) -> None:
    """Rule 5's domain, and for the functions' sake at least opset 18 in the model."""
    model.opset_import.append(helper.make_opsetid(domain, version))
    model.ir_version = max(model.ir_version, 8)  # the first with functions


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a model uses."""
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))
