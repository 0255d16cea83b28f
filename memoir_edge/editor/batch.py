"""The training rows of edits with their thinned copies, and where each target token stands."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from memoir_edge.editor.layer import Part
from memoir_edge.editor.model import BaseModel, Row, collate
from memoir_edge.errors import InputError
from memoir_edge.settings import Settings

OnStep = Callable[[int, float], None]  # (steps done, largest loss of the batch in nats a token)
UNEVEN = 1.5  # rows whose lengths differ by a larger factor are run apart below the site


class Job(NamedTuple):
    """One edit to be trained."""

    columns: Tensor  # [k] of Wm that its mask reads at the first site, rising
    rows: list[Row]  # the plain prompt's first; all use the same mask
    avoid: Sequence[Tensor] = ()  # [k, k] a site: turn a change away from others (editor/spare.py)


class Batch(NamedTuple):
    """The rows of all jobs, and where each target token is predicted."""

    rows: list[Row]  # of all jobs, each once
    source: list[int]  # for each row with its thinned copies, which of those it reads
    keep: list[Tensor]  # for each job, what its rows read of the mask: [rows, k]
    jobs: list[slice]  # of each job, its rows
    at: tuple[Tensor, Tensor]  # row and position of each target token
    wanted: Tensor  # its id
    nth: Tensor  # which token of its row's target it is, from 0 on
    owner: Tensor  # its job

    def mean(self, nats: Tensor) -> Tensor:
        """Of each row, the mean over its target tokens: `[rows]`."""
        row = self.at[0].to(nats.device)
        count = torch.bincount(row, minlength=len(self.source))
        return nats.new_zeros(len(count)).index_add(0, row, nats) / count


def batch_of(jobs: Sequence[Job], settings: Settings) -> Batch:
    """The batch of some jobs."""
    given: list[Row] = []
    source: list[int] = []
    keep: list[Tensor] = []
    for job in jobs:
        first, count = len(given), len(job.rows)
        given += job.rows
        source += [first + i for i in [*range(count), *thinned(settings, count)]]
        keep.append(thin(settings, count, job.columns))
    ends = [0, *accumulate(map(len, keep))]
    rows = [given[i] for i in source]
    job_of = [i for i, each in enumerate(keep) for _ in each]
    row, position = places(rows)
    wanted = torch.tensor([token for each in rows for token in each.target])
    nth = torch.tensor([j for each in rows for j in range(len(each.target))])
    return Batch(
        given, source, keep, [slice(*pair) for pair in pairwise(ends)], (row, position), wanted,
        nth, torch.tensor(job_of)[row],
    )  # fmt: skip


def places(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Row and position at which each target token is predicted, row by row."""
    found = [
        (i, len(row.prompt) - 1 + j) for i, row in enumerate(rows) for j in range(len(row.target))
    ]
    row, position = torch.tensor(found).T.contiguous()
    return row, position


def tokens(row: Row) -> list[int]:
    """What the model reads of a row: nothing follows its last target token."""
    return [*row.prompt, *row.target[:-1]]


def collate_rows(base: BaseModel, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows as one batch, flush left."""
    sources = [row.source for row in rows]
    return collate(base, [tokens(row) for row in rows], side="right", sources=sources)


def even(lengths: Sequence[int], first: int) -> list[Part]:
    """The rows from `first` on in parts of about the same length.

    >>> even([9, 3, 4, 40], first=1)
    [Part(rows=[1, 2], length=4), Part(rows=[3], length=40)]
    """
    found: list[Part] = []
    shortest = 0
    for row in sorted(range(first, len(lengths)), key=lambda row: lengths[row]):
        if not found or lengths[row] > UNEVEN * shortest:
            found.append(Part([], 0))
            shortest = lengths[row]
        found[-1] = Part([*found[-1].rows, row], lengths[row])
    return found


def thinned(settings: Settings, rows: int) -> list[int]:
    """Which of an edit's rows each thinned copy is of."""
    return [0] * settings.thinned + list(range(1, rows)) * settings.thinned_forms


def thin(settings: Settings, rows: int, columns: Tensor) -> Tensor:
    """Which of the k active features each row reads: `[rows + copies, k]`, ones and zeros.

    The given rows read all of them. Each thinned copy of a row reads a random part only.
    A paraphrase's activations resemble the prompt's in part, so a change that gives the target from
    a part of the features gives it for paraphrases as well (docs/editor.md has the measurement).
    The parts are drawn once for each edit, seeded by its mask: the same edit is always trained in
    the same way, and the rank of its change is at most the number of tokens that its rows read.
    """
    whole = torch.ones(rows, len(columns))
    seed = settings.seed + int(
        (columns * torch.arange(1, len(columns) + 1, device=columns.device)).sum()
    )
    random = torch.Generator().manual_seed(seed)
    copies = len(thinned(settings, rows))
    kept = torch.rand(copies, len(columns), generator=random) >= settings.dropout
    return torch.cat([whole, kept.float()])


def check(losses: Sequence[float], steps: int) -> None:
    """Raise InputError unless all losses are finite."""
    diverged = next((loss for loss in losses if not isfinite(loss)), None)
    if diverged is not None:
        raise InputError(
            f"training diverged: the loss is {diverged} after {steps} steps",
            hint="the base model in float32, or a smaller learning rate, may hold",
        )
