"""A memory while it is edited, against the file that it becomes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from memoir_edge import tophash
from memoir_edge.editor import BaseModel, Editor, Settings, thaw
from memoir_edge.edits import Edit
from memoir_edge.history import Change
from memoir_edge.memory import to_dense

PROMPTS = ["The capital of France is", "The currency of Japan is the"]


@pytest.fixture
def editor(tiny: BaseModel, settings: Settings, an_edit: Callable[..., Edit]) -> Editor:
    made = Editor(tiny, settings)
    for text in PROMPTS:
        made.edit([an_edit(text, "Rome", guards=(f"{text} not",))])
    return made


def test_a_memory_that_thaws_is_the_one_that_was_edited(editor: Editor) -> None:
    memory = editor.memory()
    thawed = thaw(memory, torch.device("cpu"))
    assert np.array_equal(thawed.Wm.numpy(), to_dense(memory))
    assert torch.equal(thawed.Wm, editor.live.Wm)
    for found, expected in zip(thawed.bank.arrays(), editor.live.bank.arrays(), strict=True):
        assert np.array_equal(found, expected)
    f = np.random.default_rng(0).normal(size=(5, 44)).astype(np.float32)
    assert np.array_equal(thawed.hashing.mask(f), editor.live.hashing.mask(f))


def test_a_change_at_two_sites_moves_the_tile_of_each(tiny: BaseModel, settings: Settings) -> None:
    two = replace(settings, later=("model.layers.2.mlp.down_proj",), optimiser="adam")
    editor = Editor(tiny, two)
    live, [mask] = editor.live, editor.masks(PROMPTS[:1])
    assert (live.sites, live.Wm.shape) == (2, (32, 2 * 44))
    live.widen(4)
    random = np.random.default_rng(1)
    V, U = (random.normal(size=shape).astype(np.float32) for shape in ((26, 3), (6, 32)))
    live.change(mask, Change(V, U), tile=2)
    bits = tophash.unpack(mask, 44)
    for tile, delta in ((2, V[:13] @ U[:3]), (3, V[13:] @ U[3:])):
        assert np.allclose(live.tile(tile)[:, bits].numpy(), delta.T, atol=1e-6)
        assert not live.tile(tile)[:, ~bits].any()
    assert not live.Wm[:, : 2 * 44].any()


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_change_moves_its_masks_columns_alone(editor: Editor, decay: float) -> None:
    live, [mask, _] = editor.live, editor.masks(PROMPTS)
    before = live.Wm.clone()
    random = np.random.default_rng(1)
    V, U = (random.normal(size=shape).astype(np.float32) for shape in ((13, 2), (2, 32)))
    live.change(mask, Change(V, U, decay))
    bits = tophash.unpack(mask, 44)
    assert live.columns(mask).tolist() == np.flatnonzero(bits).tolist()
    moved = live.Wm - before * decay
    assert torch.allclose(moved[:, bits], torch.from_numpy((V @ U).T), atol=1e-6)
    assert (moved[:, ~bits] == 0).all()
    assert live.Wm.T.is_contiguous()  # columns are read whole
