"""Let a graph read something else than tokens: images, as vectors that the caller made of them.

Rules:
1. `inputs_embeds` `[B, T, width]` is a further input, float32 in every graph. A number in it stands
   in the place of the token's own; NaN leaves that as it is. Its initializer is one NaN, so that
   a host which does not feed it gives tokens alone.
2. It takes the place of what the embedding's module gives: of a Gemma 3, for instance, the scaled
   vectors. Whatever read those reads the chosen ones.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from memoir_edge.errors import GraphError
from memoir_edge_exporter._ports import node

NAME = "inputs_embeds"
_LOOKS_UP = ("Gather", "GatherBlockQuantized")
_SAME = ("Reshape", "Cast", "Identity")  # as which GPT-2 reads its ids


def add_embeds(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a decoder the input `inputs_embeds`, in place.

    Args:
        model: A decoder with the input `input_ids`.

    Raises:
        GraphError: Where tokens are looked up cannot be told, or the graph has such an input.
    """
    graph = model.graph
    if any(value.name == NAME for value in graph.input):
        raise GraphError(f"the graph has an input {NAME} already")
    at = _embedding(graph)
    own = graph.node[at].output[0]
    tokens = f"{own}/of_tokens"
    graph.node[at].output[0] = tokens
    chosen = [
        node("IsNaN", [NAME], ["embeds/is_token"]),
        node("CastLike", [NAME, tokens], ["embeds/typed"]),
        node("Where", ["embeds/is_token", tokens, "embeds/typed"], [own]),
    ]
    for offset, each in enumerate(chosen, start=1):
        graph.node.insert(at + offset, each)
    ids = next(value for value in graph.input if value.name == "input_ids")
    sizes = [dim.dim_param or dim.dim_value for dim in ids.type.tensor_type.shape.dim]
    shape = [f"embeds_{size}" for size in (*sizes, "width")]
    graph.input.append(helper.make_tensor_value_info(NAME, onnx.TensorProto.FLOAT, shape))
    nothing = np.full((1, 1, 1), np.nan, np.float32)
    graph.initializer.append(numpy_helper.from_array(nothing, NAME))
    return model


def _embedding(graph: onnx.GraphProto) -> int:
    """Number of the node that gives the tokens' vectors: the last one of the embedding's module.

    Raises:
        GraphError: None looks tokens up, or several do.
    """
    ids = {"input_ids"}
    found: list[onnx.NodeProto] = []
    for each in graph.node:
        if each.op_type in _SAME and each.input[0] in ids:
            ids.add(each.output[0])
        elif each.op_type in _LOOKS_UP and each.input[1] in ids:
            found.append(each)
    if len(found) != 1:
        raise GraphError(
            f"the graph looks tokens up in {len(found)} places, expected one: it cannot be given "
            f"{NAME}"
        )
    module, at = found[0].name.rpartition("/")[0], list(graph.node).index(found[0])
    for i, each in enumerate(graph.node):
        inside = module and each.name.startswith(f"{module}/")
        if inside and each.op_type == "Mul" and graph.node[at].output[0] in each.input:
            at = i
    return at
