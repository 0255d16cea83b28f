"""A model that accelerate has spread out: weights that are fetched for each run."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from memoir_edge.editor import BaseModel, Editor, Settings, load
from memoir_edge.editor.model import device_of
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError

EDITS = [
    Edit(id="a", prompt="The capital of France is", target="Rome", tags={}),
    Edit(id="b", prompt="The currency of Japan is the", target="peso", tags={}),
]


def dispatched(folder: Path, tmp_path: Path, away: int) -> BaseModel:
    """The model with block `away` on disk, everything else on the CPU."""
    from accelerate import dispatch_model

    base = load(str(folder), device="cpu")
    names = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    places = dict.fromkeys(names, "cpu")
    places |= {f"model.layers.{i}": "disk" if i == away else "cpu" for i in range(3)}
    dispatch_model(base.net, places, main_device="cpu", offload_dir=str(tmp_path))
    return base


@pytest.mark.parametrize("away", [0, 1, 2])  # below the site, the site's own block, above it
@pytest.mark.parametrize("later", [(), ("model.layers.2.mlp.down_proj",)])
def test_edits_are_those_of_the_whole_model(
    tiny: BaseModel,
    tiny_dir: Path,
    settings: Settings,
    tmp_path: Path,
    away: int,
    later: tuple[str, ...],
) -> None:
    settings = replace(settings, later=later, optimiser="adam") if later else settings
    whole = Editor(tiny, settings)
    spread = Editor(dispatched(tiny_dir, tmp_path, away), settings)
    weight = spread.model.site.weight
    assert isinstance(weight, torch.Tensor)
    assert (weight.device.type == "meta") == (away == 1)  # nowhere, until it is fetched
    assert device_of(spread.model.site) == spread.live.Wm.device == torch.device("cpu")
    ours, theirs = spread.edit(EDITS[:1]), whole.edit(EDITS[:1])
    assert ours[0].steps == theirs[0].steps
    assert torch.equal(spread.live.Wm, whole.live.Wm)
    prompts = [edit.prompt for edit in EDITS]
    assert spread.model.answer(prompts, 4, memory=True) == whole.model.answer(
        prompts, 4, memory=True
    )


def test_a_model_is_spread_over_what_there_is(
    tiny: BaseModel, tiny_dir: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    given = AutoModelForCausalLM.from_pretrained

    def spy(*args: Any, **rest: Any) -> Any:
        asked.append(rest["device_map"])
        return given(*args, **rest)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    spread, whole = Editor(load(str(tiny_dir), device="auto"), settings), Editor(tiny, settings)
    assert asked == ["auto"]
    assert spread.edit(EDITS)[0].steps == whole.edit(EDITS)[0].steps
    assert torch.allclose(spread.live.Wm.cpu(), whole.live.Wm, atol=1e-5)


def test_spreading_without_accelerate_says_so(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InputError, match="needs accelerate"):
        load(str(tiny_dir), device="auto")
