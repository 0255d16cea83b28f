"""The optimiser: Adam on a low-rank change, with the tokens alone that are likely.

An edit's change is dWm = M B. M `[k, r]` spans what the edit's rows read where their target tokens
are predicted, turned away from what other edits read (editor/spare.py); B `[r, d]` is trained. So
the rank is low by construction, and a change is stored exactly as it was trained.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from memoir_edge.editor.batch import Batch, Job, OnStep, check
from memoir_edge.editor.run import Run
from memoir_edge.history.events import Change
from memoir_edge.settings import Settings

BETAS = (0.9, 0.999)
NEGLIGIBLE = 1e-3  # share of the largest eigenvalue below which a direction counts as none
LIKELY = 32  # tokens that a step looks at for each place
FRESH = 20  # steps for which those are taken to be the likely ones: a change makes others likely


class Adam:
    """Trains jobs together, until each of their rows is likely enough.

    Args:
        Wm: `[d, D]`, not changed.
        jobs: The edits.
        reads: What the rows of each job read, `[X of the job, k]`.
        batch: Their rows.
        run: The batch on the model; the rate is in units of an entry of the site's own output.
        settings: Rate and when to stop.
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
        self.batch, self.settings, self.logits = batch, settings, run.logits
        at = run.at.to(Wm.device)
        starts = [0, *accumulate(map(len, reads))]
        self.M = [
            directions(read[at[(at >= start) & (at < start + len(read))] - start], job.avoid)
            for read, job, start in zip(reads, jobs, starts, strict=False)
        ]
        ends = [0, *accumulate(M.shape[1] for M in self.M)]
        self.own = [slice(*pair) for pair in pairwise(ends)]  # rows of B
        columns, place = torch.unique(torch.cat([j.columns for j in jobs]), return_inverse=True)
        held, spans = Wm.T[columns], Wm.new_zeros(len(columns), ends[-1])
        places = place.reshape(len(jobs), -1)  # of each job's columns
        for M, mine, own in zip(self.M, places, self.own, strict=True):
            spans[mine, own] = M
        pairs = list(zip(reads, places, strict=True))
        self.held = torch.cat([read @ held[mine] for read, mine in pairs])  # [X, d]
        self.read = torch.cat([read @ spans[mine] for read, mine in pairs])  # [X, r]
        self.B = Wm.new_zeros(ends[-1], Wm.shape[0], requires_grad=True)
        size = self.read[at].norm(dim=-1).mean().clamp(min=torch.finfo(Wm.dtype).tiny)
        self.adam = torch.optim.Adam(
            [self.B], lr=settings.lr * run.scale / float(size), betas=BETAS
        )
        self.losses = [0.0] * len(jobs)
        self.steps = 0

    def delta(self) -> Tensor:
        """What Wm and the change add to the site's output, `[X, d]`."""
        return self.held + self.read @ self.B

    def run(self, on_step: OnStep) -> None:
        """Step until every row's target is likely enough or the steps run out.

        Most steps look at likely tokens alone; whether a row is done is said by all tokens.

        Raises:
            InputError: A loss is no longer finite.
        """
        while True:
            with torch.no_grad():
                full = self.logits(self.delta(), None)
            wanted = self.batch.wanted.to(full.device)
            rows = self.batch.mean(nn.functional.cross_entropy(full, wanted, reduction="none"))
            self.losses = [rows[mine].max().item() for mine in self.batch.jobs]
            on_step(self.steps, max(self.losses))
            check(self.losses, self.steps)
            if max(self.losses) <= self.settings.stop_loss or self.steps == self.settings.steps:
                return
            self._step(Likely(full, wanted))

    def _step(self, likely: "Likely") -> None:
        """Step until every row seems likely enough, or other tokens may have become likely."""
        for _ in range(min(FRESH, self.settings.steps - self.steps)):
            rows = self.batch.mean(likely.nats(self.logits(self.delta(), likely.ids)))
            if rows.max().item() <= self.settings.stop_loss:
                return
            self.adam.zero_grad()
            rows.mean().backward()  # type: ignore[no-untyped-call]
            self.adam.step()
            self.steps += 1

    def changes(self) -> list[Change]:
        """What came of it, for each job."""
        B = self.B.detach()
        return [
            Change(M.cpu().numpy(), B[own].cpu().numpy(), 1.0, loss, self.steps)
            for M, own, loss in zip(self.M, self.own, self.losses, strict=True)
        ]


class Likely:
    """The tokens that are likely at any place; what others weigh is taken as it is now.

    With a large vocabulary most of a step would be the LM head.

    Args:
        logits: `[places, V]`, written to.
        wanted: `[places]`, always among them.
    """

    def __init__(self, logits: Tensor, wanted: Tensor) -> None:
        V = logits.shape[1]
        top = logits.topk(min(LIKELY, V)).indices
        self.ids = torch.unique(torch.cat([top.flatten(), wanted]))
        self._place = torch.searchsorted(self.ids, wanted)[:, None]
        self._rest = logits.index_fill_(1, self.ids, float("-inf")).logsumexp(1)

    def nats(self, logits: Tensor) -> Tensor:
        """Cross entropy `[places]` by the logits of `ids`, `[places, len(ids)]`."""
        total = torch.logaddexp(logits.logsumexp(1), self._rest)
        return total - logits.gather(1, self._place)[:, 0]


@torch.no_grad()
def directions(reads: Tensor, avoid: Tensor | None) -> Tensor:
    """Directions `[k, r]` of a change that reads `[n, k]` meet.

    With P the matrix `avoid`, they span P reads^T and are orthogonal by P^-1, so a step in one of
    them does not repeat what another costs the other edits. One that is read less is shorter, by
    the square root of its singular value: orthonormal ones would spend most of a change on what
    hardly any row reads.
    """
    A = reads.double()
    turned = A if avoid is None else A @ avoid.double()
    values, vectors = torch.linalg.eigh(turned @ A.T)
    kept = values > NEGLIGIBLE * values[-1]
    length = (values[kept] / values[-1]) ** 0.25
    found: Tensor = turned.T @ (vectors[:, kept] * (length / values[kept].sqrt()))
    return found.float().contiguous()
