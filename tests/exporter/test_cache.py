"""What a graph says of its cache."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

from fused import fused
from memoir_edge.base import context, read_config
from memoir_edge.errors import GraphError, InputError
from memoir_edge_exporter import export
from memoir_edge_exporter._cache import (
    padding_side,
    require_types,
    settle_context,
    settle_sizes,
)
from memoir_edge_runtime import Options, Session

CONFIG = {"hidden_size": 32, "num_attention_heads": 4}
NAMED = [CONFIG, {"n_embd": 32, "n_head": 4}, {"d_model": 32, "n_heads": 4}]


def widths(graph: onnx.GraphProto) -> list[list[str | int]]:
    return [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
        if value.name.endswith((".key", ".value"))
    ]


@pytest.mark.parametrize("config", NAMED)
def test_a_width_that_has_a_name_only_gets_its_number(
    llama, tmp_path: Path, config: dict[str, int]
) -> None:
    graph = onnx.load(fused(llama.model, tmp_path) / "model.onnx").graph
    before = widths(graph)
    assert {row[3] for row in before} == {"kv_cache_dim"}
    settle_sizes(graph, config)
    assert widths(graph) == [[*row[:3], 8] for row in before]
    settle_sizes(graph, CONFIG | {"head_dim": 16})
    assert {row[3] for row in widths(graph)} == {8}  # a number stays


def test_a_width_that_nothing_tells_is_refused(llama, tmp_path: Path) -> None:
    graph = onnx.load(fused(llama.model, tmp_path) / "model.onnx").graph
    with pytest.raises(InputError, match="width of a head") as caught:
        settle_sizes(graph, {"hidden_size": 32})
    assert caught.value.hint


def test_a_graph_of_optimum_stays_as_it_is(llama) -> None:
    graph = onnx.load(llama.base / "model.onnx").graph
    before = graph.SerializeToString()
    settle_sizes(graph, CONFIG)
    assert graph.SerializeToString() == before


def test_rows_are_padded_where_attention_wants_it(llama, gpt2, tmp_path: Path) -> None:
    assert padding_side(onnx.load(llama.base / "model.onnx").graph) == "left"
    assert padding_side(onnx.load(gpt2.base / "model.onnx").graph) == "left"
    assert padding_side(onnx.load(fused(llama.model, tmp_path) / "model.onnx").graph) == "right"


def test_what_is_said_of_sizes_inside_a_graph_does_not_count(llama) -> None:
    graph = onnx.load(llama.base / "model.onnx").graph
    inner = graph.node[0].output[0]
    graph.value_info.append(onnx.helper.make_tensor_value_info(inner, 1, ["sequence_length", 3]))
    settle_sizes(graph, CONFIG)
    assert not graph.value_info


def test_a_cache_that_cannot_be_fed_again_is_refused(llama, tmp_path: Path) -> None:
    """As optimum-onnx writes a Gemma in float16."""
    folder = Path(shutil.copytree(llama.base, tmp_path / "base"))
    model = onnx.load(folder / "model.onnx")
    [given] = [value for value in model.graph.input if value.name == "past_key_values.1.key"]
    require_types(model.graph)
    given.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, folder / "model.onnx")
    said = r"takes past_key_values\.1\.key as float16 and gives present\.1\.key as float,"
    with pytest.raises(GraphError, match=said) as raised:
        export(onnx_dir=folder, out=tmp_path / "out")
    assert raised.value.hint == "export it in fp32"
    assert not (tmp_path / "out").exists()


LONG = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
SIZES = {"max_position_embeddings": 128, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("said", "of_a_trace"),
    [
        ({"rope_scaling": LONG}, 16),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, 16),
        ({"rope_scaling": None}, 128),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, 128),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 128),
        ({"rope_scaling": LONG, "original_max_position_embeddings": 128}, 128),
    ],
    ids=str,
)
def test_the_context_ends_where_the_angles_of_a_trace_do(
    llama, tmp_path: Path, said: dict[str, Any], of_a_trace: int
) -> None:
    built = onnx.load(fused(llama.model, tmp_path) / "model.onnx").graph
    traced = onnx.load(llama.base / "model.onnx").graph
    for graph, wanted in ((built, 128), (traced, of_a_trace)):
        (tmp_path / "config.json").write_text(json.dumps(SIZES | said))
        settle_context(graph, tmp_path)
        assert context(read_config(tmp_path)) == wanted


def test_a_longrope_answers_as_the_model_as_far_as_it_goes(llama, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "vocab_size": 258}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    torch.manual_seed(0)
    config = Phi3Config(**sizes, **heads, **SIZES, rope_scaling=LONG, pad_token_id=2)
    model = tmp_path / "model"
    Phi3ForCausalLM(config).save_pretrained(model)
    (model / "tokenizer.json").write_bytes((llama.model / "tokenizer.json").read_bytes())
    session = Session(export(model=model, out=tmp_path / "out").out)
    [said] = session.generate("abcde", Options(max_new_tokens=99))
    assert said.prompt_tokens + len(said.ids) == 16
    ids = torch.tensor([session.language.tokenizer.encode("abcde")])
    net = AutoModelForCausalLM.from_pretrained(model).eval()
    with torch.no_grad():
        wanted = net.generate(ids, max_length=16, do_sample=False, eos_token_id=None)
    assert said.ids == tuple(wanted[0, said.prompt_tokens :].tolist())
