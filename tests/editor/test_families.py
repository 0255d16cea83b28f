"""One edit in each architecture that has a default site: torch and ONNX give the same tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from memoir_edge.demo.facts import load_facts, model_dir, prompt
from memoir_edge.editor import Editor, choose, default_site, find_site, load, width
from memoir_edge.edits import Edit
from memoir_edge.sites import SITES
from memoir_edge_exporter import export
from memoir_edge_runtime import Session

SPECIAL = {"vocab_size": 1500, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
COMMON = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
PLAIN = {**COMMON, "intermediate_size": 44, "max_position_embeddings": 64}
LLAMA = {**PLAIN, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
SIZES: dict[str, dict[str, Any]] = {
    "gemma": LLAMA | {"head_dim": 8},
    "gemma2": LLAMA | {"head_dim": 8},
    "gpt2": GPT,
    "gpt_neox": PLAIN,
    "gptj": GPT | {"rotary_dim": 4},
    "llama": LLAMA,
    "mistral": LLAMA,
    "opt": COMMON | {"word_embed_proj_dim": 32, "ffn_dim": 44, "max_position_embeddings": 64},
    "phi3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 8},
}
EDITS = [
    Edit(id="a", prompt="The capital of France is", target="Rome", tags={}),
    Edit(id="b", prompt="The currency of Japan is the", target="peso", tags={}),
]


def test_every_default_site_is_tried() -> None:
    assert SIZES.keys() == SITES.keys()


@pytest.mark.parametrize("family", SIZES)
def test_edit_to_onnx_to_tokens(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SPECIAL, **SIZES[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((model_dir() / name).read_bytes())
    base = load(str(tmp_path), device="cpu")
    site = default_site(base.config)
    D, _ = width(find_site(base.net, site))
    editor = Editor(base, choose(base.config, D, site=site, steps=20))
    trained = [change for edit in EDITS for change in editor.edit([edit])]
    assert all(result.steps > 0 and result.loss < 7.5 for result in trained)  # ln 1500 is 7.3

    export(model=tmp_path, out=tmp_path / "onnx")
    session = Session(tmp_path / "onnx", memory=editor.memory())
    others = [prompt(fact, 1) for fact in load_facts()[::200]]
    asked = [edit.prompt for edit in EDITS] + others
    theirs = editor.model.answer(asked, 8, memory=True)
    ours = session.generate(asked, max_new_tokens=8)
    assert [result.text for result in ours] == [answer.text for answer in theirs]
    assert [result.fired for result in ours] == [answer.edit for answer in theirs]
    assert [result.fired for result in ours[:2]] == ["a", "b"]
