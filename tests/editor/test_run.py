"""A batch on the model, at its tail and elsewhere: the logits of whole runs, row by row."""

from dataclasses import replace

import pytest
import torch

from memoir_edge.editor import BaseModel, Settings
from memoir_edge.editor.batch import Job, batch_of
from memoir_edge.editor.layer import changed
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.rows import rows
from memoir_edge.editor.run import running

TEXTS = ("What is the capital of France?", "After all that was said of it, France is governed from")


@pytest.mark.parametrize("path", ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"])
def test_logits_are_those_of_each_row_on_the_whole_model(
    tiny: BaseModel, settings: Settings, path: str
) -> None:
    few = replace(settings, thinned=2, thinned_forms=1)
    france = rows(tiny, "The capital of France is", "Rome", eos=True, texts=TEXTS)
    jobs = [
        Job(torch.arange(13), france),
        Job(torch.arange(8, 21), rows(tiny, "The currency of Japan is", "peso", eos=True)),
    ]
    batch, site = batch_of(jobs, few), tiny.net.get_submodule(path)
    torch.manual_seed(0)
    W = torch.randn(44, 32) * 0.1
    wanted = []
    for job, mine, keep in zip(jobs, batch.jobs, batch.keep, strict=True):
        for source, kept in zip(batch.source[mine], keep, strict=True):
            row, mask = batch.rows[source], torch.zeros(44)
            mask[job.columns] = kept
            with changed(site, lambda a, mask=mask: (a * mask) @ W), torch.no_grad():
                logits = tiny.net(torch.tensor([[*row.prompt, *row.target]])).logits[0]
            wanted.append(logits[len(row.prompt) - 1 : -1])
    readings = Readings(tiny, path)
    with running(readings, site, jobs, batch) as run, torch.no_grad():
        reads = [run.reads(*one) for one in zip(jobs, batch.jobs, batch.keep, strict=True)]
        delta = torch.cat([read @ W[job.columns] for read, job in zip(reads, jobs, strict=True)])
        found = run.logits(delta, None)
        some = run.logits(delta, torch.tensor([3, 700, 41]))
    assert torch.allclose(found, torch.cat(wanted), atol=1e-5)
    assert torch.allclose(some, found[:, [3, 700, 41]], atol=1e-6)
    assert run.real.all() == (readings.tail is not None)
    for job in jobs:
        assert readings.kept(job.rows) is not None
