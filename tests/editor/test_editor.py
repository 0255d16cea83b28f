"""The editor against the slow reference, and its invariants."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from memoir_edge import tophash
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import load_facts, prompt
from memoir_edge.editor import BaseModel, Editor, Settings, Watch, Wishes, choose, edited
from memoir_edge.editor.layer import changed, resumed_at
from memoir_edge.editor.model import collate, greedy
from memoir_edge.editor.prompts import ways
from memoir_edge.editor.spare import Reads
from memoir_edge.editor.train import Job, rows, thin, train
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError, MismatchError, SiteError
from memoir_edge.history.events import RELATIVE_ERROR
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


@pytest.mark.parametrize(("lr", "steps"), [(1.0, 30), (1e-6, 1)])  # to the end; until it stalls
def test_parity_is_the_released_codes_arithmetic(
    tiny: BaseModel, settings: Settings, lr: float, steps: int
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


def test_parity_is_the_papers_alone(tiny: BaseModel) -> None:
    chosen = choose(tiny, Wishes(site=SITE, parity=True))
    assert (chosen.prefixes, chosen.thinned, chosen.spare, chosen.repairs) == (10, 0, 0, 0)
    assert not chosen.eos
    for name, value in (("thinned", 1), ("spare", 1.0), ("batch_edits", 2)):
        with pytest.raises(InputError, match="parity with the released code"):
            choose(tiny, Wishes(site=SITE, parity=True, **{name: value}))  # type: ignore[arg-type]


def test_edits_trained_together_share_one_wm(tiny: BaseModel, settings: Settings) -> None:
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


def test_a_group_is_trained_whole(tiny: BaseModel, settings: Settings) -> None:
    edits = [an_edit(text, "Rome") for text in PROMPTS[:5]]
    editor = Editor(tiny, replace(settings, batch_edits=2))
    groups: list[int] = []
    outcomes = editor.apply(edits, Watch(made=groups.append))
    assert groups == [2, 2, 1]
    assert [outcome.edit.prompt for outcome in outcomes] == PROMPTS[:5]
    assert len(editor.live.bank.keys) == 5


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
    with Sizes() as sizes:
        train(tiny, editor.model.site, editor.live.Wm, [Job(columns, made)], settings)
    k, (d, D) = settings.k, editor.live.Wm.shape
    largest = max(
        k * d, tokens * max(D, 4 * d), len(made[0].target) * (1 + settings.thinned) * 1500
    )
    assert max(sizes.seen) <= largest
    assert tokens * 1500 > largest  # logits of every token would be seen


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


def test_an_edit_is_given_the_other_ways_to_type_it(tiny: BaseModel, settings: Settings) -> None:
    editor = Editor(tiny, replace(settings, made_keys=4))
    asked = an_edit("Where is France?", "Rome", keys=("where is france",))
    small = an_edit("where is france?", "Rome")  # another edit's own prompt is nobody's key
    first, second = editor.keyed([asked, small])
    behind = f"{editor._texts[0]}. Where is France?"
    assert first.keys == ("where is france", "Where is France", behind)
    assert second.keys[0] == "where is france"
    editor.apply([asked, small])
    assert editor.live.bank.records[asked.id] == first.record()
    assert editor.keyed([small]) == [second]  # as when the run had been interrupted
    assert ways(tiny, "word " * 62) == []  # no room in the context of 64
    assert Editor(tiny, settings).keyed([asked]) == [asked]


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
        choose(tiny, Wishes(site=settings.site, k=99))
    with pytest.raises(InputError, match="unknown feature"):
        choose(tiny, Wishes(site=settings.site, feature="median"))


@pytest.mark.slow
def test_a_hundred_and_fifty_edits_of_the_demo_model(demo: BaseModel) -> None:
    """The bars of the demo model, by free generation with the routing of the day."""
    from memoir_edge.evaluate import evaluate

    edits = sample(150)
    site = "model.layers.6.mlp.down_proj"
    editor = Editor(demo, choose(demo, Wishes(site=site)))
    outcomes = editor.apply(edits)
    report = evaluate(edited(demo, from_bytes(to_bytes(editor.memory()))), edits)
    print(report)
    assert editor.journal.state().broken == [o.edit.id for o in outcomes if not o.took]
    assert (report.free.reliability or 0) >= 0.995
    assert (report.free.generalization or 0) >= 0.95
    everyday = [f"{who} forgot to bring the" for who in ("My uncle", "The cook", "Nobody")]
    assert {a.edit for a in editor.model.answer(everyday, 4, memory=True)} == {None}


@pytest.mark.parametrize(
    ("told", "bar"), [(0, 0.98), (3, 0.995)], ids=["alone", "with three paraphrases"]
)
def test_edits_are_reached_by_their_paraphrases_and_not_by_near_misses(
    demo: BaseModel, told: int, bar: float
) -> None:
    """The routing at 150 edits and 1 % of false fires, with thresholds from near misses alone."""
    site = "model.layers.6.mlp.down_proj"
    editor = Editor(demo, choose(demo, Wishes(site=site)))
    edits = sample(150)
    bank = editor.live.bank
    for edit in edits:
        keyed = replace(edit, keys=edit.rephrase[:told])
        primary, *further = editor.masks([edit.prompt, *keyed.keys])
        bank.add(edit.id, keyed.record(), primary, further, [], editor.settings.threshold)
    assert editor.calibrate() is not None
    asked = [(edit.id, text) for edit in edits for text in edit.rephrase[told:]]
    route = editor.model.routes([text for _, text in asked]).route
    right = [r > 0 and bank.keys[r - 1].edit == id for r, (id, _) in zip(route, asked, strict=True)]
    assert np.mean(right) >= bar
    near = list(dict.fromkeys(text for edit in edits for text in edit.hard_negatives))
    assert (editor.model.routes(near).route > 0).mean() <= 0.01


def test_a_second_pass_trains_each_edit_of_the_run_once_more(
    tiny: BaseModel, settings: Settings
) -> None:
    editor = Editor(tiny, replace(settings, passes=3, repairs=0))
    edits = [an_edit(text, "Rome") for text in PROMPTS[:2]]
    again: list[str] = []
    editor.apply(edits, Watch(again=lambda e: again.append(e.id) or (lambda step, loss: None)))  # type: ignore[func-returns-value]
    assert again == [e.id for e in edits] * 2


def test_a_worn_edit_is_found_and_trained_again(demo: BaseModel) -> None:
    """An edit whose change something has undone is the one that the check names and mends."""
    site = "model.layers.6.mlp.down_proj"
    editor = Editor(demo, choose(demo, Wishes(site=site)))
    edits = sample(3)
    editor.apply(edits)
    columns = editor.live.columns(editor.masks([edits[1].prompt])[0])
    editor.live.Wm[:, columns] *= 0.2
    seen: list[tuple[int, int]] = []
    again: list[str] = []
    watch = Watch(
        again=lambda edit: again.append(edit.id) or (lambda step, loss: None),  # type: ignore[func-returns-value]
        audited=lambda checked, failed: seen.append((checked, failed)),
    )
    state = editor.settle(watch)
    assert edits[1].id in again
    assert seen[0][1] == len(set(again)) > 0
    assert seen[-1] == (3, 0)
    assert state.broken == []
    assert [probe.edit for probe in state.probes] == [edit.id for edit in edits]


def test_what_cannot_be_mended_is_named(tiny: BaseModel, settings: Settings) -> None:
    """A random model in no steps: the rounds end, and say who remains."""
    editor = Editor(tiny, replace(settings, steps=1, lr=1e-6, repairs=2))
    edits = [an_edit(text, "Rome") for text in PROMPTS[:2]]
    failures: list[int] = []
    editor.apply(edits, Watch(audited=lambda _, failed: failures.append(failed)))
    assert failures == [2, 2, 2]
    assert editor.journal.state().broken == [edit.id for edit in edits]


def test_a_change_avoids_what_others_read() -> None:
    """The direction that others read is damped by 1 / (1 + s), one that nobody reads is left."""
    reads = Reads(torch.zeros(6, 6))
    columns = torch.tensor([0, 2, 4, 5])
    assert reads.avoided(columns, None, 3.0) is None  # nobody is there
    x = torch.tensor([[2.0, 0, 0, 0]])
    reads.add(x, columns)
    P = reads.avoided(columns, None, 3.0)
    assert P is not None
    assert torch.allclose(P, torch.diag(torch.tensor([1 / 4, 1.0, 1.0, 1.0])))
    assert reads.avoided(columns, None, 0.0) is None
    assert reads.avoided(columns, x, 3.0) is None  # only what it reads itself
    other = torch.tensor([1, 2, 3, 5])  # meets the first in columns 2 and 5, which it does not read
    P = reads.avoided(other, None, 3.0)
    assert P is not None
    assert torch.allclose(P, torch.eye(4))
