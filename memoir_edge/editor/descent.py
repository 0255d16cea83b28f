"""Gradient descent on the mask's columns of Wm: the paper's, and the released code's with --parity.

Plain as the paper has it, or with momentum, and turned away from what other edits read.
"""

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor, nn

from memoir_edge.editor.batch import Batch, Job, OnStep, check
from memoir_edge.editor.run import Run
from memoir_edge.history.events import RELATIVE_ERROR, Change
from memoir_edge.settings import Settings

# The released code's: by how much all of Wm shrinks at each step, and below which progress a loss
# counts as stalled.
PARITY_DECAY = 1e-5
PARITY_STALLED = 1e-4


class Descent:
    """Descent on the columns that the jobs' masks touch, and what it did for each job.

    Args:
        Wm: `[d, tiles * D]`, not changed.
        jobs: The edits.
        reads: What the rows of each job read, `[X of the job, k]`.
        batch: Their rows.
        run: The batch on the model, which has one site.
        settings: Rate, in units of Wm, clipping and when to stop.
    """

    def __init__(
        self,
        Wm: Tensor,
        jobs: Sequence[Job],
        reads: Sequence[Tensor],
        batch: Batch,
        run: Run,
        settings: Settings,
    ) -> None:
        columns = torch.cat([job.columns for job in jobs])
        touched, places = torch.unique(columns, return_inverse=True)
        self.jobs, self.settings, self.reads, self.batch = jobs, settings, reads, batch
        self.logits = run.logits
        self.real = torch.split(run.real, list(map(len, reads)))
        self.own = places.reshape(len(jobs), -1)  # [jobs, k] in W
        self.W = Wm.T[touched]  # [columns, d]: the only copy, and all that training changes
        self.total, self.moves = self.W.new_zeros(2, *self.own.shape, self.W.shape[1])
        self.leaves: list[Tensor] = []  # [k, d] of each job
        self.steps = [0] * len(jobs)
        self.losses: list[float] = []
        self.decay = 1.0

    def delta(self) -> Tensor:
        """What the columns as they are now add to the site's output, `[X, d]`."""
        return torch.cat([r @ leaf for r, leaf in zip(self.reads, self.leaves, strict=True)])

    def run(self, on_step: OnStep) -> None:
        """Step until every job's loss is small enough or the steps run out.

        Raises:
            InputError: A loss is no longer finite.
        """
        former = [float("inf")] * len(self.jobs)
        for step in count():
            self.leaves = [self.W[places].requires_grad_(True) for places in self.own]
            measured = self._measured(self.logits(self.delta(), None, ()))
            self.losses = measured.tolist()
            on_step(step, max(self.losses))
            check(self.losses, step)
            active = [
                i for i, loss in enumerate(self.losses) if not _done(self.settings, loss, former[i])
            ]
            if not active or step == self.settings.steps:
                return
            self._move(torch.autograd.grad(measured.sum(), self.leaves), active)
            former = self.losses

    def _measured(self, logits: Tensor) -> Tensor:
        """The loss of each job `[jobs]`, in nats a target token."""
        wanted, owner = self.batch.wanted.to(logits.device), self.batch.owner.to(logits.device)
        nats = nn.functional.cross_entropy(logits, wanted, reduction="none")
        counts = torch.bincount(owner).float()
        if self.settings.parity:  # the released code divides by one more than there are
            counts += torch.tensor([len(kept) for kept in self.batch.keep], device=counts.device)
        return nats.new_zeros(len(self.jobs)).index_add(0, owner, nats / counts[owner])

    def _move(self, gradients: Sequence[Tensor], active: Sequence[int]) -> None:
        """One step of the jobs that are not done."""
        settings = self.settings
        if settings.parity:
            self.W *= 1 - settings.lr * PARITY_DECAY
            self.total[0] *= 1 - settings.lr * PARITY_DECAY
            self.decay *= 1 - settings.lr * PARITY_DECAY
        for i in active:
            gradient = gradients[i]
            for avoid in self.jobs[i].avoid:  # of the one site
                gradient = turned(gradient, avoid)
            norm = gradient.norm().item()
            self.moves[i] *= settings.momentum
            self.moves[i] += gradient * (settings.lr * min(1.0, settings.clip / (norm + 1e-6)))
            self.W[self.own[i]] -= self.moves[i]
            self.total[i] -= self.moves[i]
            self.steps[i] += 1

    def changes(self) -> list[Change]:
        """What came of it, for each job, at a low rank."""
        found = []
        for i, (job, real) in enumerate(zip(self.jobs, self.real, strict=True)):
            read = self.reads[i][real.to(self.W.device)]
            for avoid in job.avoid:
                read = read @ avoid
            V, U, error = low_rank(self.total[i], read)
            found.append(
                Change(
                    V.cpu().numpy(), U.cpu().numpy(), self.decay, self.losses[i], self.steps[i],
                    error,
                )
            )  # fmt: skip
        return found


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
