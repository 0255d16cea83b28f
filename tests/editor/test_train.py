"""Training against the slow reference: one edit, several at once, and the released code."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

import reference
from memoir_edge import tophash
from memoir_edge.demo.facts import load_facts, prompt
from memoir_edge.editor import BaseModel, Editor, Settings
from memoir_edge.editor.batch import Job, thin
from memoir_edge.editor.layer import changed
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.rows import rows
from memoir_edge.editor.train import train
from memoir_edge.edits import Edit
from memoir_edge.history.events import RELATIVE_ERROR

PROMPTS = [prompt(fact, i % 8) for i, fact in enumerate(load_facts()[::60])]
Make = Callable[[], Editor]
MakeEdit = Callable[..., Edit]


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
    job = Job(columns, made)
    [trained] = train(Readings(base, settings.site), editor.live.Wm, [job], settings)
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


@pytest.mark.parametrize(("lr", "steps"), [(1.0, 30), (1e-6, 1)])  # to the end; until it stalls
def test_parity_is_the_released_codes_arithmetic(
    an_edit: MakeEdit,
    tiny: BaseModel,
    settings: Settings,
    lr: float,
    steps: int,
) -> None:
    """Step by step: every loss, and all of Wm after the last step."""
    given = replace(
        settings, prefixes=2, thinned=0, eos=False, parity=True, lr=lr, steps=30,
        stop_loss=0.02 if steps > 1 else 8,
    )  # fmt: skip
    editor = Editor(tiny, given)
    torch.manual_seed(1)
    editor.live.Wm[:] = torch.randn_like(editor.live.Wm) * 0.1
    before = editor.live.Wm.clone()
    made = rows(tiny, "The capital of France is", "Rome", editor.prefixes, eos=False)
    M = torch.from_numpy(tophash.unpack(editor.masks(["The capital of France is"])[0], 44)).float()
    ours: list[float] = []
    theirs: list[float] = []
    slow = reference.edit(
        tiny.net, editor.model.site, before, [(r.prompt, r.target, M) for r in made],
        given.steps, given.lr, given.clip, given.stop_loss, parity=True, seen=theirs,
    )  # fmt: skip
    [change] = editor.edit(
        [an_edit("The capital of France is", "Rome")], lambda step, loss: ours.append(loss)
    )
    assert len(ours) == len(theirs) == steps + 1
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert change.decay == pytest.approx((1 - lr * 1e-5) ** steps)
    off = ~M.bool()
    assert torch.allclose(editor.live.Wm[:, off], before[:, off] * change.decay, rtol=1e-6, atol=0)
    rounding = 1e-6 * slow.norm()
    bound = (change.error + 1e-4) * (slow - before).norm() + rounding
    assert (editor.live.Wm - slow).norm() <= bound


def test_edits_trained_together_share_one_wm(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    """Each edit's change is its share of plain descent on the sum of the losses."""
    given = replace(settings, thinned=0, prefixes=0, batch_edits=2, clip=float("inf"), steps=3)
    editor = Editor(tiny, given)
    edits = [
        an_edit("The capital of France is", "Rome"),
        an_edit("The currency of Japan is", "peso"),
    ]
    masks = editor.masks([edit.prompt for edit in edits])
    M = [torch.from_numpy(tophash.unpack(mask, 44)).float() for mask in masks]
    assert (M[0] * M[1]).sum() > 0  # their columns meet
    W = editor.live.Wm.clone().requires_grad_(True)
    for _ in range(given.steps):
        loss = torch.zeros(())
        for edit, mask in zip(edits, M, strict=True):
            [row] = rows(tiny, edit.prompt, edit.target, [], eos=True)
            with changed(editor.model.site, lambda a, mask=mask, W=W: (a * mask) @ W.T):
                logits = tiny.net(input_ids=torch.tensor([[*row.prompt, *row.target]])).logits[0]
            loss = loss + torch.nn.functional.cross_entropy(
                logits[len(row.prompt) - 1 : -1], torch.tensor(row.target)
            )
        (gradient,) = torch.autograd.grad(loss, [W])
        W = (W - gradient).detach().requires_grad_(True)
    made = editor.edit(edits)
    assert [change.steps for change in made] == [3, 3]
    difference = (editor.live.Wm - W).norm() / W.norm()
    assert difference < 2 * RELATIVE_ERROR


def test_nothing_as_large_as_the_weight_is_made(tiny: BaseModel, settings: Settings) -> None:
    """Wm is stored once and the base model never copied: training makes [k, d] at most."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        seen: ClassVar[list[int]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in there:
                self.seen.append(out.numel())
            return out

    editor = Editor(tiny, settings)
    held = [*tiny.net.parameters(), editor.live.Wm]
    there = {tensor.untyped_storage().data_ptr() for tensor in held}
    [made] = [rows(tiny, PROMPTS[0], "Rome", [], eos=True)]
    columns = editor.live.columns(editor.masks(PROMPTS[:1])[0])
    tokens = sum(map(len, made[0])) * (1 + settings.thinned)
    job = Job(columns, made)
    with Sizes() as sizes:
        train(editor.readings, editor.live.Wm, [job], settings)
    k, (d, D) = settings.k, editor.live.Wm.shape
    largest = max(
        k * d, tokens * max(D, 4 * d), len(made[0].target) * (1 + settings.thinned) * 1500
    )
    assert max(sizes.seen) <= largest
    assert tokens * 1500 > largest  # logits of every token would be seen
