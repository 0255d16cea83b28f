"""The training rows of edits as one padded batch, and the logits of their target tokens."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from memoir_edge.editor.layer import Part, head_writes
from memoir_edge.editor.model import BaseModel, collate
from memoir_edge.editor.rows import Row
from memoir_edge.errors import InputError
from memoir_edge.settings import Settings

OnStep = Callable[[int, float], None]  # (steps done, largest loss of the batch in nats a token)
UNEVEN = 1.5  # rows whose lengths differ by a larger factor are run apart below the site


class Job(NamedTuple):
    """One edit to be trained."""

    columns: Tensor  # [k] places of its mask's ones, rising
    rows: list[Row]  # the plain prompt's first; all use the same mask
    avoid: Tensor | None = None  # [k, k] that turns a change away from others (editor/spare.py)


class Batch(NamedTuple):
    """The rows of all jobs, padded on the right, and where each target token is predicted."""

    read: dict[str, Tensor]  # each row once; nothing follows its last token
    parts: list[Part]  # of those, each of one job and of rows of about the same length
    source: list[int]  # for each row with its thinned copies, which of those it reads
    keep: list[Tensor]  # for each job, what its rows read of the mask: [rows, k]
    jobs: list[slice]  # of each job, its rows
    at: tuple[Tensor, Tensor]  # row and position of each target token
    wanted: Tensor  # its id
    owner: Tensor  # its job

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the model reads, thinned copies included."""
        return {name: x[self.source] for name, x in self.read.items()}

    def mean(self, nats: Tensor) -> Tensor:
        """Of each row, the mean over its target tokens: `[rows]`."""
        row = self.at[0].to(nats.device)
        count = torch.bincount(row, minlength=len(self.source))
        return nats.new_zeros(len(count)).index_add(0, row, nats) / count


def batch_of(base: BaseModel, jobs: Sequence[Job], settings: Settings | None) -> Batch:
    """The batch of some jobs; without settings no thinned copies."""
    read: list[list[int]] = []
    source: list[int] = []
    keep: list[Tensor] = []
    parts: list[Part] = []
    for job in jobs:
        first = len(read)
        read += [[*row.prompt, *row.target[:-1]] for row in job.rows]
        parts += even(list(map(len, read)), first)
        copies = thinned(settings, len(job.rows)) if settings else []
        source += [first + i for i in [*range(len(job.rows)), *copies]]
        keep.append(thin(settings, len(job.rows), job.columns))
    ends = [0, *accumulate(map(len, keep))]
    rows = [row for job in jobs for row in job.rows]
    owners = [i for i, each in enumerate(keep) for _ in each]
    places = [
        (number, len(rows[i].prompt) - 1 + j, token, owners[number])
        for number, i in enumerate(source)
        for j, token in enumerate(rows[i].target)
    ]
    number, position, wanted, owner = torch.tensor(places).T.contiguous()
    return Batch(
        collate(base, read, side="right"), parts, source, keep,
        [slice(*pair) for pair in pairwise(ends)], (number, position), wanted, owner,
    )  # fmt: skip


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


def thin(settings: Settings | None, rows: int, columns: Tensor) -> Tensor:
    """Which of the k active features each row reads: `[rows + copies, k]`, ones and zeros.

    The given rows read all of them. Each thinned copy of a row reads a random part only.
    A paraphrase's activations resemble the prompt's in part, so a change that gives the target from
    a part of the features gives it for paraphrases as well (docs/editor.md has the measurement).
    The parts are drawn once for each edit, seeded by its mask: the same edit is always trained in
    the same way, and the rank of its change is at most the number of tokens that its rows read.
    """
    whole = torch.ones(rows, len(columns))
    if settings is None:
        return whole
    seed = settings.seed + int(
        (columns * torch.arange(1, len(columns) + 1, device=columns.device)).sum()
    )
    random = torch.Generator().manual_seed(seed)
    copies = len(thinned(settings, rows))
    kept = torch.rand(copies, len(columns), generator=random) >= settings.dropout
    return torch.cat([whole, kept.float()])


class Logits:
    """The logits where target tokens are predicted: of all tokens, or of some.

    Args:
        base: The model; its head reads at those places alone.
        batch: The rows.
    """

    def __init__(self, base: BaseModel, batch: Batch) -> None:
        self._net, self._inputs = base.net, batch.inputs

    def all(self) -> Tensor:
        """`[places, V]`."""
        logits: Tensor = self._net(**self._inputs, use_cache=False).logits
        return logits.float()

    def of(self, ids: Tensor) -> Tensor:
        """`[places, len(ids)]`."""
        with head_writes(self._net, ids):
            return self.all()


def check(losses: Sequence[float], steps: int) -> None:
    """Raise InputError unless all losses are finite."""
    if not all(map(isfinite, losses)):
        raise InputError(
            f"training diverged: the loss is {max(losses)} after {steps} steps",
            hint="the base model in float32, or a smaller learning rate, may hold",
        )
