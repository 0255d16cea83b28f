"""Training rows on the model: what they read, and the logits that a change of its sites gives.

Where the one site is at the model's tail, rows are known by what they come to at the places of
their target tokens. Elsewhere all their tokens count, since attention above the site reads them.
What is read at a second site follows from the change of the first, so only a run tells.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from memoir_edge.editor.batch import Batch, Job, collate_rows, even, places, tokens
from memoir_edge.editor.layer import (
    Delta,
    Part,
    all_changed,
    decoded,
    head_reads,
    head_writes,
    resumed_at,
)
from memoir_edge.editor.readings import Read, Readings
from memoir_edge.editor.tail import Tail


class Run(NamedTuple):
    """A batch on the model. It is read at `X` places, at some of which target tokens are predicted.

    `logits(delta, ids, later)` gives the logits `[n, V]` of the `n` target tokens, or those of some
    ids, with `delta [X, d]` added to the first site's output. What is added to that of each other
    site is asked of `later` with what the batch then reads there.
    """

    a: Tensor  # [X, D] the first site's input, rows one after the other
    row: Tensor  # [X] its row, thinned copies included
    real: Tensor  # [X] whether it is a token, not padding
    at: Tensor  # [n] places of the target tokens
    seen: Sequence[Tensor]  # of each site, [n, D]: its input there, in the frozen model
    scale: Sequence[float]  # of each site, the size of an entry of its own output there
    logits: Callable[[Tensor, Tensor | None, Sequence[Delta]], Tensor]
    looks: Callable[[Tensor, Sequence[Delta]], Iterable[tuple[int, Tensor]]]

    def reads(self, job: Job, rows: slice, keep: Tensor) -> Tensor:
        """What a job's rows read at the first site: `[X of it, k]`."""
        return under(self.a, self.row, job, rows, keep)


def under(a: Tensor, row: Tensor, job: Job, rows: slice, keep: Tensor) -> Tensor:
    """What a job's rows read under its mask, of which each row keeps a part: `[places of it, k]`.

    Args:
        a: `[places, D]` a site's input.
        row: `[places]` the row of each.
        job: The job; its mask reads the same features at each site.
        rows: The job's.
        keep: `[rows of it, k]` ones and zeros.
    """
    mine = (row >= rows.start) & (row < rows.stop)
    features = job.columns.to(a.device) % a.shape[1]
    read = a[mine.to(a.device)][:, features]
    kept = keep[row[mine] - rows.start]
    return read.to(job.columns.device).float() * kept.to(job.columns.device)


@contextmanager
def running(readings: Readings, jobs: Sequence[Job], batch: Batch) -> Iterator[Run]:
    """While open, the batch runs from the first site on; then the model is as it was."""
    if readings.tail is not None:
        yield _at_tail(readings, readings.tail, jobs, batch)
        return
    site, *others = readings.sites
    # Read apart, so that it is what the same rows read whenever they are asked.
    apart = [readings.of(job.rows).a for job in jobs] if others else []
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
    given: list[Delta] = []

    def logits(delta: Tensor, ids: Tensor | None, later: Sequence[Delta]) -> Tensor:
        given[:] = [lambda _: delta, *later]
        with nullcontext() if ids is None else head_writes(net, ids):
            found: Tensor = net(**inputs, use_cache=False).logits
        return found.float()

    with resumed_at(net, readings.path, read, parts, batch.source) as a:
        seen = [a.reshape(B, T, -1)[batch.at]]
        own = [site(a).reshape(B, T, -1)[batch.at]]
        if others:
            seen = list(torch.cat(apart)[_source(batch)].chunk(len(readings.sites), dim=1))
            own += [other(x) for other, x in zip(others, seen[1:], strict=True)]
        else:
            _keep(readings, jobs, batch, a.reshape(B, T, -1))
        with (
            all_changed(readings.sites, lambda number, a: given[number](a)),
            head_reads(net, batch.at),
        ):
            yield Run(
                a.reshape(B * T, -1), torch.arange(B).repeat_interleave(T),
                attention.bool().flatten().cpu(), batch.at[0] * T + batch.at[1],
                seen, list(map(_size, own)), logits,
                lambda delta, later: [(0, logits(delta, None, later))],
            )  # fmt: skip


def _at_tail(readings: Readings, tail: Tail, jobs: Sequence[Job], batch: Batch) -> Run:
    reads, source = [readings.of(job.rows) for job in jobs], _source(batch)
    a = torch.cat([read.a for read in reads])[source]
    out = torch.cat([read.out for read in reads if read.out is not None])[source]
    with torch.no_grad():
        own = tail.site(a)

    def logits(delta: Tensor, ids: Tensor | None, _later: Sequence[Delta]) -> Tensor:
        return tail.logits(tail.moved(out, own, delta), ids)

    def looks(delta: Tensor, _later: Sequence[Delta]) -> Iterable[tuple[int, Tensor]]:
        return tail.looks(tail.moved(out, own, delta))

    every = torch.arange(len(a))
    return Run(a, batch.at[0], every >= 0, every, [a], [_size(own)], logits, looks)


def _source(batch: Batch) -> Tensor:
    """For each target place of the rows with their copies, which of the rows' own it is: `[n]`."""
    ends = torch.tensor([len(row.target) for row in batch.rows]).cumsum(0).tolist()
    return torch.cat([
        torch.arange(ends[i] - len(batch.rows[i].target), ends[i]) for i in batch.source
    ])  # fmt: skip


def _size(x: Tensor) -> float:
    return x.float().square().mean().sqrt().item()


def _keep(readings: Readings, jobs: Sequence[Job], batch: Batch, a: Tensor) -> None:
    """Keep what each job's rows read, for whatever is asked of them later."""
    for job, mine in zip(jobs, batch.jobs, strict=True):
        readings.keep(job.rows, Read(a[mine][places(job.rows)], None))
