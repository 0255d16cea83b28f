"""The optimiser: Adam on a low-rank change against a slow, obvious form of it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from memoir_edge.editor import BaseModel, Editor, Settings
from memoir_edge.editor import adam as module
from memoir_edge.editor.adam import LIKELY, OTHERS, RIDGE, Likely, directions, spanning, telling
from memoir_edge.editor.batch import Job, thin, thinned
from memoir_edge.editor.layer import all_changed, changed, inputs_of
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.rows import Row, rows
from memoir_edge.editor.train import train
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError

SITE, LAST = "model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"
PROMPT = "The capital of France is"
TEXTS = ("What is the capital of France?", "France is governed from the city of")


@pytest.fixture
def adam(settings: Settings) -> Settings:
    return replace(
        settings, optimiser="adam", lr=0.2, prefixes=0, thinned=2, thinned_forms=1, spare=5.0,
        forms=1, phrasings=1,
    )  # fmt: skip


@pytest.fixture
def jobs(tiny: BaseModel) -> list[Job]:
    """Two edits whose columns meet; the second turns away from something."""
    torch.manual_seed(3)
    x = torch.randn(6, 13)
    avoid = torch.linalg.inv(torch.eye(13) + x.T @ x)
    return [
        Job(torch.arange(0, 13), rows(tiny, PROMPT, "Rome", eos=True, texts=TEXTS)),
        Job(torch.arange(8, 21), rows(tiny, "The currency of Japan is", "peso", eos=True), [avoid]),
    ]


@pytest.mark.parametrize("paths", [(SITE,), (SITE, LAST)], ids=["one site", "two sites"])
def test_the_change_is_adams_on_b(
    tiny: BaseModel,
    adam: Settings,
    jobs: list[Job],
    monkeypatch: pytest.MonkeyPatch,
    paths: tuple[str, ...],
) -> None:
    """Row by row on the whole model, each row unpadded, with all of Wm in sight."""
    monkeypatch.setattr(module, "LIKELY", 1500)
    sites = [tiny.net.get_submodule(path) for path in paths]
    every_site = range(len(sites))
    jobs = [job._replace(avoid=[*job.avoid] * len(sites)) for job in jobs]
    torch.manual_seed(1)
    Wm = torch.randn(32, 44 * len(sites)) * 0.1
    every: list[tuple[int, Row, torch.Tensor]] = []  # job, row, mask
    for i, job in enumerate(jobs):
        copies = [job.rows[c] for c in thinned(adam, len(job.rows))]
        for row, keep in zip([*job.rows, *copies], thin(adam, len(job.rows), job.columns),
                             strict=True):  # fmt: skip
            mask = torch.zeros(44)
            mask[job.columns] = keep
            every.append((i, row, mask))
    reads: list[list[list[torch.Tensor]]] = [[[] for _ in jobs] for _ in sites]
    own: list[list[torch.Tensor]] = [[] for _ in sites]
    for i, row, mask in every:
        ids = {"input_ids": torch.tensor([[*row.prompt, *row.target]])}
        for s, whole in enumerate(inputs_of(tiny.net, sites, ids)):
            a = whole[0, len(row.prompt) - 1 : -1]
            reads[s][i].append((a * mask)[:, jobs[i].columns])
            own[s].append(sites[s](a))
    nth = [
        torch.tensor([n for i, row, _ in every if i == job for n in range(len(row.target))])
        for job in range(len(jobs))
    ]
    M = [
        [directions(torch.cat(reads[s][i]), nth[i], job.avoid[s] if job.avoid else None)
         for i, job in enumerate(jobs)]
        for s in every_site
    ]  # fmt: skip
    B = [[torch.zeros(m.shape[1], 32, requires_grad=True) for m in M[s]] for s in every_site]
    rates = []
    for s in every_site:
        spans = torch.zeros(44, sum(m.shape[1] for m in M[s]))
        spans[jobs[0].columns, : M[s][0].shape[1]] = M[s][0]
        spans[jobs[1].columns, M[s][0].shape[1] :] = M[s][1]
        pairs = zip(map(torch.cat, reads[s]), jobs, strict=True)
        size = torch.cat([r @ spans[job.columns] for r, job in pairs]).norm(dim=1).mean()
        scale = torch.cat(own[s]).square().mean().sqrt()
        rates.append({"params": B[s], "lr": float(adam.lr * scale / size)})
    optimiser = torch.optim.Adam(rates, betas=module.BETAS)
    for _ in range(adam.steps):
        losses = []
        for _i, row, mask in every:
            W = list(Wm.T.clone().split(44))
            for s in every_site:
                for job, m, b in zip(jobs, M[s], B[s], strict=True):
                    W[s] = W[s].index_add(0, job.columns, m @ b)
            with all_changed(sites, lambda s, a, mask=mask, W=W: (a * mask) @ W[s]):
                logits = tiny.net(torch.tensor([[*row.prompt, *row.target]])).logits[0]
            found = logits[len(row.prompt) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(found, torch.tensor(row.target)))
        optimiser.zero_grad()
        torch.stack(losses).mean().backward()
        optimiser.step()
    before = Wm.clone()
    made = train(Readings(tiny, *paths), Wm, jobs, adam)
    assert torch.equal(Wm, before)  # only read
    for i, change in enumerate(made):
        wanted = torch.cat([M[s][i] @ B[s][i] for s in every_site]).detach()
        delta = torch.from_numpy(change.delta(len(sites)))
        difference = (delta - wanted).norm() / wanted.norm()
        print(f"relative difference {difference:.2e}")
        assert difference < 1e-3
        assert (change.error, change.steps) == (0, adam.steps)
        assert change.V.shape[1] <= sum(len(row.target) for _, row, _ in every)


def test_directions_span_what_is_read_and_none_repeats_anothers_cost(jobs: list[Job]) -> None:
    A, P = torch.randn(5, 13, generator=torch.Generator().manual_seed(0)), jobs[1].avoid[0]
    M = spanning(A, A @ P)
    assert M.shape == (13, 5)
    cost = M.T @ torch.linalg.inv(P) @ M
    S = torch.linalg.svdvals(A @ torch.linalg.cholesky(P)).flip(0)
    assert torch.allclose(cost, torch.diag(S / S[-1]), atol=1e-4)
    turned = P @ A.T
    assert torch.linalg.matrix_rank(torch.cat([M, turned], dim=1), rtol=1e-4) == 5
    twice = torch.cat([A, 2 * A])
    assert spanning(twice, twice).shape == (13, 5)  # what is read twice is one direction


def test_a_token_is_told_from_the_others_by_ridge_regression(jobs: list[Job]) -> None:
    """Against its normal equations: cost of the direction and squares of what is missing."""
    A, P = torch.randn(7, 13, generator=torch.Generator().manual_seed(0)).double(), jobs[1].avoid[0]
    P, nth = P.double(), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    ridge = RIDGE * (A @ P @ A.T).diagonal().mean()
    wanted = (nth[:, None] == torch.arange(3)).double()
    slow = torch.linalg.solve(A.T @ A + ridge * torch.linalg.inv(P), A.T @ wanted)
    torch.testing.assert_close(telling(A, A @ P, nth), slow)
    M = directions(A.float(), nth, P.float())
    assert torch.allclose(M[:, 3:], OTHERS * spanning(A, A @ P).float(), atol=1e-5)
    across = [(A.float() @ part).norm(dim=1).mean() for part in (M[:, :3], M[:, 3:] / OTHERS)]
    torch.testing.assert_close(*across)
    assert not directions(torch.zeros(2, 13), torch.tensor([0, 1]), None).any()  # nothing is read


def test_an_edit_is_stored_as_it_was_trained(
    an_edit: Callable[..., Edit], tiny: BaseModel, adam: Settings
) -> None:
    editor = Editor(tiny, adam)
    edits = [an_edit(PROMPT, "Rome", keys=TEXTS), an_edit("The currency of Japan is", "peso")]
    for edit in edits:
        [change] = editor.edit([edit])
        assert change.error == 0
    stored = editor.memory()
    assert torch.equal(
        torch.from_numpy(stored.values), editor.live.Wm.T[torch.from_numpy(stored.columns).long()]
    )


@pytest.fixture
def known(demo: BaseModel) -> tuple[Settings, Job]:
    """An edit of a model that knows something, so that its targets can become likely."""
    settings = Settings(
        site="model.layers.6.mlp.down_proj", k=200, feature="last", threshold=0.7, steps=100,
        optimiser="adam", lr=0.15, stop_loss=0.3, thinned=2,
    )  # fmt: skip
    made = rows(demo, PROMPT, "Rome", eos=True, texts=["France's capital is"])
    return settings, Job(torch.arange(100, 300), made)


def test_a_change_turned_away_moves_what_others_read_less(
    demo: BaseModel, known: tuple[Settings, Job]
) -> None:
    settings, job = known
    other = job._replace(rows=rows(demo, "The capital of Spain is", "Oslo", eos=True))
    readings = Readings(demo, settings.site)
    x = readings.of(other.rows).a[:, other.columns]
    C = x.T @ x / x.square().sum(1).mean()
    moved = []
    for avoid in ([], [torch.linalg.inv(torch.eye(200) + 10 * C)]):
        turned = job._replace(avoid=avoid)
        [change] = train(readings, torch.zeros(192, 768), [turned], settings)
        assert change.loss <= settings.stop_loss
        moved.append((x @ torch.from_numpy(change.delta())).norm())
    print(f"moved {moved[0]:.2f} without, {moved[1]:.2f} with")
    assert moved[1] < moved[0] / 2


def test_it_stops_when_every_row_is_likely_enough(
    demo: BaseModel, known: tuple[Settings, Job]
) -> None:
    """The worst row counts, not the mean, and all tokens are looked at, not the likely alone."""
    settings, job = known
    site = demo.net.get_submodule(settings.site)
    seen: list[float] = []
    Wm = torch.zeros(192, 768)
    readings = Readings(demo, settings.site)
    [change] = train(readings, Wm, [job], settings, lambda _, loss: seen.append(loss))
    assert 0 < change.steps < settings.steps
    assert seen[-1] == change.loss <= settings.stop_loss < seen[0]
    W = torch.zeros(768, 192)
    W[job.columns] = torch.from_numpy(change.delta())
    M = torch.zeros(768)
    M[job.columns] = 1
    for row in job.rows:
        with changed(site, lambda a: (a * M) @ W), torch.no_grad():
            logits = demo.net(torch.tensor([[*row.prompt, *row.target]])).logits[0]
        found = logits[len(row.prompt) - 1 : -1]
        nats = torch.nn.functional.cross_entropy(found, torch.tensor(row.target))
        assert nats <= settings.stop_loss + 1e-4


def test_all_tokens_are_looked_at_again_before_long(
    demo: BaseModel, known: tuple[Settings, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change may make tokens likely that were not."""
    monkeypatch.setattr(module, "FRESH", 3)
    settings, job = known
    seen: list[int] = []
    readings = Readings(demo, settings.site)
    settings = replace(settings, steps=7, stop_loss=1e-6)
    train(readings, torch.zeros(192, 768), [job], settings, lambda s, _: seen.append(s))
    assert seen == [0, 3, 6, 7]


def test_likely_tokens_stand_for_all() -> None:
    """Exact where nothing has moved since, and where only likely tokens have."""
    torch.manual_seed(0)
    logits, wanted = torch.randn(4, 500) * 3, torch.tensor([7, 11, 499, 0])
    likely = Likely([(0, logits[:, :450]), (450, logits[:, 450:])], wanted)
    tops = logits.topk(LIKELY).indices.flatten()
    assert set(likely.ids.tolist()) == {*tops.tolist(), *wanted.tolist()}
    exact = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    assert torch.allclose(likely.seen, exact, atol=1e-5)
    moved = logits.index_add(1, likely.ids, torch.randn(4, len(likely.ids)))
    for all_logits in (logits, moved):
        expected = torch.nn.functional.cross_entropy(all_logits, wanted, reduction="none")
        assert torch.allclose(likely.nats(all_logits[:, likely.ids]), expected, atol=1e-5)
    few = Likely([(0, logits[:, :20])], wanted.clamp(max=19))  # all are among them: none remain
    assert torch.isfinite(few.nats(logits[:, :20])).all()


def test_a_loss_that_is_no_number_is_refused(
    tiny: BaseModel, adam: Settings, jobs: list[Job]
) -> None:
    readings, Wm = Readings(tiny, adam.site), torch.full((32, 44), float("nan"))
    with pytest.raises(InputError, match="training diverged: the loss is nan after 0 steps"):
        train(readings, Wm, jobs, adam)
