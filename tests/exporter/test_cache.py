"""What a graph says of its cache."""

from pathlib import Path

import onnx

from memoir_edge_exporter._cache import padding_side, settle_sizes

CONFIG = {"hidden_size": 32, "num_attention_heads": 4}


def widths(graph: onnx.GraphProto) -> list[list[str | int]]:
    return [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
        if value.name.endswith((".key", ".value"))
    ]


def test_a_width_that_has_a_name_only_gets_its_number(llama, fused, tmp_path: Path) -> None:
    graph = onnx.load(fused(llama.model, tmp_path) / "model.onnx").graph
    before = widths(graph)
    assert {row[3] for row in before} == {"kv_cache_dim"}
    settle_sizes(graph, CONFIG)
    assert widths(graph) == [[*row[:3], 8] for row in before]
    settle_sizes(graph, CONFIG | {"head_dim": 16})
    assert {row[3] for row in widths(graph)} == {8}  # a number stays


def test_a_graph_of_optimum_stays_as_it_is(llama) -> None:
    graph = onnx.load(llama.base / "model.onnx").graph
    before = graph.SerializeToString()
    settle_sizes(graph, CONFIG)
    assert graph.SerializeToString() == before


def test_rows_are_padded_where_attention_wants_it(llama, gpt2, fused, tmp_path: Path) -> None:
    assert padding_side(onnx.load(llama.base / "model.onnx").graph) == "left"
    assert padding_side(onnx.load(gpt2.base / "model.onnx").graph) == "left"
    assert padding_side(onnx.load(fused(llama.model, tmp_path) / "model.onnx").graph) == "right"


def test_what_is_said_of_sizes_inside_a_graph_does_not_count(llama) -> None:
    graph = onnx.load(llama.base / "model.onnx").graph
    inner = graph.node[0].output[0]
    graph.value_info.append(onnx.helper.make_tensor_value_info(inner, 1, ["sequence_length", 3]))
    settle_sizes(graph, CONFIG)
    assert not graph.value_info
