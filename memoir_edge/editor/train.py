"""Training: gradient descent on the k active columns of Wm (MEMOIR section 3.1).

Knows nothing of banks, routing or files. The base model and Wm are only read; the result is each
edit's change, as a product of two thin matrices.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, count, pairwise
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memoir_edge.editor.layer import changed, head_reads, resumed_at
from memoir_edge.editor.model import BaseModel, collate
from memoir_edge.errors import InputError
from memoir_edge.history.events import RELATIVE_ERROR, Change
from memoir_edge.settings import Settings
from memoir_edge.text import split_target

# The released code's: by how much all of Wm shrinks at each step, and below which progress a loss
# counts as stalled.
PARITY_DECAY = 1e-5
PARITY_STALLED = 1e-4

OnStep = Callable[[int, float], None]  # (steps done, largest loss of the group in nats a token)


class Row(NamedTuple):
    """One training row: what is read, and what must follow."""

    prompt: list[int]
    target: list[int]


class Job(NamedTuple):
    """One edit to be trained."""

    columns: Tensor  # [k] places of its mask's ones, rising
    rows: list[Row]  # the plain prompt's first; all use the same mask
    avoid: Tensor | None = None  # [k, k] to multiply gradients by (editor/spare.py)


def rows(
    base: BaseModel, prompt: str, target: str, prefixes: Sequence[str], *, eos: bool
) -> list[Row]:
    """Training rows: the plain prompt, then the prompt behind each prefix, all with one target.

    A prefixed row that does not fit the context is left out.

    Raises:
        InputError: The plain prompt and its target do not fit the model's context.
    """
    made: list[Row] = []
    for text in [prompt, *(f"{prefix}. {prompt}" for prefix in prefixes)]:
        read, follow = split_target(base.encode, base.encode_bare, text, target)
        made.append(Row(read, [*follow, base.eos[0]] if eos and base.eos else follow))
    length = sum(map(len, made[0]))
    if length > base.context:
        raise InputError(
            f"prompt and target are {length} tokens, the model's context is {base.context}",
            hint="shorten the prompt",
        )
    return [row for row in made if sum(map(len, row)) <= base.context]


def train(
    base: BaseModel,
    site: nn.Module,
    Wm: Tensor,
    jobs: Sequence[Job],
    settings: Settings,
    on_step: OnStep = lambda step, loss: None,
) -> list[Change]:
    """Train edits together until each target is likely enough or the steps run out.

    The rows of each edit read through its own mask and change its own columns. Where two edits
    share columns their changes add up, exactly as in descent on the sum of the losses over one Wm.

    Args:
        base: The frozen model.
        site: Its edited layer.
        Wm: `[d, D]` float32, not changed.
        jobs: The edits, most often one.
        settings: Rate, clipping and when to stop.
        on_step: Told of every measured loss.

    Returns:
        For each job, what is to be added to its columns of Wm.

    Raises:
        InputError: A loss is no longer finite.
    """
    batch = _batch(base, jobs, settings)
    kept = [thin(settings, len(job.rows), job.columns).to(Wm.device)[:, None] for job in jobs]
    ends = [0, *accumulate(map(len, kept))]
    parts = [slice(*pair) for pair in pairwise(ends)]  # each job's rows of the batch
    descent = _Descent(Wm, jobs, settings)
    reads: list[Tensor] = []  # [rows, T, k] of each job, constant over the steps

    def delta(a: Tensor) -> Tensor:
        if not reads:
            a = a.reshape(ends[-1], -1, a.shape[-1])
            reads[:] = [
                a[part][..., job.columns].float() * keep
                for part, job, keep in zip(parts, jobs, kept, strict=True)
            ]
        return torch.cat([r @ leaf for r, leaf in zip(reads, descent.leaves, strict=True)])

    with (
        resumed_at(base.net, settings.site, batch.inputs),
        changed(site, delta),
        head_reads(base.net, batch.at),
    ):
        losses = descent.run(lambda: _measured(base, batch, len(jobs)), on_step)
    out = []
    real = batch.inputs["attention_mask"].bool().to(Wm.device)
    for i, (part, job) in enumerate(zip(parts, jobs, strict=True)):
        read = reads[i][real[part]]
        read = read if job.avoid is None else read @ job.avoid
        V, U, error = low_rank(descent.changes[i], read)
        steps = descent.steps[i]
        out.append(Change(V.cpu().numpy(), U.cpu().numpy(), descent.decay, losses[i], steps, error))
    return out


class _Descent:
    """Gradient descent on the columns that the jobs' masks touch, and what it did for each job."""

    def __init__(self, Wm: Tensor, jobs: Sequence[Job], settings: Settings) -> None:
        columns = torch.cat([job.columns for job in jobs])
        touched, places = torch.unique(columns, return_inverse=True)
        self.jobs, self.settings = jobs, settings
        self.own = places.reshape(len(jobs), -1)  # [jobs, k] in W
        self.W = Wm.T[touched]  # [columns, d]: the only copy, and all that training changes
        self.changes, self.moves = self.W.new_zeros(2, *self.own.shape, self.W.shape[1])
        self.leaves: list[Tensor] = []  # [k, d] of each job
        self.steps = [0] * len(jobs)
        self.decay = 1.0

    def run(self, measure: Callable[[], Tensor], on_step: OnStep) -> list[float]:
        """Step until every loss is small enough or the steps run out; the last losses `[jobs]`.

        Args:
            measure: Gives the losses that the leaves lead to.
            on_step: Told of the largest of them.

        Raises:
            InputError: A loss is no longer finite.
        """
        former = [float("inf")] * len(self.jobs)
        for step in count():
            self.leaves = [self.W[places].requires_grad_(True) for places in self.own]
            measured = measure()
            losses: list[float] = measured.tolist()
            on_step(step, max(losses))
            if not all(map(isfinite, losses)):
                raise InputError(
                    f"training diverged: the loss is {max(losses)} after {step} steps",
                    hint="the base model in float32, or a smaller learning rate, may hold",
                )
            active = [
                i for i, loss in enumerate(losses) if not _done(self.settings, loss, former[i])
            ]
            if not active or step == self.settings.steps:
                break
            self._move(torch.autograd.grad(measured.sum(), self.leaves), active)
            former = losses
        return losses

    def _move(self, gradients: Sequence[Tensor], active: Sequence[int]) -> None:
        """One step of the jobs that are not done."""
        settings = self.settings
        if settings.parity:
            self.W *= 1 - settings.lr * PARITY_DECAY
            self.changes[0] *= 1 - settings.lr * PARITY_DECAY
            self.decay *= 1 - settings.lr * PARITY_DECAY
        for i in active:
            avoid = self.jobs[i].avoid
            gradient = gradients[i] if avoid is None else turned(gradients[i], avoid)
            norm = gradient.norm().item()
            self.moves[i] *= settings.momentum
            self.moves[i] += gradient * (settings.lr * min(1.0, settings.clip / (norm + 1e-6)))
            self.W[self.own[i]] -= self.moves[i]
            self.changes[i] -= self.moves[i]
            self.steps[i] += 1


def _measured(base: BaseModel, batch: "Batch", jobs: int) -> Tensor:
    """The loss of each job `[jobs]`, in nats a target token."""
    logits = base.net(**batch.inputs, use_cache=False).logits.float()
    wanted = batch.wanted.to(logits.device)
    nats = nn.functional.cross_entropy(logits, wanted, reduction="none")
    owner, share = batch.owner.to(nats.device), batch.share.to(nats.device)
    return nats.new_zeros(jobs).index_add(0, owner, nats * share)


def turned(gradient: Tensor, avoid: Tensor) -> Tensor:
    """A gradient `[k, d]` turned away from what others read, and scaled back to its own norm.

    Where a thousand edits are to be spared the product is far shorter than the gradient, and the
    descent would take many more steps.
    """
    rest = avoid @ gradient
    found: Tensor = rest * (gradient.norm() / rest.norm().clamp(min=torch.finfo(rest.dtype).tiny))
    return found


def _done(settings: Settings, loss: float, former: float) -> bool:
    stalled = abs(loss - former) <= PARITY_STALLED
    return loss <= settings.stop_loss and (stalled or not settings.parity)


@torch.no_grad()
def low_rank(change: Tensor, reads: Tensor) -> tuple[Tensor, Tensor, float]:
    """A change at the lowest rank whose relative error is `RELATIVE_ERROR` (truncated SVD).

    Every gradient is a sum of outer products with what the rows read, so the change lies in the
    span of that. The SVD is taken within it, of a matrix with one row for each token read, which is
    far smaller than the change.

    Args:
        change: `[k, d]`.
        reads: `[tokens, k]`.

    Returns:
        V `[k, r]`, U `[r, d]` and the relative error of V U.
    """
    Q = torch.linalg.qr(reads.T).Q if len(reads) < min(change.shape) else None
    inner = change if Q is None else Q.T @ change
    left, S, right = torch.linalg.svd(inner, full_matrices=False)
    size = change.norm()
    rest = torch.cat([S.square().flip(0).cumsum(0).flip(0), S.new_zeros(1)]).sqrt()
    r = max(int((rest > RELATIVE_ERROR * size).sum()), 1)
    V = left[:, :r] * S[:r]
    V = (V if Q is None else Q @ V).contiguous()
    U = right[:r].contiguous()
    error = ((change - V @ U).norm() / size).item() if size else 0.0
    return V, U, error


def thin(settings: Settings, rows: int, columns: Tensor) -> Tensor:
    """Which of the k active features each row reads: `[rows + thinned, k]`, ones and zeros.

    The given rows read all of them. Each thinned copy of the plain prompt reads a random part only.
    A paraphrase's activations resemble the prompt's in part, so a change that gives the target from
    a part of the features gives it for paraphrases as well (docs/editor.md has the measurement).
    The parts are drawn once for each edit, seeded by its mask: the same edit is always trained in
    the same way, and the rank of its change is at most the number of tokens that its rows read.
    """
    seed = settings.seed + int(
        (columns * torch.arange(1, len(columns) + 1, device=columns.device)).sum()
    )
    random = torch.Generator().manual_seed(seed)
    kept = torch.rand(settings.thinned, len(columns), generator=random) >= settings.dropout
    return torch.cat([torch.ones(rows, len(columns)), kept.float()])


class Batch(NamedTuple):
    """The padded rows of all jobs, and where each target token is predicted."""

    inputs: dict[str, Tensor]
    at: tuple[Tensor, Tensor]  # row and position
    wanted: Tensor  # its id
    owner: Tensor  # its job
    share: Tensor  # its weight in that job's loss


def _batch(base: BaseModel, jobs: Sequence[Job], settings: Settings) -> Batch:
    rows = [
        (i, row)
        for i, job in enumerate(jobs)
        for row in [*job.rows, *[job.rows[0]] * settings.thinned]
    ]
    read = [[*row.prompt, *row.target[:-1]] for _, row in rows]  # nothing follows the last token
    inputs = collate(base, read, side="right")
    places = [
        (number, len(row.prompt) - 1 + j, token, i)
        for number, (i, row) in enumerate(rows)
        for j, token in enumerate(row.target)
    ]
    number, position, wanted, owner = torch.tensor(places).T
    counts = torch.bincount(owner).float()
    if settings.parity:  # the released code divides by one more than there are
        counts += torch.bincount(torch.tensor([i for i, _ in rows])).float()
    return Batch(inputs, (number, position), wanted, owner, (1 / counts)[owner])
