"""Put the ports and the two ops at the site, or sites.

Rules:
1. Each memory port becomes a graph input with an initializer of the same name that holds the empty
   memory: if nothing is fed, the graph is the base model. So do `memory.route` and `memory.span`.
   `require` takes the initializers away.
2. Where `memory.span` is negative, the attention mask's last T columns count instead, as far as
   `memory.feature` goes. `memory.route` may be a single value for all rows.
3. Route and Recall read the site's input `a` as `[B, T, D]`, whatever shape it has in the graph.
4. y = W0 a + delta, in the type and shape of W0 a. Whatever read W0 a reads y instead.
5. Of several sites the first has the Route, and each a Recall of its own, which at site s reads the
   s-th tile behind the mask's first.
6. The functions of the two ops are part of the model.
7. Its metadata says that it answers as the base model until a memory is fed, or which one it holds.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from memoir_edge import ports
from memoir_edge.errors import GraphError
from memoir_edge.memory import Memory
from memoir_edge_exporter._bodies import MIN_OPSET, VERSION, bodies
from memoir_edge_exporter._site import Site

INPUTS = ("input_ids", "attention_mask")
ROUTE_INPUTS = (
    "memory.bank",
    "memory.owner",
    "memory.thresholds",
    "memory.center",
    "memory.scale",
    "memory.permutation",
    "memory.k",
)
_IR_VERSION = 8  # the first with functions


def add_ports(model: onnx.ModelProto, *sites: Site) -> onnx.ModelProto:
    """Give the model the ports, in place.

    Args:
        model: A decoder with inputs `input_ids` and `attention_mask`, opset 18 or newer.
        sites: Where; nodes of this model's graph, in its order, of one D and d.
    """
    graph = model.graph
    for number, site in enumerate(sites):
        at = next(i for i, node in enumerate(graph.node) if site.W0_a in node.output)
        W0_a = _at("memory/W0_a", number)
        graph.node[at].output[0] = W0_a
        first = [*_per_run(), *_route(site)] if number == 0 else []
        nodes = [*first, *_recall(site, number), *_sum(W0_a, site.W0_a, number)]
        for offset, node in enumerate(nodes, start=1):
            graph.node.insert(at + offset, node)
    _declare(graph, sites[0])
    model.functions.extend(bodies(opset(model)))
    model.opset_import.append(helper.make_opsetid(ports.DOMAIN, VERSION))
    model.ir_version = max(model.ir_version, _IR_VERSION)
    paths = ",".join(site.path for site in sites)
    describe(model, {"memoir_edge.site": paths, "memoir_edge.memory": _NO_MEMORY})
    return model


def require(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make the ports of a graph inputs that must be fed, in place.

    Raises:
        GraphError: An earlier version made them.
    """
    require_feature(model)
    own, weights = ports.MEMORY | ports.RUN, model.graph.initializer
    for weight in [weight for weight in weights if weight.name in own]:
        weights.remove(weight)
    return model


def require_feature(model: onnx.ModelProto) -> None:
    """Check that a graph's ports say which tokens count: no host of other kinds feeds a span.

    Raises:
        GraphError: They do not, because an earlier version made them.
    """
    if all(value.name != "memory.feature" for value in model.graph.input):
        raise GraphError(
            "the graph has no input memory.feature: an earlier version exported it",
            hint="export the model again: memoir-edge export --model MODEL --out DIR",
        )


def describe(model: onnx.ModelProto, said: Mapping[str, str]) -> None:
    """Say something in a graph's metadata, in place of what it said of the same."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, properties | dict(said))


_NO_MEMORY = "none: without the inputs memory.* this graph answers as the base model"


def hold(model: onnx.ModelProto, memory: Memory) -> onnx.ModelProto:
    """Make a memory what the ports of a graph hold if nothing is fed, in place of the empty one.

    Args:
        model: A graph with optional ports.
        memory: One that fits it.

    Raises:
        GraphError: An earlier version exported it.
    """
    require_feature(model)
    tensors = ports.feeds(memory)
    for initializer in model.graph.initializer:
        if initializer.name in tensors:
            value = numpy_helper.from_array(tensors[initializer.name], initializer.name)
            initializer.CopyFrom(value)
    describe(model, {"memoir_edge.memory": memory.digest or "held by the graph"})
    return model


def seal(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make constants of what the ports hold, in place: nothing can be fed to them any more.

    ONNX Runtime warns of each input with an initializer, and does not fold it.
    """
    own, inputs = ports.MEMORY | ports.RUN, model.graph.input
    for value in [value for value in inputs if value.name in own]:
        inputs.remove(value)
    return model


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a model uses."""
    return max(
        (int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
    )


def obstacle(model: onnx.ModelProto) -> str | None:
    """Why the model cannot take ports, if so."""
    inputs = {value.name for value in model.graph.input}
    if lacking := [name for name in INPUTS if name not in inputs]:
        return f"it has no input {' and no input '.join(lacking)}"
    if inputs & ports.MEMORY.keys():
        return "it has memory ports already"
    if opset(model) < MIN_OPSET:
        return f"it uses opset {opset(model)}, the ports need {MIN_OPSET} or newer"
    return None


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=f"/memory/{op}/{outputs[0]}", **attributes)


def ints(name: str, values: list[int]) -> onnx.NodeProto:
    return node("Constant", [], [name], value_ints=values)


def _per_run() -> list[onnx.NodeProto]:
    """Rule 2: `memory/route` [B] and `memory/span` [B, T] of this run, whatever was fed."""
    return [
        node("Shape", ["input_ids"], ["memory/B"], start=0, end=1),
        node("Expand", ["memory.route", "memory/B"], ["memory/route"]),
        node("Shape", ["input_ids"], ["memory/T"], start=1, end=2),
        node("Neg", ["memory/T"], ["memory/first"]),
        ints("memory/end", [np.iinfo(np.int64).max]),
        ints("memory/axis", [1]),
        node(
            "Slice",
            ["attention_mask", "memory/first", "memory/end", "memory/axis"],
            ["memory/attention"],
        ),
        node("Cast", ["memory/attention"], ["memory/every"], to=onnx.TensorProto.INT64),
        ints("memory/zero", [0]),
        *_late(),
        node("Less", ["memory.span", "memory/zero"], ["memory/unset"]),
        node("Where", ["memory/unset", "memory/attended", "memory.span"], ["memory/span"]),
    ]


def _late() -> list[onnx.NodeProto]:
    """`memory/attended`: the tokens of `memory/every` that count for the memory's feature."""
    parts = ["memory/times", "memory/share", "memory/more"]
    return [
        node("Split", ["memory.feature"], parts, num_outputs=3),
        node("CumSum", ["memory/every", "memory/axis"], ["memory/from_here"], reverse=1),
        node("Mul", ["memory/from_here", "memory/times"], ["memory/times_from_here"]),
        node("ReduceSum", ["memory/every", "memory/axis"], ["memory/tokens"], keepdims=1),
        node("Mul", ["memory/tokens", "memory/share"], ["memory/share_of_tokens"]),
        node("Add", ["memory/share_of_tokens", "memory/more"], ["memory/limit"]),
        node("LessOrEqual", ["memory/times_from_here", "memory/limit"], ["memory/late"]),
        node("Where", ["memory/late", "memory/every", "memory/zero"], ["memory/attended"]),
    ]


def _route(site: Site) -> list[onnx.NodeProto]:
    """Rule 3, and Route at the first site."""
    return [
        ints("memory/D", [site.D]),
        node("Concat", ["memory/B", "memory/T", "memory/D"], ["memory/BTD"], axis=0),
        node("Reshape", [site.a, "memory/BTD"], [ports.SITE_INPUT]),
        node(
            "Route",
            [ports.SITE_INPUT, "memory/span", "memory/route", *ROUTE_INPUTS],
            list(ports.OUTPUTS),
            domain=ports.DOMAIN,
        ),
    ]


def _recall(site: Site, number: int) -> list[onnx.NodeProto]:
    """Recall at a site. Rule 3, and 5."""
    a, tile = ports.SITE_INPUT, "memory.tile"
    before = []
    if number > 0:
        a, tile, further = (_at(name, number) for name in (a, "memory/tile", "memory/further"))
        offset = numpy_helper.from_array(np.array([number], np.int32))
        before = [
            node("Reshape", [site.a, "memory/BTD"], [a]),
            node("Constant", [], [further], value=offset),
            node("Add", ["memory.tile", further], [tile]),
        ]
    read = [a, "memory.route_out", "memory.bank", "memory.columns", "memory.values", tile]
    return [*before, node("Recall", read, [_at("memory/delta", number)], domain=ports.DOMAIN)]


def _sum(W0_a: str, y: str, number: int) -> list[onnx.NodeProto]:
    """Rule 4."""
    names = ("memory/delta", "memory/shape", "memory/delta_shaped", "memory/delta_typed")
    delta, shape, shaped, typed = (_at(name, number) for name in names)
    return [
        node("Shape", [W0_a], [shape]),
        node("Reshape", [delta, shape], [shaped]),
        node("CastLike", [shaped, W0_a], [typed]),
        node("Add", [W0_a, typed], [y]),
    ]


def _at(name: str, number: int) -> str:
    """A tensor's name at a site; at the first as in a graph of one."""
    return f"{name}.{number}" if number else name


def _declare(graph: onnx.GraphProto, site: Site) -> None:
    """Rule 1."""
    B, T = _dimensions(graph)
    widths: dict[str, str | int] = {"D": site.D, "d": site.d, "ceil(D/8)": -(-site.D // 8)}
    defaults = ports.empty(site.D, site.d) | ports.run_defaults()
    for name, port in (ports.MEMORY | ports.RUN).items():
        graph.input.append(_info(name, port, widths))
        graph.initializer.append(numpy_helper.from_array(defaults[name], name))
    graph.output.extend(_info(name, port, {"B": B, "T": T}) for name, port in ports.OUTPUTS.items())


def _info(name: str, port: ports.Port, known: dict[str, str | int]) -> onnx.ValueInfoProto:
    # An unknown dimension gets a name of its own: C and R, and B and T where one may stand for all.
    shape = [
        known.get(str(dim), f"memory_{dim}" if isinstance(dim, str) else dim) for dim in port.shape
    ]
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)), shape
    )


def _dimensions(graph: onnx.GraphProto) -> tuple[str | int, str | int]:
    """The graph's own names for B and T."""
    ids = next(value for value in graph.input if value.name == "input_ids")
    B, T = ids.type.tensor_type.shape.dim
    return B.dim_param or B.dim_value, T.dim_param or T.dim_value
