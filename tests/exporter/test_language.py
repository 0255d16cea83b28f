"""A vision-language model's language model as a folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from memoir_edge.base import read_config
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import choose_site, load
from memoir_edge.editor.model import greedy
from memoir_edge.errors import InputError
from memoir_edge.identity import model_digest
from memoir_edge_exporter import export
from memoir_edge_exporter._base_graph import base_graph
from memoir_edge_exporter._language import language_folder
from memoir_edge_runtime import Options, Session


def test_it_is_the_same_model_by_itself(llava_dir: Path, tmp_path: Path) -> None:
    whole = load(str(llava_dir), device="cpu")
    with language_folder(llava_dir, tmp_path / "out") as folder:
        alone = load(str(folder), device="cpu")
        assert read_config(folder)["model_type"] == "llama"
        assert not list(folder.glob("*processor*"))
    assert not list(tmp_path.iterdir())
    assert (alone.digest, alone.eos, alone.context) == (whole.digest, whole.eos, whole.context)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(alone.net(input_ids=ids).logits, whole.net(input_ids=ids).logits)


def test_sizes_that_the_configuration_leaves_out(tmp_path: Path) -> None:
    """As llava-1.5's: of its text_config only what is no default of a Llama is written."""
    config = LlavaConfig(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            image_size=8, patch_size=4,
        ),
        LlamaConfig(vocab_size=1500, hidden_size=64, intermediate_size=40, bos_token_id=0),
        image_token_index=1400,
    )  # fmt: skip
    model, out = tmp_path / "model", tmp_path / "out"
    LlavaForConditionalGeneration(config).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((model_dir() / name).read_bytes())
    said = read_config(model)
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"):
        del said["text_config"][name]
    (model / "config.json").write_text(json.dumps(said))
    base = load(str(model), device="cpu")
    made = export(model=model, out=out).sidecar
    assert (made.digest, made.D) == (base.digest, 40)
    assert made.site == choose_site(base.net, base.config) == "model.layers.27.mlp.down_proj"


@pytest.mark.parametrize(
    "asked", [{"dtype": "fp16"}, {"dtype": "int4"}, {"kind": "cache"}], ids=str
)
def test_types_and_ports(llava_dir: Path, tmp_path: Path, asked: dict[str, Any]) -> None:
    made = export(model=llava_dir, out=tmp_path / "out", **asked)
    assert made.sidecar.digest == model_digest(llava_dir)
    [said] = Session(made.out).generate("A cat sleeps on", Options(max_new_tokens=8))
    assert said.text == wanted(llava_dir, tmp_path, asked)


def wanted(llava_dir: Path, tmp_path: Path, asked: dict[str, Any]) -> str:
    """What the model says in PyTorch; in few bits, what an export of its language model says."""
    if asked == {"dtype": "int4"}:
        with language_folder(llava_dir, tmp_path / "alone") as folder:
            alone = export(model=folder, out=tmp_path / "few", **asked)
        [said] = Session(alone.out).generate("A cat sleeps on", Options(max_new_tokens=8))
        return said.text
    whole = load(str(llava_dir), device="cpu")
    return whole.decode(greedy(whole, [whole.encode("A cat sleeps on")], 8)[0])


def test_a_spoiled_folder_is_one_line(llava_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(llava_dir, tmp_path / "model")
    (model / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot load a vision-language model") as raised:
        export(model=model, out=tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_given_graph_takes_its_configuration_and_digest(llava_dir: Path, tmp_path: Path) -> None:
    with language_folder(llava_dir, tmp_path / "out") as folder:
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "alone")
        (tmp_path / "graph").mkdir()
        base_graph(folder, tmp_path / "graph", "fp32")
    (tmp_path / "graph" / "config.json").unlink()
    made = export(model=llava_dir, onnx_dir=tmp_path / "graph", out=tmp_path / "out")
    assert made.sidecar.digest == model_digest(llava_dir) == model_digest(tmp_path / "alone")
    assert read_config(made.out)["max_position_embeddings"] == 64
