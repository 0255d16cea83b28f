"""The edited model: which edit a prompt reaches, and that the base model is left as it is."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import reference
from memoir_edge import tophash
from memoir_edge.base import weights_digest
from memoir_edge.demo.facts import load_facts, prompt
from memoir_edge.editor import BaseModel, Editor, Settings, load
from memoir_edge.editor.layer import changed
from memoir_edge.editor.recall import check_fit
from memoir_edge.errors import MismatchError
from memoir_edge.identity import model_digest
from memoir_edge.memory import Base
from memoir_edge.router import Router

PROMPTS = [prompt(fact, i % 8) for i, fact in enumerate(load_facts()[::60])]
Make = Callable[[], Editor]


def test_routing_is_the_references(make_editor: Make, settings: Settings) -> None:
    editor = make_editor()
    stored = editor.masks(PROMPTS[:8])
    for i, mask in enumerate(stored):
        editor.live.bank.add(PROMPTS[i], None, mask, [], [], 0.7)
    found = editor.live.bank.route(np.stack(editor.masks(PROMPTS)))
    bits = [torch.from_numpy(tophash.unpack(m, 44)).float() for m in editor.masks(PROMPTS)]
    for M, route in zip(bits, found.route, strict=True):
        wanted = reference.route(M, bits[:8], settings.k, 0.7)
        assert route == (tophash.BASE if wanted is None else wanted + 1)


@pytest.mark.parametrize("feature", tophash.FEATURES)
def test_spaces_behind_a_prompt_do_not_change_where_it_goes(
    make_editor: Make, feature: str
) -> None:
    model = make_editor().model
    plain = model.features(["Where is France"], feature)
    for spaces in (1, 2, 5):
        asked = ["Where is France" + " " * spaces, "One longer prompt beside it, with spaces "]
        np.testing.assert_allclose(model.features(asked, feature)[:1], plain, atol=1e-5)
    other = model.features(["Where is France\n"], feature)
    assert not np.allclose(other, plain, atol=1e-3)


def test_a_router_reads_the_last_sentence_of_a_prompt_too(
    tiny: BaseModel, settings: Settings, words: Router
) -> None:
    editor = Editor(tiny, settings, router=words)
    prompt = "The capital of Nepal is"
    [code] = words.codes([prompt])
    mask = editor.masks([prompt])[0]
    editor.live.bank.add("nepal", {"prompt": prompt}, mask, [], [], 0.9, code)
    asked = [f"Heavy clouds hid every mountain there. {prompt}", "The capital of Cuba is", prompt]
    found = editor.model.routes(asked)
    assert found.route.tolist() == [1, -1, 1]
    assert [answer.edit for answer in editor.model.answer(asked, 1, memory=True)] == [
        "nepal",
        None,
        "nepal",
    ]


def test_a_router_puts_typos_right_by_the_words_of_the_keys(
    tiny: BaseModel, settings: Settings, words: Router
) -> None:
    editor = Editor(tiny, settings, router=words)
    prompt, bank = "The capital of Nepal is", editor.live.bank
    bank.add("nepal", None, editor.masks([prompt])[0], [], [], 0.9, words.codes([prompt])[0])
    asked = ["The captial of Neapl is", prompt]
    assert editor.model.routes(asked).route.tolist() == [-1, 1]
    bank.keys = [replace(key, text=prompt) for key in bank.keys]
    assert editor.model.routes(asked).route.tolist() == [1, 1]


def test_an_empty_memory_is_the_base_model_bit_for_bit(make_editor: Make) -> None:
    """And so is a route of -1 with a full one (invariant 1)."""
    editor = make_editor()
    ids = torch.tensor([editor.base.encode(PROMPTS[0])])
    base = editor.base.net(input_ids=ids).logits
    editor.live.Wm[:] = torch.randn_like(editor.live.Wm)
    zero = torch.zeros(44)
    with changed(editor.model.site, lambda a: (a * zero) @ editor.live.Wm.T):
        assert torch.equal(editor.base.net(input_ids=ids).logits, base)
    assert torch.equal(editor.base.net(input_ids=ids).logits, base)  # the hook is gone


def test_a_memory_fits_by_todays_digest_and_by_earlier_ones(
    make_editor: Make, tiny_dir: Path, tmp_path: Path
) -> None:
    """Also where the memory itself was written into the model's folder since."""
    memory = make_editor().memory()
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    shutil.copy(folder / "model.safetensors", folder / "facts.safetensors")
    base = load(str(folder), device="cpu")
    for digest in (model_digest(folder), weights_digest(tiny_dir), None):
        check_fit(replace(memory, base=Base("m", digest)), base, (44, 32))
    with pytest.raises(MismatchError, match=f"base model is {'ab' * 32}"):
        check_fit(replace(memory, base=Base("m", "ab" * 32)), base, (44, 32))
