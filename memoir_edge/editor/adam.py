"""The optimiser: Adam on a low-rank change, over the likely tokens only.

At each site an edit's change is dWm = M B. M `[k, r]` spans what the edit's rows read there in the
frozen model where their target tokens are predicted, turned away from what other edits read
(editor/spare.py). Its longest directions tell which token of the target is next. B `[r, d]` is
trained. So the rank is low by construction, and a change is stored exactly as it was trained. What
is read at a second site while training depends on the change of the first; that the directions do
not keeps the rank where it is.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from memoir_edge.editor.batch import Batch, Job, OnStep, check
from memoir_edge.editor.layer import Delta
from memoir_edge.editor.run import Run, under
from memoir_edge.history.events import Change
from memoir_edge.settings import Settings

BETAS = (0.9, 0.999)
NEGLIGIBLE = 1e-3  # share of the largest eigenvalue below which a direction counts as none
RIDGE = 1.0  # of the regression that tells tokens apart, in mean squares of what is read
OTHERS = 0.3  # how long all other directions are beside those that tell tokens apart
LIKELY = 32  # tokens that a step looks at for each place
FRESH = 20  # steps for which those are taken to be the likely ones: a change makes others likely


class Adam:
    """Trains jobs together, until each of their rows is likely enough.

    Args:
        Wm: `[d, tiles * D]`, not changed.
        jobs: The edits.
        reads: What the rows of each job read at the first site, `[X of the job, k]`.
        batch: Their rows.
        run: The batch on the model; the rate is in units of an entry of a site's own output.
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
        self.jobs, self.batch, self.running, self.settings = jobs, batch, run, settings
        D = run.a.shape[1]
        self.parts: list[Part] = []  # one a site
        rates = []
        nth = [batch.nth[batch.owner == i] for i in range(len(jobs))]
        for s, (a, scale) in enumerate(zip(run.seen, run.scale, strict=True)):
            columns = [job.columns + s * D for job in jobs]
            spanned = self._under(a, batch.at[0])
            avoid = [job.avoid[s] if job.avoid else None for job in jobs]
            part = Part(Wm, columns, spanned, nth, avoid)
            size = part.met(spanned)[1].norm(dim=-1).mean().clamp(min=torch.finfo(Wm.dtype).tiny)
            self.parts.append(part)
            rates.append({"params": [part.B], "lr": settings.lr * scale / float(size)})
        self.met = self.parts[0].met(reads)
        self.adam = torch.optim.Adam(rates, betas=BETAS)
        self.losses = [0.0] * len(jobs)
        self.steps = 0

    def _under(self, a: Tensor, row: Tensor) -> list[Tensor]:
        """What each job's rows read, `[places of it, k]`, of inputs `[places, D]`."""
        rows = zip(self.jobs, self.batch.jobs, self.batch.keep, strict=True)
        return [under(a, row, *one) for one in rows]

    def _given(self) -> tuple[Tensor, list[Delta]]:
        """What Wm and the change add; at a later site that follows from what is read by then."""

        def later(part: Part) -> Delta:
            return lambda a: part.delta(
                *part.met(self._under(a.reshape(-1, a.shape[-1]), self.running.row))
            )

        first, *others = self.parts
        return first.delta(*self.met), [later(part) for part in others]

    def run(self, on_step: OnStep) -> None:
        """Step until every row's target is likely enough or the steps run out.

        Most steps look at likely tokens alone; whether a row is done is said by all tokens.

        Raises:
            InputError: A loss is no longer finite.
        """
        while True:
            with torch.no_grad():
                likely = Likely(self.running.looks(*self._given()), self.batch.wanted)
            rows = self.batch.mean(likely.seen)
            self.losses = [rows[mine].max().item() for mine in self.batch.jobs]
            on_step(self.steps, max(self.losses))
            check(self.losses, self.steps)
            if max(self.losses) <= self.settings.stop_loss or self.steps == self.settings.steps:
                return
            self._step(likely)

    def _step(self, likely: "Likely") -> None:
        """Step until every row seems likely enough, or other tokens may have become likely."""
        for _ in range(min(FRESH, self.settings.steps - self.steps)):
            delta, later = self._given()
            rows = self.batch.mean(likely.nats(self.running.logits(delta, likely.ids, later)))
            if rows.max().item() <= self.settings.stop_loss:
                return
            self.adam.zero_grad()
            rows.mean().backward()  # type: ignore[no-untyped-call]
            self.adam.step()
            self.steps += 1

    def changes(self) -> list[Change]:
        """What came of it, for each job."""
        found = []
        for i, loss in enumerate(self.losses):
            M, B = zip(*(part.product(i) for part in self.parts), strict=True)
            r = max(map(len, B))  # a change has one rank: zeros fill it up
            V = torch.cat([pad(x, (0, r - x.shape[1])) for x in M])
            U = torch.cat([pad(x, (0, 0, 0, r - len(x))) for x in B])
            found.append(Change(V.cpu().numpy(), U.cpu().numpy(), 1.0, loss, self.steps))
        return found


class Part:
    """The jobs' changes at one site, dWm = M B each, in a Wm that they share.

    Args:
        Wm: `[d, tiles * D]`, not changed.
        columns: Of it, those of each job at this site, `[k]`.
        spanned: What the rows of each job read here in the frozen model, `[n of the job, k]`.
        nth: Which token of its row's target is predicted there, `[n of the job]`.
        avoid: Of each job, what turns its change away from others.
    """

    def __init__(
        self,
        Wm: Tensor,
        columns: Sequence[Tensor],
        spanned: Sequence[Tensor],
        nth: Sequence[Tensor],
        avoid: Sequence[Tensor | None],
    ) -> None:
        self.M = [directions(*one) for one in zip(spanned, nth, avoid, strict=True)]
        ends = [0, *accumulate(M.shape[1] for M in self.M)]
        self.own = [slice(*pair) for pair in pairwise(ends)]  # rows of B
        touched, place = torch.unique(torch.cat(list(columns)), return_inverse=True)
        self.places = place.reshape(len(columns), -1)  # of each job's columns
        self.held, self.spans = Wm.T[touched], Wm.new_zeros(len(touched), ends[-1])
        for M, mine, own in zip(self.M, self.places, self.own, strict=True):
            self.spans[mine, own] = M
        self.B = Wm.new_zeros(ends[-1], Wm.shape[0], requires_grad=True)

    def met(self, reads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What of Wm is met by what each job reads, `[X, d]`, and of the directions, `[X, r]`."""
        pairs = list(zip(reads, self.places, strict=True))
        held = torch.cat([read @ self.held[mine] for read, mine in pairs])
        return held, torch.cat([read @ self.spans[mine] for read, mine in pairs])

    def delta(self, held: Tensor, spans: Tensor) -> Tensor:
        """What Wm and the changes add to the site's output where that is met, `[X, d]`."""
        return held + spans @ self.B

    def product(self, job: int) -> tuple[Tensor, Tensor]:
        """M `[k, r]` and B `[r, d]` of a job."""
        return self.M[job], self.B.detach()[self.own[job]]


class Likely:
    """The tokens that are likely at any place. What others weigh is taken as it is at first.

    With a large vocabulary most of a step would be the LM head.

    Args:
        looks: The logits of all tokens at `n` places, some tokens after others: the first one's id,
            and theirs `[n, .]`.
        wanted: `[n]` ids that are always among the likely ones.
    """

    def __init__(self, looks: Iterable[tuple[int, Tensor]], wanted: Tensor) -> None:
        totals: list[Tensor] = []
        tops: list[tuple[Tensor, Tensor]] = []
        for first, logits in looks:
            if not totals:
                wanted = wanted.to(logits.device)
                hit = logits.new_zeros(len(wanted))
            place, some = wanted - first, logits.shape[1]
            found = logits.gather(1, place.clamp(0, some - 1)[:, None])[:, 0]
            hit = torch.where((place >= 0) & (place < some), found, hit)
            totals.append(logits.logsumexp(1))
            values, at = logits.topk(min(LIKELY, some))
            tops.append((values, first + at))
        self._total = torch.stack(totals).logsumexp(0)
        self.seen = self._total - hit  # cross entropy [n], by all tokens
        values, ids = (torch.cat(parts, dim=1) for parts in zip(*tops, strict=True))
        likely = ids.gather(1, values.topk(min(LIKELY, values.shape[1])).indices)
        self.ids = torch.unique(torch.cat([likely.flatten(), wanted]))
        self._place = torch.searchsorted(self.ids, wanted)[:, None]
        self._rest: Tensor | None = None

    def nats(self, logits: Tensor) -> Tensor:
        """Cross entropy `[n]` by the logits of `ids`, `[n, len(ids)]`; first of what was seen."""
        near = logits.logsumexp(1)
        if self._rest is None:
            share = (near.detach() - self._total).exp().clamp(max=1 - torch.finfo(near.dtype).eps)
            self._rest = self._total + torch.log1p(-share)
        return torch.logaddexp(near, self._rest) - logits.gather(1, self._place)[:, 0]


@torch.no_grad()
def directions(reads: Tensor, nth: Tensor, avoid: Tensor | None) -> Tensor:
    """Directions `[k, r]` of a change that reads `[n, k]` meet, each of which costs others little.

    Those that tell one token of the target from another are the longest, so most of a change is
    what that token adds in any wording; the rest is what single wordings need besides.

    Args:
        reads: What is read at the places of target tokens.
        nth: Which token of the target is next there, from 0 on: `[n]`.
        avoid: The matrix P `[k, k]` that turns a change away from others; None: the identity.
    """
    A = reads.double()
    turned = A if avoid is None else A @ avoid.double()
    every, apart = spanning(A, turned), telling(A, turned, nth.to(A.device))
    size, own = ((A @ M).norm(dim=1).mean() for M in (every, apart))
    apart *= size / own.clamp(min=torch.finfo(A.dtype).tiny)  # both are read as strongly
    return torch.cat([apart, OTHERS * every], dim=1).float().contiguous()


def spanning(A: Tensor, turned: Tensor) -> Tensor:
    """Directions `[k, rank]` that span P A^T and are orthogonal by P^-1.

    So a step in one of them does not repeat what another costs the other edits. One that is read
    less is shorter, by the square root of its singular value: orthonormal ones would spend most of
    a change on what hardly any row reads.

    Args:
        A: What is read, `[n, k]`.
        turned: A P.
    """
    values, vectors = torch.linalg.eigh(turned @ A.T)
    kept = values > NEGLIGIBLE * values[-1]
    length = (values[kept] / values[-1]) ** 0.25
    found: Tensor = turned.T @ (vectors[:, kept] * (length / values[kept].sqrt()))
    return found


def telling(A: Tensor, turned: Tensor, nth: Tensor) -> Tensor:
    """For each token of the target the direction on which reads are 1 where it is next, else 0.

    As far as ridge regression brings them there, with what a direction costs the other edits as its
    penalty: `[k, tokens]`.

    Args:
        A: What is read, `[n, k]`.
        turned: A P.
        nth: Which token is next, from 0 on: `[n]`.
    """
    K, wanted = turned @ A.T, one_hot(nth).to(A.dtype)
    ridge = RIDGE * K.diagonal().mean().clamp(min=torch.finfo(A.dtype).tiny)
    found: Tensor = turned.T @ torch.linalg.solve(K + ridge * torch.eye(len(K)).to(K), wanted)
    return found
