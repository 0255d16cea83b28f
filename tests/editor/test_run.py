"""A batch on the model, at its tail and elsewhere: the logits of whole runs, row by row."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from memoir_edge.editor import BaseModel, Settings
from memoir_edge.editor.batch import Job, batch_of
from memoir_edge.editor.layer import all_changed, inputs_of
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.rows import rows
from memoir_edge.editor.run import running, under

TEXTS = ("What is the capital of France?", "After all that was said of it, France is governed from")


FIRST, NEXT, LAST = (f"model.layers.{i}.mlp.down_proj" for i in range(3))


@pytest.mark.parametrize("paths", [(NEXT,), (LAST,), (FIRST, LAST), (FIRST, NEXT, LAST)])
def test_logits_are_those_of_each_row_on_the_whole_model(
    tiny: BaseModel, settings: Settings, paths: tuple[str, ...]
) -> None:
    few = replace(settings, thinned=2, thinned_forms=1)
    france = rows(tiny, "The capital of France is", "Rome", eos=True, texts=TEXTS)
    jobs = [
        Job(torch.arange(13), france),
        Job(torch.arange(8, 21), rows(tiny, "The currency of Japan is", "peso", eos=True)),
    ]
    batch, sites = batch_of(jobs, few), [tiny.net.get_submodule(path) for path in paths]
    torch.manual_seed(0)
    W = torch.randn(len(sites), 44, 32) * 0.1
    wanted, seen = [], []
    for job, mine, keep in zip(jobs, batch.jobs, batch.keep, strict=True):
        for source, kept in zip(batch.source[mine], keep, strict=True):
            row, mask = batch.rows[source], torch.zeros(44)
            mask[job.columns] = kept
            ids = torch.tensor([[*row.prompt, *row.target]])
            at = slice(len(row.prompt) - 1, -1)
            with all_changed(sites, lambda s, a, m=mask: (a * m) @ W[s]), torch.no_grad():
                wanted.append(tiny.net(ids).logits[0, at])
            seen.append(torch.stack(inputs_of(tiny.net, sites, {"input_ids": ids}))[:, 0, at])
    readings = Readings(tiny, *paths)
    with running(readings, jobs, batch) as run, torch.no_grad():

        def delta(number: int, a: torch.Tensor) -> torch.Tensor:
            every = zip(jobs, batch.jobs, batch.keep, strict=True)
            read = [under(a.reshape(-1, 44), run.row, *one) for one in every]
            parts = zip(read, jobs, strict=True)
            return torch.cat([x @ W[number][job.columns] for x, job in parts])

        first, *later = [partial(delta, number) for number in range(len(sites))]
        found = run.logits(first(run.a), None, later)
        some = run.logits(first(run.a), torch.tensor([3, 700, 41]), later)
    assert torch.allclose(found, torch.cat(wanted), atol=1e-5)
    assert torch.allclose(some, found[:, [3, 700, 41]], atol=1e-6)
    assert torch.allclose(torch.stack(list(run.seen)), torch.cat(seen, dim=1), atol=1e-5)
    assert len(run.scale) == len(sites)
    assert run.real.all() == (readings.tail is not None)
    for job in jobs:
        assert readings.kept(job.rows) is not None
