"""What transformers 5 writes of rotary positions is read as it was meant, whatever is installed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from memoir_edge import rope
from memoir_edge.base import read_config
from memoir_edge.editor.model import load
from memoir_edge.errors import InputError
from memoir_edge.identity import model_digest
from memoir_edge.rope import as_installed, renamed

SIZES = {
    "vocab_size": 1500, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256,
    "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LONG = {"short_factor": [2.0, 1.0, 3.0, 1.0], "long_factor": [2.0, 5.0, 3.0, 4.0]}
GEMMA = {
    "head_dim": 8, "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
OLD = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")
OLD += ("rotary_pct", "rotary_emb_base", "rope_parameters")


def saved(kind: str, *, old: dict[str, Any], new: dict[str, Any], **more: Any) -> Any:
    """A model's type and its sizes; its positions as transformers 4.57 and 5 save them."""
    return pytest.param(kind, more, old, new, id=f"{kind} {' '.join(old)}")


SAVED = [
    saved(
        "llama",
        old={"rope_theta": 100.0},
        new={"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}},
    ),
    saved(
        "llama",
        old={"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        new={
            "rope_parameters": {
                "rope_theta": 100.0, "rope_type": "linear", "type": "linear", "factor": 2.0
            }
        },
    ),
    saved(
        "qwen2",
        old={"rope_theta": 100.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        new={"rope_parameters": {"rope_theta": 100.0, "rope_type": "llama3", **LLAMA3}},
    ),
    saved(
        "phi3",
        original_max_position_embeddings=64,
        old={
            "rope_theta": 100.0, "partial_rotary_factor": 1.0,
            "rope_scaling": {"type": "longrope", **LONG},
        },
        new={
            "partial_rotary_factor": 1.0,
            "rope_parameters": {
                "rope_theta": 100.0, "rope_type": "longrope", "type": "longrope", **LONG,
                "partial_rotary_factor": 1.0, "original_max_position_embeddings": 64,
            },
        },
    ),
    saved(
        "stablelm",
        old={
            "rope_theta": 100.0, "partial_rotary_factor": 0.5,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
        new={
            "rope_parameters": {
                "rope_theta": 100.0, "partial_rotary_factor": 0.5, "rope_type": "linear",
                "factor": 2.0,
            }
        },
    ),
    saved(
        "gpt_neox",
        old={"rope_theta": 100, "rotary_emb_base": 100, "rotary_pct": 0.5},
        new={
            "rope_parameters": {
                "rope_theta": 100, "partial_rotary_factor": 0.5, "rope_type": "default"
            }
        },
    ),
    saved(
        "gemma3_text",
        **GEMMA,
        old={
            "rope_theta": 100.0, "rope_local_base_freq": 50.0,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
        new={
            "rope_parameters": {
                "full_attention": {"rope_theta": 100.0, "rope_type": "linear", "factor": 2.0},
                "sliding_attention": {"rope_theta": 50.0, "rope_type": "default"},
            }
        },
    ),
]  # fmt: skip


def said(folder: Path, new: dict[str, Any]) -> Path:
    """A folder whose configuration says this of rotary positions, and nothing else of them."""
    rest = {name: value for name, value in read_config(folder).items() if name not in OLD}
    (folder / "config.json").write_text(json.dumps(rest | new), encoding="utf-8")
    return folder


def logits(folder: Path) -> torch.Tensor:
    net = load(str(folder), device="cpu").net
    with torch.no_grad():
        return net(input_ids=torch.arange(3, 90)[None]).logits


@pytest.mark.parametrize(("kind", "more", "old", "new"), SAVED)
def test_one_model_however_its_positions_are_saved(
    kind: str, more: dict[str, Any], old: dict[str, Any], new: dict[str, Any],
    tiny_dir: Path, tmp_path: Path,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | more))
    ignored = shutil.ignore_patterns("*.safetensors", "*config.json")
    folder = Path(shutil.copytree(tiny_dir, tmp_path / "model", ignore=ignored))
    net.save_pretrained(folder)
    plain = logits(folder)
    before, digest = logits(said(folder, old)), model_digest(folder)
    assert not torch.allclose(plain, before, atol=0.01)
    assert torch.equal(logits(said(folder, new)), before)
    assert model_digest(folder) == digest


def test_the_demo_model_and_what_lies_in_its_folder_stay(demo_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo_dir, tmp_path / "model"))
    before = logits(said(folder, {"rope_theta": 1e6}))
    with as_installed(folder) as read:
        assert read == folder
    said(folder, {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}})
    config = (folder / "config.json").read_bytes()
    assert torch.equal(logits(folder), before)
    with as_installed(folder) as read:
        assert {file.name for file in read.iterdir()} == {file.name for file in folder.iterdir()}
    assert (folder / "config.json").read_bytes() == config


def test_of_a_vision_language_model_its_text_is_read_so(llava_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_dir, tmp_path / "model"))
    text = read_config(folder)["text_config"]
    text = {name: value for name, value in text.items() if name not in OLD}
    before = logits(said(folder, {"text_config": text | {"rope_theta": 100.0}}))
    new = {"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}}
    assert torch.equal(logits(said(folder, {"text_config": text | new})), before)


LAYERS = {
    "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
}


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("llama", LAYERS),
        ("olmo3", LAYERS),
        ("gemma3_text", {**LAYERS, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}),
        ("gemma3_text", {**LAYERS, "other_attention": {"rope_type": "default"}}),
        ("gemma3_text", {"sliding_attention": LAYERS["sliding_attention"]}),
    ],
)
def test_layers_that_have_no_names_are_refused(
    kind: str, layers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"model_type": kind, "rope_parameters": layers}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(rope, "version", lambda _: "4.57.6")
    with pytest.raises(InputError, match=r"by the kind of layer.* 4\.57\.6") as raised:
        as_installed(tmp_path).__enter__()
    assert "transformers>=5" in str(raised.value.hint)
    monkeypatch.setattr(rope, "version", lambda _: "5.0.0")
    with as_installed(tmp_path) as read:
        assert read == tmp_path


def test_layers_of_one_theta() -> None:
    same = {"rope_theta": 1e6, "rope_type": "default"}
    layers = {"full_attention": same, "sliding_attention": same}
    assert renamed({"model_type": "olmo3", "rope_parameters": layers}) == {
        "model_type": "olmo3", "rope_theta": 1e6, "rope_scaling": None
    }  # fmt: skip
