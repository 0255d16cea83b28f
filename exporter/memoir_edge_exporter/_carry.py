"""Let a graph with ports carry each row's route itself, for hosts that feed none.

Rules:
1. A run of one token goes on with the route that the last run left; a run of several decides anew,
   and so does the first run of all. A route that is fed (`memory.route` other than 0) comes first.
2. "recurrent": the route is a state `[B, 1, 1, 1]` of a layer of its own, behind the last one, as
   onnxruntime-genai hands it from run to run, with the `conv_state` that it wants beside it. A new
   state is 0: undecided.
3. "cache": the route is one more layer of the cache. Its keys hold the route divided by 1024, its
   values the remainder, because float16 has no larger integers than 2048. Only the last token is
   read; a cache without tokens is undecided.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from memoir_edge.base import read_config
from memoir_edge.errors import GraphError, InputError
from memoir_edge.ports import Kind
from memoir_edge.sites import LAYERS
from memoir_edge_exporter._ports import describe, ints, node, require, require_feature
from memoir_edge_exporter._write import write_json

State = Literal["recurrent", "cache"]
_PAST, _PRESENT = "past_key_values", "present"
_DIGIT = 1024


def carry(model: onnx.ModelProto, state: State) -> onnx.ModelProto:
    """Give a graph the state, in place.

    Args:
        model: A decoder with ports and a cache of keys and values.
        state: As what it is carried.

    Raises:
        GraphError: The cache is none of keys and values `[B, heads, tokens, width]`, or an earlier
            version made the ports.
    """
    require_feature(model)
    graph, layer = model.graph, layers(model.graph)
    at = next(i for i, each in enumerate(graph.node) if each.output[:] == ["memory/T"])
    fed = next(each for each in graph.node if each.output[:] == ["memory/route"])
    fed.output[0] = "memory/route_fed"
    before, after = (_recurrent if state == "recurrent" else _cache)(graph, layer)
    for offset, each in enumerate([*before, *_goes_on()], start=1):
        graph.node.insert(at + offset, each)
    graph.node.extend(after)
    describe(model, {"memoir_edge.state": state})
    return model


def as_kind(model: onnx.ModelProto, kind: Kind, folder: Path) -> onnx.ModelProto:
    """Turn a graph's optional ports into those of a kind, in place.

    Args:
        model: A decoder with optional ports.
        kind: Of the ports to come.
        folder: Where `config.json` stands; of "cache" it then says one layer more.

    Raises:
        GraphError: The ports are those of an earlier version, or it has no cache for the route.
        InputError: Of "cache", if `config.json` names no number of layers.
    """
    if kind == "required":
        return require(model)
    if kind != "optional":
        carry(model, kind)
    if kind == "cache":
        one_layer_more(folder)
    return model


def layers(graph: onnx.GraphProto) -> int:
    """How many layers a graph's cache has.

    Raises:
        GraphError: It has no cache that another layer could follow.
    """
    first = next((v for v in graph.input if v.name == f"{_PAST}.0.key"), None)
    if first is None or len(first.type.tensor_type.shape.dim) != 4:
        raise GraphError(
            f"the graph has no input {_PAST}.0.key [B, heads, tokens, width], so no place for a "
            "route in its cache",
            hint="export it with --ports optional or required",
        )
    return 1 + max(
        int(value.name.split(".")[1])
        for value in graph.input
        if value.name.startswith(f"{_PAST}.") and value.name.endswith(".key")
    )


def one_layer_more(folder: Path) -> None:
    """Make `config.json` say one layer more, so that a host makes room in its cache for the route.

    Raises:
        InputError: There is none, or it names no number of layers.
    """
    config = read_config(folder)
    name = next((name for name in LAYERS if config.get(name)), None)
    if name is None:
        raise InputError(
            f"{folder / 'config.json'} names no number of layers, expected one of "
            f"{', '.join(LAYERS)}",
            hint="export it with --ports optional or required",
        )
    config[name] += 1
    if "layer_types" in config:
        config["layer_types"] = [*config["layer_types"], "full_attention"]
    if "attention_types" in config:  # GPT-Neo's, each with how often it comes
        config["attention_types"] = [*config["attention_types"], [["global"], 1]]
    if "attention_layers" in config:  # the same, layer by layer
        config["attention_layers"] = [*config["attention_layers"], "global"]
    write_json(folder / "config.json", config)


# --- Rule 1 --------------------------------------------------------------------------------------


def _goes_on() -> list[onnx.NodeProto]:
    """`memory/route` of `memory/route_fed` and `memory/route_left`."""
    return [
        ints("memory/one", [1]),
        ints("memory/undecided", [0]),
        node("Equal", ["memory/T", "memory/one"], ["memory/single"]),
        node(
            "Where",
            ["memory/single", "memory/route_left", "memory/undecided"],
            ["memory/route_carried"],
        ),
        node("Equal", ["memory/route_fed", "memory/undecided"], ["memory/open"]),
        node(
            "Where", ["memory/open", "memory/route_carried", "memory/route_fed"], ["memory/route"]
        ),
    ]


# --- Rule 2 --------------------------------------------------------------------------------------

_Nodes = tuple[list[onnx.NodeProto], list[onnx.NodeProto]]


def _recurrent(graph: onnx.GraphProto, layer: int) -> _Nodes:
    route, conv = (f"{_PAST}.{layer}.{name}_state" for name in ("recurrent", "conv"))
    for name, ones in ((route, [1, 1, 1]), (conv, [1, 1])):
        shape: list[str | int | None] = ["memory_B", *ones]
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        graph.output.append(helper.make_tensor_value_info(_present(name), TensorProto.FLOAT, shape))
    return [
        ints("memory/flat", [-1]),
        node("Reshape", [route, "memory/flat"], ["memory/state"]),
        node("Cast", ["memory/state"], ["memory/route_left"], to=TensorProto.INT64),
    ], [
        node("Cast", ["memory.route_out"], ["memory/new_state"], to=TensorProto.FLOAT),
        ints("memory/as_state", [-1, 1, 1, 1]),
        node("Reshape", ["memory/new_state", "memory/as_state"], [_present(route)]),
        node("Identity", [conv], [_present(conv)]),
    ]


# --- Rule 3 --------------------------------------------------------------------------------------


def _cache(graph: onnx.GraphProto, layer: int) -> _Nodes:
    key, value = names = [f"{_PAST}.{layer}.{part}" for part in ("key", "value")]
    for name in names:
        for values, of, called in (
            (graph.input, f"{_PAST}.0.key", name),
            (graph.output, f"{_PRESENT}.0.key", _present(name)),
        ):
            like = next(v for v in values if v.name == of)
            added = values.add()
            added.CopyFrom(like)
            added.name = called
    return [
        # The last token's first number, in each row; of no token the sum is 0.
        ints("memory/last", [0, -1, 0]),
        ints("memory/last_end", [1, np.iinfo(np.int64).max, 1]),
        ints("memory/within", [1, 2, 3]),
        *_last(key, "high_digit"),
        *_last(value, "low_digit"),
        ints("memory/base", [_DIGIT]),
        node("Mul", ["memory/high_digit_left", "memory/base"], ["memory/high_part_left"]),
        node("Add", ["memory/high_part_left", "memory/low_digit_left"], ["memory/route_left"]),
    ], [
        # Division rounds towards 0: -1 is 0 and -1.
        node("Div", ["memory.route_out", "memory/base"], ["memory/high_digit"]),
        node("Mul", ["memory/high_digit", "memory/base"], ["memory/high_part"]),
        node("Sub", ["memory.route_out", "memory/high_part"], ["memory/low_digit"]),
        node("Shape", [key], ["memory/heads"], start=1, end=2),
        node("Shape", [key], ["memory/width"], start=3, end=4),
        node(
            "Concat",
            ["memory/B", "memory/heads", "memory/T", "memory/width"],
            ["memory/tokens_shape"],
            axis=0,
        ),
        ints("memory/as_tokens", [-1, 1, 1, 1]),
        *_append(key, "high_digit"),
        *_append(value, "low_digit"),
    ]


def _last(past: str, part: str) -> list[onnx.NodeProto]:
    at = ["memory/last", "memory/last_end", "memory/within"]
    return [
        node("Slice", [past, *at], [f"memory/{part}_last"]),
        node(
            "ReduceSum",
            [f"memory/{part}_last", "memory/within"],
            [f"memory/{part}_sum"],
            keepdims=0,
        ),
        node("Cast", [f"memory/{part}_sum"], [f"memory/{part}_left"], to=TensorProto.INT64),
    ]


def _append(past: str, part: str) -> list[onnx.NodeProto]:
    typed, shaped, new = (f"memory/{part}_{name}" for name in ("typed", "shaped", "new"))
    return [
        node("CastLike", [f"memory/{part}", past], [typed]),
        node("Reshape", [typed, "memory/as_tokens"], [shaped]),
        node("Expand", [shaped, "memory/tokens_shape"], [new]),
        node("Concat", [past, new], [_present(past)], axis=2),
    ]


def _present(past: str) -> str:
    return past.replace(_PAST, _PRESENT, 1)
