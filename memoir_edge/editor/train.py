"""Training: a change of the k active columns of Wm (MEMOIR section 3.1).

Knows nothing of banks, routing or files. The base model and Wm are only read; the result is each
edit's change, as a product of two thin matrices.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from memoir_edge.editor.adam import Adam
from memoir_edge.editor.batch import Batch, Job, Logits, OnStep, batch_of
from memoir_edge.editor.descent import Descent
from memoir_edge.editor.layer import changed, head_reads, resumed_at, site_input
from memoir_edge.editor.model import BaseModel
from memoir_edge.history.events import Change
from memoir_edge.settings import Settings

OPTIMISERS: dict[str, type[Adam | Descent]] = {"adam": Adam, "sgd": Descent}


def train(
    base: BaseModel,
    site: nn.Module,
    Wm: Tensor,
    jobs: Sequence[Job],
    settings: Settings,
    on_step: OnStep = lambda step, loss: None,
    read: Callable[[int, Tensor], None] = lambda job, reads: None,
) -> list[Change]:
    """Train edits together until each target is likely enough or the steps run out.

    The rows of each edit read through its own mask and change its own columns. Where two edits
    share columns their changes add up, exactly as in descent on the sum of the losses over one Wm.

    Args:
        base: The frozen model.
        site: Its edited layer.
        Wm: `[d, D]` float32, not changed.
        jobs: The edits, most often one.
        settings: Optimiser, rate and when to stop.
        on_step: Told of the losses over all tokens that are measured.
        read: Told of each job's `targets_reads`, which are at hand here.

    Returns:
        For each job, what is to be added to its columns of Wm.

    Raises:
        InputError: A loss is no longer finite.
    """
    batch = batch_of(base, jobs, settings)
    with resumed_at(base.net, settings.site, batch.read, batch.parts, batch.source) as a:
        with torch.no_grad():
            own = _placed(site(a), batch)[batch.at]  # the base model's output
        scale = own.float().square().mean().sqrt().item()
        a = _placed(a, batch).to(Wm.device)
        reads = [
            a[mine][..., job.columns].float() * keep.to(a.device)[:, None]
            for job, mine, keep in zip(jobs, batch.jobs, batch.keep, strict=True)
        ]
        for i, (job, mine) in enumerate(zip(jobs, batch.jobs, strict=True)):
            read(i, _at_targets(a[mine][: len(job.rows)], job))
        optimiser = OPTIMISERS[settings.optimiser](Wm, jobs, reads, batch, scale, settings)
        with changed(site, lambda _: optimiser.delta()), head_reads(base.net, batch.at):
            optimiser.run(Logits(base, batch), on_step)
    return optimiser.changes()


def targets_reads(base: BaseModel, site: str, job: Job) -> Tensor:
    """What a job's rows read where their target tokens are predicted: `[tokens, k]`."""
    batch = batch_of(base, [job], None)
    return _at_targets(_placed(site_input(base.net, site, batch.read, batch.parts), batch), job)


def _at_targets(a: Tensor, job: Job) -> Tensor:
    """The part of the site's input `[rows, T, D]` that a job's rows read there."""
    columns = job.columns.to(a.device)
    found = [
        a[i, len(row.prompt) - 1 : len(row.prompt) - 1 + len(row.target)][:, columns]
        for i, row in enumerate(job.rows)
    ]
    return torch.cat(found).float().to(job.columns.device)


def _placed(x: Tensor, batch: Batch) -> Tensor:
    """`[rows, T, width]`, also where an architecture folds its tokens."""
    T = batch.read["input_ids"].shape[1]
    return x.reshape(len(batch.source), T, -1)
