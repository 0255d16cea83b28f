"""Training rows on the model: what they read, and the logits that a change of the site gives.

Where the site is at the model's tail, rows are known by what they come to at the places of their
target tokens. Elsewhere all their tokens count, since attention above the site reads them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memoir_edge.editor.batch import Batch, Job, collate_rows, even, places, tokens
from memoir_edge.editor.layer import (
    Part,
    changed,
    decoded,
    head_reads,
    head_writes,
    resumed_at,
)
from memoir_edge.editor.readings import Read, Readings
from memoir_edge.editor.tail import Tail


class Run(NamedTuple):
    """A batch on the model. It is read at `X` places, at some of which target tokens are predicted.

    `logits(delta, ids)` gives the logits `[n, V]` of the `n` target tokens, or those of some ids,
    with `delta [X, d]` added to the site's output.
    """

    a: Tensor  # [X, D] the site's input, rows one after the other
    row: Tensor  # [X] its row, thinned copies included
    real: Tensor  # [X] whether it is a token, not padding
    at: Tensor  # [n] places of the target tokens
    scale: float  # size of an entry of the site's own output there
    logits: Callable[[Tensor, Tensor | None], Tensor]

    def reads(self, job: Job, rows: slice, keep: Tensor) -> Tensor:
        """What a job's rows read under its mask, of which each row keeps a part: `[X of it, k]`."""
        mine = (self.row >= rows.start) & (self.row < rows.stop)
        features = job.columns.to(self.a.device) % self.a.shape[1]
        read = self.a[mine.to(self.a.device)][:, features]
        kept = keep[self.row[mine] - rows.start]
        return read.to(job.columns.device).float() * kept.to(job.columns.device)


@contextmanager
def running(
    readings: Readings, site: nn.Module, jobs: Sequence[Job], batch: Batch
) -> Iterator[Run]:
    """While open, the batch runs from the site on; the model is as it was when this closes."""
    if readings.tail is not None:
        yield _at_tail(readings, readings.tail, site, jobs, batch)
        return
    parts: list[Part] = []
    for job in jobs:
        first = sum(len(part.rows) for part in parts)
        lengths = [0] * first + [len(tokens(row)) for row in job.rows]
        parts += even(lengths, first)
    net = readings.base.net
    read = collate_rows(readings.base, batch.rows)
    inputs = {name: x[batch.source] for name, x in read.items()}
    ids, attention = decoded(inputs)
    B, T = ids.shape
    given: list[Tensor] = []

    def logits(delta: Tensor, ids: Tensor | None) -> Tensor:
        given[:] = [delta]
        with nullcontext() if ids is None else head_writes(net, ids):
            found: Tensor = net(**inputs, use_cache=False).logits
        return found.float()

    with resumed_at(net, readings.path, read, parts, batch.source) as a:
        own = site(a).reshape(B, T, -1)[batch.at]
        _keep(readings, jobs, batch, a.reshape(B, T, -1))
        with changed(site, lambda _: given[0]), head_reads(net, batch.at):
            yield Run(
                a.reshape(B * T, -1), torch.arange(B).repeat_interleave(T),
                attention.bool().flatten().cpu(), batch.at[0] * T + batch.at[1],
                _size(own), logits,
            )  # fmt: skip


def _at_tail(
    readings: Readings, tail: Tail, site: nn.Module, jobs: Sequence[Job], batch: Batch
) -> Run:
    reads = [readings.of(job.rows) for job in jobs]
    ends = torch.tensor([len(row.target) for row in batch.rows]).cumsum(0).tolist()
    source = torch.cat([
        torch.arange(ends[i] - len(batch.rows[i].target), ends[i]) for i in batch.source
    ])  # fmt: skip
    a = torch.cat([read.a for read in reads])[source]
    out = torch.cat([read.out for read in reads if read.out is not None])[source]

    def logits(delta: Tensor, ids: Tensor | None) -> Tensor:
        return tail.logits(out + delta.to(out), ids)

    every = torch.arange(len(a))
    return Run(a, batch.at[0], every >= 0, every, _size(site(a)), logits)


def _size(x: Tensor) -> float:
    return x.float().square().mean().sqrt().item()


def _keep(readings: Readings, jobs: Sequence[Job], batch: Batch, a: Tensor) -> None:
    """Keep what each job's rows read, for whatever is asked of them later."""
    for job, mine in zip(jobs, batch.jobs, strict=True):
        readings.keep(job.rows, Read(a[mine][places(job.rows)], None))
