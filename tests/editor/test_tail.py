"""The end of a model against whole runs of it; and where there is none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from memoir_edge.demo.facts import load_facts, model_dir, prompt
from memoir_edge.editor import BaseModel, load
from memoir_edge.editor import tail as module
from memoir_edge.editor.layer import changed
from memoir_edge.editor.model import Row, collate
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.tail import Tail, tail_of

LAST = "model.layers.2.mlp.down_proj"
PROMPTS = [prompt(fact, i % 8) for i, fact in enumerate(load_facts()[::60])]


@pytest.fixture
def tail(tiny: BaseModel) -> Tail:
    found = tail_of(tiny, LAST)
    assert found
    return found


@torch.no_grad()
def test_logits_follow_from_the_last_blocks_output_and_what_is_added(
    tiny: BaseModel, tail: Tail
) -> None:
    batch = collate(tiny, [tiny.encode(text) for text in PROMPTS[:4]], side="right")
    real = batch["attention_mask"].bool()
    a, out = tail.reach(batch)
    torch.manual_seed(0)
    Wm = torch.randn(32, 44) * 0.1
    with changed(tail.site, lambda a: a @ Wm.T):
        wanted = tiny.net(**batch, use_cache=False).logits[real]
    found = tail.logits((out + a @ Wm.T)[real])
    assert torch.allclose(found, wanted, atol=1e-5)
    ids = torch.tensor([3, 700, 41])
    assert torch.allclose(tail.logits(out[real], ids), tail.logits(out[real])[:, ids], atol=1e-6)


@torch.no_grad()
def test_looks_are_the_logits_of_all_tokens(
    tiny: BaseModel, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOGITS", 3 * 700)
    out = tail.reach(collate(tiny, [tiny.encode(PROMPTS[0])], side="right"))[1][0, :3]
    firsts, parts = zip(*tail.looks(out), strict=True)
    assert firsts == (0, 700, 1400)
    assert torch.allclose(torch.cat(parts, dim=1), tail.logits(out), atol=1e-5)


@torch.no_grad()
def test_where_only_a_norm_stands_before_the_head_no_more_is_run(
    tiny: BaseModel, tail: Tail
) -> None:
    assert tail.norm is tiny.net.get_submodule("model.norm")
    out = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tail.logits(out), replace(tail, norm=None).logits(out))
    ids = torch.tensor([3, 700, 41])
    assert torch.equal(tail.logits(out, ids), replace(tail, norm=None).logits(out, ids))


def test_what_else_is_done_to_logits_is_done(tiny: BaseModel, monkeypatch: Any) -> None:
    """Some models scale them, or cap them."""
    forward = type(tiny.net).forward

    def capped(self: Any, **given: Any) -> Any:
        result = forward(self, **given)
        result.logits = result.logits.tanh()
        return result

    monkeypatch.setattr(type(tiny.net), "forward", capped)
    found = tail_of(tiny, LAST)
    assert found
    assert found.norm is None
    assert found.logits(torch.randn(3, 32)).abs().max() <= 1


def test_the_model_is_as_it_was(tiny: BaseModel, tail: Tail) -> None:
    batch = collate(tiny, [tiny.encode(PROMPTS[0])], side="right")
    blocks, whole = tiny.net.get_submodule("model.layers"), tiny.net(**batch).logits
    tail.logits(tail.reach(batch)[1][0])
    assert tiny.net.get_submodule("model.layers") is blocks
    assert not any("forward" in vars(module) for module in tiny.net.modules())
    assert torch.equal(tiny.net(**batch).logits, whole)


def test_a_model_that_heeds_no_mask_of_ours_weaves_nothing(
    tiny: BaseModel, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tail.weaves
    forward = type(tiny.net).forward

    def deaf(self: Any, attention_mask: Any = None, position_ids: Any = None, **rest: Any) -> Any:
        return forward(self, position_ids=position_ids, **rest)

    def refuses(self: Any, attention_mask: Any, position_ids: Any = None, **rest: Any) -> Any:
        if attention_mask.ndim == 4:
            raise ValueError("no such mask")
        return forward(self, attention_mask=attention_mask, position_ids=position_ids, **rest)

    for other in (deaf, refuses):
        monkeypatch.setattr(type(tiny.net), "forward", other)
        found = tail_of(tiny, LAST)
        assert found
        assert not found.weaves


@pytest.fixture
def normed(tmp_path: Path) -> BaseModel:
    """A tiny Gemma 3, whose site's output passes a norm."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma3_text", vocab_size=1500, hidden_size=32, intermediate_size=44, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        sliding_window=16, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((model_dir() / name).read_bytes())
    return load(str(tmp_path), device="cpu")


@torch.no_grad()
def test_a_norm_behind_the_site_is_a_part_of_the_tail(normed: BaseModel) -> None:
    tail = tail_of(normed, LAST)
    assert tail
    assert tail.behind is normed.net.get_submodule("model.layers.2.post_feedforward_layernorm")
    batch = collate(normed, [normed.encode(text) for text in PROMPTS[:4]], side="right")
    real = batch["attention_mask"].bool()
    a, out = tail.reach(batch)
    Wm = torch.randn(32, 44, generator=torch.Generator().manual_seed(0)) * 0.1
    with changed(tail.site, lambda a: a @ Wm.T):
        wanted = normed.net(**batch, use_cache=False).logits[real]
    found = tail.logits(tail.moved(out, tail.site(a), a @ Wm.T)[real])
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(tail.logits((out + a @ Wm.T)[real]), wanted, atol=1e-2)


def test_rows_that_a_window_parts_are_not_woven(normed: BaseModel) -> None:
    """Attention reaches 16 tokens back, which a mask of ours knows nothing of."""
    tail = tail_of(normed, LAST)
    assert tail
    assert tail.weaves
    rows = [Row(normed.encode(" ".join(PROMPTS[:3])), [5, 1]), Row(normed.encode(PROMPTS[0]), [5])]
    assert len(rows[0].prompt) > 16
    read = Readings(normed, LAST).of(rows)
    apart = [tail.reach(collate(normed, [[*row.prompt, *row.target[:-1]]], side="right"))
             for row in rows]  # fmt: skip
    places = [slice(len(row.prompt) - 1, None) for row in rows]
    a = torch.cat([a[0, place] for (a, _), place in zip(apart, places, strict=True)])
    assert torch.allclose(read.a, a, atol=1e-5)


def test_gradients_reach_what_is_added(tail: Tail) -> None:
    out = torch.zeros(3, 32, requires_grad=True)
    tail.logits(out + 1).sum().backward()
    assert out.grad is not None
    assert (out.grad != 0).any()


@pytest.mark.parametrize("path", ["model.layers.1.mlp.down_proj", "lm_head"])
def test_a_site_that_later_blocks_read_or_that_is_in_none_has_no_tail(
    tiny: BaseModel, path: str
) -> None:
    assert tail_of(tiny, path) is None


@pytest.mark.parametrize("wrap", [lambda y: 2 * y, lambda y: y + y.mean(1, keepdim=True)])
def test_a_site_whose_output_is_scaled_or_read_elsewhere_has_no_tail(
    tiny: BaseModel, wrap: Any
) -> None:
    mlp = tiny.net.get_submodule("model.layers.2.mlp")
    with mlp.register_forward_hook(lambda _module, _args, y: wrap(y)):
        assert tail_of(tiny, LAST) is None


@torch.no_grad()
def test_an_encoder_decoder_has_one(t5: BaseModel) -> None:
    """Neither its encoder nor any other block need run for logits."""
    found = tail_of(t5, "decoder.block.1.layer.2.DenseReluDense.wo")
    assert found
    assert not found.weaves
    assert tail_of(t5, "decoder.block.0.layer.2.DenseReluDense.wo") is None
    sources = [[4, 5, 1], [9, 1]]
    batch = collate(t5, [[0, 5, 6], [0, 7]], side="right", sources=sources)
    real = batch["decoder_attention_mask"].bool()
    a, out = found.reach(batch)
    Wm = torch.randn(32, 44, generator=torch.Generator().manual_seed(0)) * 0.1
    with changed(found.site, lambda a: a @ Wm.T):
        wanted = t5.net(**batch).logits[real]
    ran: list[int] = []
    blocks = [*t5.net.get_submodule("encoder.block"), t5.net.get_submodule("decoder.block.0")]
    hooks = [block.register_forward_hook(lambda *_: ran.append(1)) for block in blocks]
    logits = found.logits((out + a @ Wm.T)[real])
    for hook in hooks:
        hook.remove()
    assert torch.allclose(logits, wanted, atol=1e-4)
    assert not ran
