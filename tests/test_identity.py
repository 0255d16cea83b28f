"""One identity of a model, however its weights are saved and whatever lies beside them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MT5Config,
    T5Config,
)

from memoir_edge import identity
from memoir_edge.base import weights_digest
from memoir_edge.errors import InputError
from memoir_edge.identity import former_digests, model_digest

SAVED: list[dict[str, Any]] = [
    {},
    {"max_shard_size": "8KB"},
    {"safe_serialization": False},
    {"safe_serialization": False, "max_shard_size": "8KB"},
]


@pytest.fixture(params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model with tied embeddings in float16; one half of GPT-2's tensors are named otherwise."""
    torch.manual_seed(0)
    model = {
        "llama": lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=99, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
            )
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=99, n_positions=8, n_embd=16, n_layer=2, n_head=2)
        ),
    }[request.param]()  # fmt: skip
    model.half().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kept", SAVED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_is_the_same_however_it_is_saved(
    folder: Path, tmp_path: Path, kept: dict[str, Any], dtype: torch.dtype
) -> None:
    again = tmp_path / "again"
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(again, **kept)
    assert not (again / "model.safetensors").exists() or not kept
    assert model_digest(again) == model_digest(folder) is not None


@pytest.mark.parametrize("kind", [T5Config, MT5Config])
@pytest.mark.parametrize("tied", [True, False])
def test_an_encoder_decoder_is_the_same_with_the_copies_of_its_embedding(
    tmp_path: Path, kind: type[T5Config], tied: bool
) -> None:
    torch.manual_seed(0)
    config = kind(
        vocab_size=99, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4,
        decoder_start_token_id=0, tie_word_embeddings=tied,
    )  # fmt: skip
    net = AutoModelForSeq2SeqLM.from_config(config)
    net.save_pretrained(tmp_path / "one")
    digest = model_digest(tmp_path / "one")
    for number, kept in enumerate(SAVED):
        net.save_pretrained(tmp_path / str(number), **kept)
        assert model_digest(tmp_path / str(number)) == digest
    copies = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_file(copies, tmp_path / "one/model.safetensors", {"format": "pt"})
    assert model_digest(tmp_path / "one") == digest
    copies["encoder.embed_tokens.weight"] += 1
    save_file(copies, tmp_path / "one/model.safetensors", {"format": "pt"})
    assert model_digest(tmp_path / "one") != digest


def test_a_copy_without_wrapper_and_with_constants(folder: Path, tmp_path: Path) -> None:
    """As the hub has GPT-2: saved before the names and the set of tensors were what they are."""
    tensors = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).state_dict()
    plain = {name.partition(".")[2]: t for name, t in tensors.items() if "head" not in name}
    plain |= {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    plain["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(folder / "config.json", copy)
    torch.save(plain, copy / "pytorch_model.bin")
    assert model_digest(copy) == model_digest(folder)


def test_what_lies_beside_a_model_is_no_part_of_it(folder: Path) -> None:
    before = model_digest(folder)
    for name in ("facts.safetensors", "consolidated.safetensors", "adapter_model.bin"):
        shutil.copy(folder / "model.safetensors", folder / name)
    assert model_digest(folder) == before


@pytest.mark.parametrize("wide", [torch.bfloat16, torch.float64, torch.int64])
def test_one_number_more_or_less_is_another_model(folder: Path, wide: torch.dtype) -> None:
    before = model_digest(folder)
    tensors = {"a.weight": torch.arange(6.0).to(wide), "b.weight": torch.ones(2, 3, dtype=wide)}
    found = {before}
    for changed in (
        {},
        {"a.weight": torch.arange(1.0, 7.0).to(wide)},
        {"a.weight": torch.arange(6.0).to(wide).reshape(2, 3)},
        {"c.weight": torch.ones(1, dtype=wide)},
    ):
        save_file(tensors | changed, folder / "model.safetensors")
        found.add(model_digest(folder))
    save_file({"a.weight": tensors["a.weight"]}, folder / "model.safetensors")
    assert len(found | {model_digest(folder)}) == 6


def config(folder: Path, **changes: Any) -> str | None:
    raw = json.loads((folder / "config.json").read_text())
    raw = {name: value for name, value in (raw | changes).items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(raw))
    return model_digest(folder)


def test_the_configuration_counts_as_far_as_it_changes_what_the_tensors_do(folder: Path) -> None:
    before = model_digest(folder)
    assert config(folder, transformers_version="9", use_cache=False, _name_or_path="x") == before
    assert config(folder, dtype="float32", max_position_embeddings=77) == before
    assert config(folder, rope_theta="absent", rope_parameters="absent") == before
    assert config(folder, rope_theta=10000.0, rope_scaling=None) == before
    assert config(folder, rope_theta="absent", rope_scaling={"type": "default"}) == before
    theta = {"rope_theta": 5e5, "rope_type": "default"}
    moved = config(folder, rope_scaling="absent", rope_parameters=theta)
    assert moved == config(folder, rope_theta=500000, rope_parameters="absent") != before
    scaled = config(folder, rope_scaling={"type": "linear", "factor": 2.0})
    assert scaled == config(folder, rope_scaling={"rope_type": "linear", "factor": 2.0}) != moved
    assert config(folder, model_type="mistral") not in (before, moved, scaled)


def test_earlier_digests_are_known(folder: Path) -> None:
    before = weights_digest(folder)
    assert former_digests(folder) == (before,)
    shutil.copy(folder / "model.safetensors", folder / "facts.safetensors")
    assert set(former_digests(folder)) == {before, weights_digest(folder)}


def test_a_folder_without_weights_or_with_spoiled_ones(folder: Path, tmp_path: Path) -> None:
    assert model_digest(tmp_path / "none") is None
    assert former_digests(tmp_path / "none") == ()
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match="is no safetensors file"):
        model_digest(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no")
    with pytest.raises(InputError, match="is no file of weights"):
        model_digest(folder)
    (folder / "pytorch_model.bin.index.json").write_text("[]")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="expected an object"):
        model_digest(folder)
    for places, said in (({}, "no weight_map"), ({"weight_map": {"a": "b.bin"}}, "lacks b.bin")):
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(places))
        with pytest.raises(InputError, match=said):
            model_digest(folder)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"rope_scaling": [1]}, "rope_scaling [1], expected an object"),
        ({"rope_scaling": "linear"}, "rope_scaling 'linear', expected an object"),
        ({"rope_parameters": "none"}, "rope_parameters 'none', expected an object"),
        ({"rope_parameters": {"full_attention": 3}}, "full_attention 3, expected an object"),
        ({"rope_theta": "abc"}, "rope_theta 'abc', expected a number"),
        ({"rope_theta": [1]}, "rope_theta [1], expected a number"),
        ({"rope_theta": 10**400}, "expected a number"),
    ],
    ids=str,
)
def test_positions_in_another_form_are_one_error(
    folder: Path, said: dict[str, Any], found: str
) -> None:
    with pytest.raises(InputError, match=re.escape(found)) as raised:
        config(folder, **{"rope_parameters": None} | said)
    assert "copy the model" in str(raised.value.hint)


def test_a_theta_that_is_null_is_absent(folder: Path) -> None:
    absent = config(folder, rope_theta="absent", rope_parameters="absent")
    assert config(folder, rope_theta=None) == absent


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets"),
    [
        ("BF16", [1], [0, 3]),
        ("F32", [2], [0, 4]),
        ("F32", [1], [4, 0]),
        ("F32", [1], [-4, 0]),
        ("NEW", [1], [-4, 0]),
        ("NEW", [1], [4, 0]),
        ("F32", [1], [8, 12]),
        ("F32", ["one"], [0, 4]),
    ],
    ids=str,
)
def test_a_tensor_that_is_not_where_its_file_says_is_one_error(
    folder: Path, dtype: str, shape: list[Any], offsets: list[int]
) -> None:
    said = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    raw = len(said).to_bytes(8, "little") + said + bytes(8)
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(InputError, match="is no safetensors file"):
        model_digest(folder)


def test_large_tensors_are_read_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model_digest(folder)
    monkeypatch.setattr(identity, "_CHUNK", 8)
    assert model_digest(folder) == before


def test_a_vision_language_model_is_its_language_model(llava_dir: Path, tmp_path: Path) -> None:
    """However its tensors are called, whatever sees beside it, and saved by itself."""
    config = json.loads((llava_dir / "config.json").read_text())
    tensors = load_file(llava_dir / "model.safetensors")
    assert any(name.startswith("vision_tower.") for name in tensors)

    def digest(tensors: dict[str, torch.Tensor], config: Any = config) -> str | None:
        save_file(tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return model_digest(tmp_path)

    whole = digest(tensors)
    said = "language_model."
    inner = {n.removeprefix(said): x for n, x in tensors.items() if n.startswith(said)}
    later = {re.sub("^model", "model.language_model", n): x for n, x in inner.items()}
    sight = {f"model.{n}": x + 1 for n, x in tensors.items() if not n.startswith(said)}
    assert len(inner) + len(sight) == len(tensors)
    assert whole == model_digest(llava_dir) == digest(later | sight)
    assert whole == digest(inner, config["text_config"])
    first = "model.layers.0.mlp.up_proj.weight"
    assert whole != digest(inner | {first: inner[first] + 1}, config["text_config"])
