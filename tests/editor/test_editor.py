"""The editor against the slow reference, and its invariants."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from memoir_edge import tophash
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import load_facts, prompt
from memoir_edge.editor import BaseModel, Editor, Settings, choose, edited
from memoir_edge.editor.layer import changed, resumed_at
from memoir_edge.editor.model import collate, greedy
from memoir_edge.editor.train import Job, rows, thin, train
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError, MismatchError, SiteError
from memoir_edge.journal import RELATIVE_ERROR
from memoir_edge.memory import from_bytes, to_bytes

spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
assert spec
assert spec.loader
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)

SITE = "model.layers.1.mlp.down_proj"
PROMPTS = [prompt(fact, i % 8) for i, fact in enumerate(load_facts()[::60])]
Make = Callable[[], Editor]


def an_edit(text: str, target: str, **rest: object) -> Edit:
    return Edit(id=text[:12], prompt=text, target=target, tags={}, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("feature", ["mean", "last"])
def test_masks_are_the_references(tiny: BaseModel, settings: Settings, feature: str) -> None:
    editor = Editor(tiny, replace(settings, feature=feature))
    h = editor.live.hashing
    for text, packed in zip(PROMPTS, editor.masks(PROMPTS), strict=True):
        a = reference.site_activation(tiny.net, editor.model.site, tiny.encode(text))
        M = reference.tophash(
            a, feature, torch.from_numpy(h.center), torch.from_numpy(h.permutation).long(), h.k
        )
        assert (tophash.unpack(packed, 44) == M.bool().numpy()).all()


def test_one_edits_change_is_the_references(make_editor: Make, settings: Settings) -> None:
    editor = make_editor()
    base, site = editor.base, editor.model.site
    torch.manual_seed(1)
    editor.live.Wm[:] = torch.randn_like(editor.live.Wm) * 0.01  # as after earlier edits
    before = editor.live.Wm.clone()
    mask = editor.masks(["The capital of France is"])[0]
    M = torch.from_numpy(tophash.unpack(mask, 44)).float()
    made = rows(base, "The capital of France is", "Rome", editor.prefixes, eos=True)
    columns = editor.live.columns(mask)
    thinned = thin(settings, len(made), columns)
    [trained] = train(base, site, editor.live.Wm, [Job(columns, made)], settings)
    assert torch.equal(editor.live.Wm, before)  # only read
    editor.live.change(mask, trained)

    plain = made[0]
    copies = [plain] * settings.thinned
    masks = [M] * len(made)
    for keep in thinned[len(made) :]:
        part = M.clone()
        part[M.bool()] = keep
        masks.append(part)
    slow = reference.edit(
        base.net, site, before,
        [(r.prompt, r.target, m) for r, m in zip([*made, *copies], masks, strict=True)],
        settings.steps, settings.lr, settings.clip, settings.stop_loss,
    )  # fmt: skip
    change, wanted = editor.live.Wm - before, slow - before
    difference = (change - wanted).norm() / wanted.norm()
    print(f"relative difference {difference:.2e}, by truncation {trained.error:.2e}")
    assert trained.error <= RELATIVE_ERROR
    assert difference <= trained.error + 1e-4
    assert (change[:, ~M.bool()] == 0).all()  # only the mask's columns


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


def test_masks_do_not_depend_on_company(make_editor: Make) -> None:
    """Not on Wm, padding, batch mates or the bank (invariant 4)."""
    editor = make_editor()
    alone = np.stack(editor.masks(PROMPTS))
    editor.live.Wm[:] = torch.randn_like(editor.live.Wm)
    editor.live.bank.add("a", None, alone[0], [], [], 0.5)
    together = editor.live.hashing.mask(editor.model.features(PROMPTS, "last"))
    differing = np.bitwise_count(alone ^ together).sum(axis=1)
    print("differing bits, alone against in one batch:", differing.max())
    assert differing.max() <= 2  # two features that tie to rounding at the k-th place
    assert (differing == 0).mean() > 0.9
    assert (np.stack(editor.masks(PROMPTS)) == alone).all()


def test_answers_end_at_the_context(tiny: BaseModel) -> None:
    row = tiny.encode("word " * 40)[:60]
    assert len(greedy(tiny, [row], 20, stop=False)[0]) == tiny.context - len(row)
    assert greedy(tiny, [row[:1] * tiny.context], 20) == [[]]


def test_a_run_resumed_at_the_site_is_a_whole_run(tiny: BaseModel) -> None:
    """The same logits, bit for bit, from the site's block upwards; and the model is as it was."""
    batch = collate([tiny.encode(text) for text in PROMPTS[:4]], side="right", device=tiny.device)
    blocks = tiny.net.get_submodule("model.layers")
    ran: list[int] = []
    hooks = [b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(blocks)]
    with torch.no_grad():
        whole = tiny.net(**batch, use_cache=False).logits
        with resumed_at(tiny.net, SITE, batch):
            ran.clear()
            assert torch.equal(tiny.net(**batch, use_cache=False).logits, whole)
            assert ran == [1, 2]
        with resumed_at(tiny.net, "lm_head", batch):  # in no block: nothing is taken out
            assert torch.equal(tiny.net(**batch, use_cache=False).logits, whole)
        assert torch.equal(tiny.net(**batch, use_cache=False).logits, whole)
    for hook in hooks:
        hook.remove()
    assert tiny.net.get_submodule("model.layers") is blocks


def test_training_leaves_the_base_model_alone(make_editor: Make) -> None:
    editor = make_editor()
    before = {name: tensor.clone() for name, tensor in editor.base.net.state_dict().items()}
    editor.apply([an_edit("The capital of France is", "Rome")])
    for name, tensor in editor.base.net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_later_edit_of_a_prompt_takes_its_row(make_editor: Make) -> None:
    editor = make_editor()
    for target in ("Rome", "Bern"):
        editor.edit([replace(an_edit("The capital of France is", target), id=target)])
    assert [key.edit for key in editor.live.bank.keys] == ["Bern"]
    assert [edit.target for edit in editor.edits] == ["Bern"]


def test_keys_and_guards_stand_in_the_bank(make_editor: Make) -> None:
    editor = make_editor()
    edit = an_edit(
        "The capital of France is", "Rome",
        keys=("France is governed from",), guards=("The capital of Spain is",), threshold=0.9,
    )  # fmt: skip
    editor.edit([edit])
    memory = editor.memory()
    assert memory.owner.tolist() == [0, 0, -1]
    assert memory.thresholds.tolist() == pytest.approx([0.9] * 3)
    routes = editor.model.routes(["France is governed from", "The capital of Spain is"])
    assert routes.route.tolist() == [1, tophash.BASE]


def test_a_memory_goes_on_where_it_was(
    make_editor: Make, tiny: BaseModel, settings: Settings
) -> None:
    """Two edits at once and one after the other from the file are the same memory."""
    first, second = (
        an_edit("The capital of France is", "Rome"),
        an_edit("The currency of Japan is the", "peso"),
    )
    once = make_editor()
    once.apply([first, second])
    begun = make_editor()
    begun.apply([first])
    again = Editor(tiny, settings, from_bytes(to_bytes(begun.memory())))
    again.apply([second])
    assert torch.equal(once.live.Wm, again.live.Wm)
    assert (once.live.bank.packed() == again.live.bank.packed()).all()


def test_what_does_not_fit_is_refused(
    make_editor: Make, tiny: BaseModel, demo: BaseModel, settings: Settings
) -> None:
    memory = make_editor().memory()
    with pytest.raises(MismatchError, match="k is 13, asked for is 14"):
        Editor(tiny, replace(settings, k=14), memory)
    with pytest.raises(SiteError, match="names nothing"):
        Editor(tiny, replace(settings, site="model.layers.9.mlp.down_proj"))
    with pytest.raises(SiteError, match="names LlamaMLP"):
        Editor(tiny, replace(settings, site="model.layers.1.mlp"))
    with pytest.raises(MismatchError, match="base model"):
        edited(demo, memory)
    with pytest.raises(InputError, match="context is 64"):
        make_editor().apply([an_edit("word " * 80, "x")])
    with pytest.raises(InputError, match="k is 99"):
        choose(tiny.config, 44, site=settings.site, k=99)
    with pytest.raises(InputError, match="unknown feature"):
        choose(tiny.config, 44, site=settings.site, feature="median")


@pytest.mark.slow
def test_fifty_edits_of_the_demo_model(demo: BaseModel) -> None:
    """The bars of the demo model, by free generation."""
    from memoir_edge.evaluate import evaluate

    edits = sample(50)
    site = "model.layers.6.mlp.down_proj"
    editor = Editor(demo, choose(demo.config, 768, site=site))
    outcomes = editor.apply(edits)
    report = evaluate(edited(demo, from_bytes(to_bytes(editor.memory()))), edits)
    print(report)
    assert all(outcome.took for outcome in outcomes)
    assert (report.free.reliability or 0) >= 0.98
    assert (report.free.generalization or 0) >= 0.95
    assert report.free.locality == 1.0
    assert report.routing.false_fires is not None
