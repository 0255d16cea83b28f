"""Hooks on the edited layer that leave the model as it was."""

from typing import Any

import pytest
import torch

from memoir_edge.demo.facts import load_facts, prompt
from memoir_edge.editor import BaseModel
from memoir_edge.editor.layer import (
    Part,
    changed,
    decoded,
    head_writes,
    input_of,
    inputs_of,
    part_of,
    resumed_at,
    site_input,
)
from memoir_edge.editor.model import collate
from memoir_edge.editor.site import find_sites

SITE = "model.layers.1.mlp.down_proj"
PROMPTS = [prompt(fact, i % 8) for i, fact in enumerate(load_facts()[::60])]


def test_a_run_resumed_at_the_site_is_a_whole_run(tiny: BaseModel) -> None:
    """The same logits, bit for bit, from the site upwards; and the model is as it was."""
    batch = collate(tiny, [tiny.encode(text) for text in PROMPTS[:4]], side="right")
    blocks = tiny.net.get_submodule("model.layers")
    site = tiny.net.get_submodule(SITE)
    ran: list[int] = []
    hooks = [b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(blocks)]
    linear = [(n, m) for n, m in tiny.net.named_modules() if isinstance(m, torch.nn.Linear)]
    multiplied: list[str] = []

    def bump(a: torch.Tensor) -> torch.Tensor:
        return (a * 0.1) @ torch.ones(44, 32)

    with torch.no_grad():
        whole = tiny.net(**batch, use_cache=False).logits
        with changed(site, bump):
            moved = tiny.net(**batch, use_cache=False).logits
        with resumed_at(tiny.net, SITE, batch):
            ran.clear()
            with pytest.MonkeyPatch.context() as patch:
                for name, module in linear:
                    if "forward" not in vars(module):
                        patch.setattr(module, "forward", _told(module, name, multiplied))
                assert torch.equal(tiny.net(**batch, use_cache=False).logits, whole)
            with changed(site, bump):
                assert torch.equal(tiny.net(**batch, use_cache=False).logits, moved)
            assert ran == [1, 2, 1, 2]
            assert {name.split(".")[2] for name in multiplied if "layers" in name} == {"2"}
        with resumed_at(tiny.net, "lm_head", batch):  # in no block: nothing is taken out
            assert torch.equal(tiny.net(**batch, use_cache=False).logits, whole)
        assert torch.equal(tiny.net(**batch, use_cache=False).logits, whole)
    for hook in hooks:
        hook.remove()
    assert tiny.net.get_submodule("model.layers") is blocks
    assert not any("forward" in vars(module) for module in tiny.net.modules())


def _told(module: torch.nn.Linear, name: str, seen: list[str]) -> Any:
    forward = module.forward

    def tell(a: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return forward(a)

    return tell


@pytest.mark.parametrize("path", [SITE, "lm_head"])
def test_rows_run_apart_and_copied_are_the_same_rows(tiny: BaseModel, path: str) -> None:
    read = [tiny.encode(PROMPTS[0]), tiny.encode(" ".join(PROMPTS[:3])), tiny.encode(PROMPTS[1])]
    batch = collate(tiny, read, side="right")
    lengths = list(map(len, read))
    parts = [Part([0, 2], max(lengths[0], lengths[2])), Part([1], lengths[1])]
    source = [0, 1, 2, 1, 0]
    site = tiny.net.get_submodule(path)
    whole = tiny.net(**batch, use_cache=False).logits
    a = input_of(tiny.net, site, batch)
    with resumed_at(tiny.net, path, batch, parts, source) as resumed:
        copies = {name: x[source] for name, x in batch.items()}
        found = tiny.net(**copies, use_cache=False).logits
    apart = site_input(tiny.net, path, batch, parts)
    for row, i in enumerate(source):
        real = slice(0, lengths[i])
        assert torch.allclose(found[row, real], whole[i, real], atol=1e-5)
        assert torch.allclose(resumed[row, real], a[i, real], atol=1e-5)
        assert torch.equal(apart[i, real], resumed[row, real])


def test_the_head_gives_some_logits_alone_for_a_while(tiny: BaseModel) -> None:
    batch = collate(tiny, [tiny.encode(PROMPTS[0])], side="right")
    ids = torch.tensor([3, 700, 41])
    whole = tiny.net(**batch, use_cache=False).logits
    with head_writes(tiny.net, ids):
        some = tiny.net(**batch, use_cache=False).logits
    assert torch.allclose(some, whole[..., ids], atol=1e-6)
    assert torch.equal(tiny.net(**batch, use_cache=False).logits, whole)
    assert "forward" not in vars(tiny.net.get_output_embeddings())


def test_a_part_of_a_batch_keeps_all_that_its_encoder_reads(t5: BaseModel) -> None:
    rows, sources = [[0, 5, 6], [0, 7]], [[4, 1], [4, 5, 6, 1]]
    batch = collate(t5, rows, side="right", sources=sources)
    part = part_of(batch, Part([1], 2))
    assert {name: x.tolist() for name, x in part.items()} == {
        "input_ids": [[4, 5, 6, 1]], "attention_mask": [[1, 1, 1, 1]],
        "decoder_input_ids": [[0, 7]], "decoder_attention_mask": [[1, 1]],
    }  # fmt: skip
    ids, attention = decoded(batch)
    assert (ids.tolist(), attention.tolist()) == ([[0, 5, 6], [0, 7, 0]], [[1, 1, 1], [1, 1, 0]])


def test_a_run_of_an_encoder_decoder_is_a_whole_one(t5: BaseModel) -> None:
    """From a site below the last block, too: what the blocks above read of places is the same."""
    path = "decoder.block.0.layer.2.DenseReluDense.wo"
    batch = collate(t5, [[0, 5, 6], [0, 7]], side="right", sources=[[4, 1], [4, 5, 6, 1]])
    site = t5.net.get_submodule(path)
    with torch.no_grad(), resumed_at(t5.net, path, batch, source=[0, 1, 1]) as a:
        copied = {name: x[[0, 1, 1]] for name, x in batch.items()}
        assert torch.equal(a, input_of(t5.net, site, copied))
        with changed(site, lambda a: a @ torch.ones(44, 32)):
            found = t5.net(**copied).logits
    with torch.no_grad(), changed(site, lambda a: a @ torch.ones(44, 32)):
        assert torch.equal(found, t5.net(**copied).logits)


def test_inputs_of_several_layers_are_those_of_one_run(tiny: BaseModel) -> None:
    batch = collate(tiny, [tiny.encode(PROMPTS[0])], side="right")
    paths = [SITE, "model.layers.2.mlp.down_proj"]
    sites = find_sites(tiny.net, paths)
    ran: list[int] = []
    with tiny.net.get_submodule("lm_head").register_forward_hook(lambda *_: ran.append(1)):
        found = inputs_of(tiny.net, sites, batch)
    assert not ran  # nor anything else above the last one
    for site, a in zip(sites, found, strict=True):
        assert torch.equal(a, input_of(tiny.net, site, batch))
