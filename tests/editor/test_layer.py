"""Hooks on the edited layer that leave the model as it was."""

from typing import Any

import pytest
import torch

from memoir_edge.demo.facts import load_facts, prompt
from memoir_edge.editor import BaseModel
from memoir_edge.editor.layer import changed, resumed_at
from memoir_edge.editor.model import collate

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
