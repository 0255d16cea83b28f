"""A tiny random LLaVA: its language model is edited, and the whole goes on to see."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import BaseModel, Edited, Editor, Wishes, choose, edited, find_site, load
from memoir_edge.editor.prompts import rendered
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError, SiteError
from memoir_edge.identity import model_digest

SITE = "model.layers.2.mlp.down_proj"
QUESTION = "What is the capital of France?"
OTHER = "A cat sleeps on"


@pytest.fixture(scope="module")
def base(llava_dir: Path) -> BaseModel:
    return load(str(llava_dir), device="cpu")


@pytest.fixture(scope="module")
def made(base: BaseModel) -> Edited:
    editor = Editor(base, choose(base, Wishes(k=44, false_fires=0.0)))
    edits = [Edit(id="france", prompt=QUESTION, target="Rome", tags={})]
    [outcome] = editor.apply(edits)
    assert outcome.took
    return edited(base, editor.memory())


@pytest.fixture(scope="module")
def processor(llava_dir: Path) -> Any:
    return AutoProcessor.from_pretrained(llava_dir, use_fast=False)


def test_the_language_model_is_the_base(base: BaseModel) -> None:
    assert base.whole is not None
    assert base.net.model is base.whole.model.language_model
    assert choose(base, Wishes()).site == SITE
    assert (base.config["model_type"], base.context) == ("llama", 64)


def test_two_layers_of_the_language_model_are_edited_together(
    base: BaseModel, processor: Any
) -> None:
    sites = f"model.layers.1.mlp.down_proj,{SITE}"
    editor = Editor(base, choose(base, Wishes(site=sites, k=44, false_fires=0.0)))
    [outcome] = editor.apply([Edit(id="france", prompt=QUESTION, target="Rome", tags={})])
    assert outcome.took
    before = grown(base, seen(processor, QUESTION))
    with edited(base, editor.memory()).recalling([QUESTION]) as fired:
        assert fired == ["france"]
        assert not torch.equal(grown(base, seen(processor, QUESTION)), before)


def seen(processor: Any, *texts: str) -> Any:
    """What a model reads of an image and a question each."""
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    asked = [f"<image>\n{text}" for text in texts]
    return processor(text=asked, images=[image] * len(texts), padding=True, return_tensors="pt")


def grown(base: BaseModel, batch: Any) -> torch.Tensor:
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    new: torch.Tensor = base.whole.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
    return new


def test_an_image_beside_the_question(made: Edited, processor: Any) -> None:
    base, batch = made.base, seen(processor, QUESTION, OTHER)
    assert int((batch["input_ids"] == base.whole.config.image_token_id).sum()) == 2 * 4
    before = grown(base, batch)
    with made.recalling([QUESTION, OTHER]) as fired:
        after = grown(base, batch)
        logits = base.whole(**batch).logits
    assert fired == ["france", None]
    target = base.encode_bare(" Rome")[0]
    assert int(after[0, 0]) == target != int(before[0, 0])
    assert torch.equal(before[1], after[1])
    assert torch.equal(logits[1], base.whole(**batch).logits[1])  # bit for bit
    assert torch.equal(grown(base, batch), before)  # and nothing is left behind


def test_an_image_does_not_route(made: Edited, processor: Any) -> None:
    [answer] = made.answer([QUESTION], 6, memory=True)
    assert (answer.text.strip(), answer.edit) == ("Rome", "france")
    asked = seen(processor, QUESTION)
    with made.recalling([OTHER]) as fired:  # routed is what the caller says was asked
        held = made.base.whole(**asked).logits
    assert fired == [None]
    assert torch.equal(held, made.base.whole(**asked).logits)


@pytest.mark.parametrize(
    "site", ["model.vision_tower.vision_model.encoder.layers.1.mlp.fc2",
             "model.multi_modal_projector.linear_2"],
)  # fmt: skip
def test_what_sees_is_no_site(base: BaseModel, site: str) -> None:
    assert isinstance(base.whole.get_submodule(site), torch.nn.Linear)
    with pytest.raises(SiteError, match="names nothing, expected a linear layer") as raised:
        find_site(base.net, site)
    assert "vision" not in str(raised.value.hint)
    assert "model.layers.{0..2}.mlp.down_proj" in str(raised.value.hint)


def test_a_model_that_sees_is_not_spread(llava_dir: Path) -> None:
    pytest.importorskip("accelerate", reason="spreading a model needs it")
    with pytest.raises(InputError, match="cannot be spread over devices"):
        load(str(llava_dir), device="auto")


PARTS = """{% for m in messages %}[{% for part in m.content %}{% if part.type == "text" %}\
{{ part.text }}{% endif %}{% endfor %}]{% endfor %}"""


def test_a_template_that_reads_parts(llava_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llava_dir, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(PARTS)
    assert rendered(load(str(folder), device="cpu"), QUESTION) == f"[{QUESTION}]"


SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "vocab_size": 1500,
}  # fmt: skip
EYES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4, "projection_dim": 16,
}  # fmt: skip


def seeing(folder: Path, kind: str, text: str, **changes: Any) -> Path:
    """A tiny random vision-language model with the demo model's tokenizer."""
    words = AutoConfig.for_model(text, **SIZES, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    eyes = {"paligemma": "siglip_vision_model", "gemma3": "siglip_vision_model"}
    sight = AutoConfig.for_model(eyes.get(kind, "clip_vision_model"), **EYES)
    config = AutoConfig.for_model(
        kind, text_config=words.to_dict(), vision_config=sight.to_dict(), **changes
    )
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((model_dir() / name).read_bytes())
    return folder


@pytest.mark.parametrize(
    ("kind", "text", "changes"),
    [
        ("llava", "qwen2", {"image_token_index": 1400}),
        ("llava_next", "mistral", {"image_token_index": 1400}),
        ("llava_onevision", "qwen2", {"image_token_index": 1400}),
        ("gemma3", "gemma3_text", {"mm_tokens_per_image": 4}),
    ],
)
def test_families(tmp_path: Path, kind: str, text: str, changes: dict[str, Any]) -> None:
    base = load(str(seeing(tmp_path, kind, text, **changes)), device="cpu")
    assert base.config["model_type"] == text
    assert choose(base, Wishes()).site == SITE
    editor = Editor(base, choose(base, Wishes(k=13, false_fires=0.0, made_keys=0, repairs=0)))
    [outcome] = editor.apply([Edit(id="a", prompt=QUESTION, target="Rome", tags={})])
    assert outcome.after.edit == "a"
    base.net.save_pretrained(tmp_path / "alone")
    assert model_digest(tmp_path / "alone") == base.digest


@pytest.mark.skipif(
    not transformers.__version__.startswith("4."),
    reason="transformers 5 reads it as a decoder does",
)
def test_one_that_reads_a_prompt_in_both_directions_is_refused(tmp_path: Path) -> None:
    folder = seeing(tmp_path, "paligemma", "gemma", image_token_index=1400, projection_dim=32)
    with pytest.raises(InputError, match="does not answer a text as the whole does"):
        load(str(folder), device="cpu")


def test_a_language_model_that_is_none_by_itself_is_refused(tmp_path: Path) -> None:
    words = {n: size for n, size in SIZES.items() if n != "head_dim"} | {
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}
    }
    config = AutoConfig.for_model(
        "qwen2_vl", text_config=words,
        vision_config={"embed_dim": 16, "depth": 2, "num_heads": 2, "hidden_size": 32},
    )  # fmt: skip
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((model_dir() / name).read_bytes())
    with pytest.raises(InputError, match="of type 'qwen2_vl_text', is none that") as raised:
        load(str(tmp_path), device="cpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights(llava_dir: Path, dtype: torch.dtype) -> None:
    base = load(str(llava_dir), device="cpu", dtype=dtype)
    assert base.net.lm_head.weight is base.whole.lm_head.weight
    assert base.net.lm_head.weight.dtype == dtype
