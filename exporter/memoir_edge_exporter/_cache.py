"""What a decoder's graph takes as its cache: its sizes and length, and how short rows are padded.

onnxruntime-genai's builder differs from optimum in all of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import onnx

from memoir_edge.base import context, read_config
from memoir_edge.errors import GraphError, InputError
from memoir_edge.rope import even
from memoir_edge.sites import Config, head_size
from memoir_edge_exporter._write import write_json

_PAST, _PRESENT = "past_key_values.", "present."
# Attention that takes a row's length from the sum of its mask, so its tokens must come first.
_FLUSH_LEFT = {"GroupQueryAttention", "SparseAttention"}


def padding_side(graph: onnx.GraphProto) -> Literal["left", "right"]:
    """Where the rows of a batch that are shorter than others must be padded."""
    return "right" if any(node.op_type in _FLUSH_LEFT for node in graph.node) else "left"


def settle_cache(graph: onnx.GraphProto, config: Config, folder: Path) -> None:
    """Check the cache's types, and settle its sizes in place and its length in `config.json`.

    Raises:
        GraphError: What a step leaves in it cannot be fed to the next.
        InputError: The configuration does not tell the width of a head.
    """
    require_types(graph)
    settle_sizes(graph, config)
    settle_context(graph, folder)


def settle_sizes(graph: onnx.GraphProto, config: Config) -> None:
    """Give the width of a head as a number where the cache names it only, in place.

    The axis of tokens has another name in the output than in the input; the width's is the same.
    What is said of sizes inside the graph is dropped: in fp16 the builder's attention is said to
    read as many tokens as a run has, cache or not, and ONNX Runtime plans its memory by that.

    Raises:
        InputError: The configuration does not tell the width.
    """
    del graph.value_info[:]
    for past, present in _pairs(graph):
        ends = [value.type.tensor_type.shape.dim[-1] for value in (past, present)]
        if ends[0].dim_param and ends[0].dim_param == ends[1].dim_param:
            for end in ends:
                end.dim_value = _head_size(config)


def require_types(graph: onnx.GraphProto) -> None:
    """Check that what a step leaves in the cache can be fed to the next.

    Raises:
        GraphError: It is of another type.
    """
    for past, present in _pairs(graph):
        types = [value.type.tensor_type.elem_type for value in (past, present)]
        if types[0] != types[1]:
            said = [onnx.TensorProto.DataType.Name(each).lower() for each in types]
            raise GraphError(
                f"the graph takes {past.name} as {said[0]} and gives {present.name} as {said[1]}, "
                "so it could not write a second token",
                hint="export it in fp32",
            )


def _pairs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]]:
    """Each input of the cache, and the output that becomes it."""
    outputs = {value.name: value for value in graph.output}
    for past in graph.input:
        present = outputs.get(past.name.replace(_PAST, _PRESENT, 1))
        if past.name.startswith(_PAST) and present is not None:
            yield past, present


def settle_context(graph: onnx.GraphProto, folder: Path) -> None:
    """Make `config.json` say no longer context than the graph answers as the model.

    Tracing keeps the angles of a short text, the builder all of them.
    """
    config = read_config(folder)
    most = even(config)
    if most is None or most >= context(config) or padding_side(graph) == "right":
        return
    config["max_position_embeddings"] = most
    write_json(folder / "config.json", config)


def _head_size(config: Config) -> int:
    found = head_size(config)
    if found is None:
        raise InputError(
            "the graph's cache gives the width of a head by its name only, and config.json tells "
            "neither head_dim nor the model's width and number of heads",
            hint="give the folder of the model's own config.json: --model DIR",
        )
    return found
