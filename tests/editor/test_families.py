"""One edit in each architecture that has a default site: torch and ONNX give the same tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from memoir_edge.demo.facts import load_facts, model_dir, prompt
from memoir_edge.editor import (
    BaseModel,
    Editor,
    Wishes,
    choose,
    choose_site,
    default_site,
    load,
    structural_site,
)
from memoir_edge.edits import Edit
from memoir_edge.errors import SiteError
from memoir_edge.sites import SITES, preset

SPECIAL = {"vocab_size": 1500, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
COMMON = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
PLAIN = {**COMMON, "intermediate_size": 44, "max_position_embeddings": 64}
LLAMA = {**PLAIN, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 44, "num_layers": 3, "num_decoder_layers": 3}
T5 |= {"num_heads": 4, "n_positions": 64, "decoder_start_token_id": 2}
SIZES: dict[str, dict[str, Any]] = {
    "gemma": LLAMA | {"head_dim": 8},
    "gemma2": LLAMA | {"head_dim": 8},
    "gemma3_text": LLAMA | {"head_dim": 16},  # heads that are wider than the model
    "gpt2": GPT,
    "gpt_neox": PLAIN,
    "gptj": GPT | {"rotary_dim": 4},
    "llama": LLAMA,
    "mistral": LLAMA,
    "mt5": T5 | {"initializer_factor": 0.05},
    "opt": COMMON | {"word_embed_proj_dim": 32, "ffn_dim": 44, "max_position_embeddings": 64},
    "phi3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 8},
    "t5": T5,
}
EDITS = [
    Edit(id="a", prompt="The capital of France is", target="Rome", tags={}),
    Edit(id="b", prompt="The currency of Japan is the", target="peso", tags={}),
]


def test_every_default_site_is_tried() -> None:
    assert SIZES.keys() == SITES.keys()


# Architectures that no table names: their site is told by its shape.
UNNAMED: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "cohere": LLAMA,
    "falcon": COMMON | {"ffn_hidden_size": 128},
    "granite": LLAMA,
    "olmo2": LLAMA,
    "phi": PLAIN,
    "stablelm": LLAMA,
    "starcoder2": LLAMA,
}


def model(folder: Path, family: str, sizes: dict[str, Any]) -> BaseModel:
    """Random weights, the demo model's tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SPECIAL, **sizes)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((model_dir() / name).read_bytes())
    return load(str(folder), device="cpu")


def edited(base: BaseModel) -> Editor:
    """Two edits, trained for a little."""
    editor = Editor(base, choose(base, Wishes(steps=20)))
    trained = [change for edit in EDITS for change in editor.edit([edit])]
    assert all(change.steps > 0 and change.loss < 7.5 for change in trained)  # ln 1500 is 7.3
    return editor


@pytest.mark.parametrize("family", SIZES)
def test_the_table_names_what_the_shape_tells(family: str, tmp_path: Path) -> None:
    base = model(tmp_path, family, SIZES[family])
    assert structural_site(base.net, preset(base.config).depth) == default_site(base.config)


@pytest.mark.parametrize("family", UNNAMED)
def test_an_unnamed_architecture_is_edited(family: str, tmp_path: Path) -> None:
    base = model(tmp_path, family, UNNAMED[family])
    assert family not in SITES
    editor = edited(base)
    first, _ = editor.model.answer([edit.prompt for edit in EDITS], 4, memory=True)
    assert first.edit == "a"
    print(family, editor.settings.site)


def test_where_no_layer_stands_out_the_user_is_asked(tmp_path: Path) -> None:
    base = model(tmp_path, "mixtral", LLAMA | {"num_local_experts": 2, "num_experts_per_tok": 1})
    with pytest.raises(SiteError, match="no default site for model type 'mixtral'") as caught:
        choose_site(base.net, base.config)
    assert "--site" in str(caught.value.hint)
    assert "o_proj" in str(caught.value.hint)


@pytest.mark.parametrize("family", SIZES)
def test_edit_to_onnx_to_tokens(family: str, tmp_path: Path) -> None:
    pytest.importorskip("optimum", reason="optimum-onnx needs transformers 4")
    from memoir_edge_exporter import export
    from memoir_edge_runtime import Options, Session

    editor = edited(model(tmp_path, family, SIZES[family]))
    export(model=tmp_path, out=tmp_path / "onnx")
    session = Session(tmp_path / "onnx", memory=editor.memory())
    others = [prompt(fact, 1) for fact in load_facts()[::200]]
    asked = [edit.prompt for edit in EDITS] + others
    theirs = editor.model.answer(asked, 8, memory=True)
    ours = session.generate(asked, Options(max_new_tokens=8))
    assert [result.text for result in ours] == [answer.text for answer in theirs]
    assert [result.fired for result in ours] == [answer.edit for answer in theirs]
    assert [result.fired for result in ours[:2]] == ["a", "b"]
