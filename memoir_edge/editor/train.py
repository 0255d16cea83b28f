"""One edit: gradient descent on the k active columns of Wm (MEMOIR section 3.1).

Knows nothing of banks, routing or files. The base model is frozen; the only leaf is `[k, d]`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memoir_edge.editor.config import Settings
from memoir_edge.editor.layer import changed, resumed_at
from memoir_edge.editor.model import BaseModel, collate, greedy
from memoir_edge.errors import InputError
from memoir_edge.text import split_target

# The paper's seeds for texts that the model writes itself, and their lengths in tokens.
SEEDS = ("I", "You", "Because", "Yes", "Q: ")
LENGTHS = (5, 10)

OnStep = Callable[[int, float], None]  # (steps done, loss in nats a token)


class Row(NamedTuple):
    """One training row: what is read, and what must follow."""

    prompt: list[int]
    target: list[int]


class Trained(NamedTuple):
    """What became of one edit's training."""

    loss: float  # nats a target token, after the last step
    steps: int


def own_texts(base: BaseModel, count: int) -> list[str]:
    """Up to `count` short texts written greedily by the model, of each length from each seed."""
    rows = [base.encode(seed) for seed in SEEDS]
    texts: list[str] = []
    for length in LENGTHS:
        grown = greedy(base, rows, length, stop=False)
        texts += [seed + base.decode(ids) for seed, ids in zip(SEEDS, grown, strict=True)]
    return texts[:count]


def rows(
    base: BaseModel, prompt: str, target: str, prefixes: Sequence[str], *, eos: bool
) -> list[Row]:
    """The plain prompt first, then the prompt behind each prefix; all with the same target.

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
    columns: Tensor,
    rows: Sequence[Row],
    settings: Settings,
    on_step: OnStep = lambda step, loss: None,
) -> Trained:
    """Train one edit into Wm, in place, until the target is likely enough or the steps run out.

    Args:
        base: The frozen model.
        site: Its edited layer.
        Wm: `[d, D]` float32; only `columns` change.
        columns: `[k]` indices of the mask's ones.
        rows: Training rows, the plain prompt's first; all use the same mask.
        settings: Rate, clipping and when to stop.
        on_step: Told of every measured loss.
    """
    kept = thin(settings, len(rows), columns).to(Wm.device)[:, None, :]
    batch, at, wanted = _batch(base, [*rows, *[rows[0]] * settings.thinned])
    leaf = Wm[:, columns].T.contiguous().requires_grad_(True)  # [k, d]
    optimizer = torch.optim.SGD([leaf], lr=settings.lr)

    def delta(a: Tensor) -> Tensor:
        return (a.reshape(len(kept), -1, a.shape[-1])[..., columns].float() * kept) @ leaf

    loss, step = float("inf"), 0
    with resumed_at(base.net, settings.site, batch), changed(site, delta):
        while True:
            logits = base.net(**batch, use_cache=False).logits
            measured = nn.functional.cross_entropy(logits[at].float(), wanted)
            loss = measured.item()
            on_step(step, loss)
            if loss <= settings.stop_loss or step == settings.steps:
                break
            (leaf.grad,) = torch.autograd.grad(measured, [leaf])
            nn.utils.clip_grad_norm_([leaf], settings.clip)
            optimizer.step()
            step += 1
    Wm[:, columns] = leaf.detach().T
    return Trained(loss, step)


def thin(settings: Settings, rows: int, columns: Tensor) -> Tensor:
    """Which of the k active features each row reads: `[rows + thinned, k]`, ones and zeros.

    The given rows read all of them. The thinned copies of the plain prompt each miss a random part:
    activations of a paraphrase resemble the prompt's only in part, so a change that gives the
    target even then gives it for paraphrases too (docs/editor.md has the measurement). The part is
    drawn once an edit, by its mask: the same edit is always trained alike, and the change's rank
    stays bounded by the rows' tokens.
    """
    seed = settings.seed + int(
        (columns * torch.arange(1, len(columns) + 1, device=columns.device)).sum()
    )
    random = torch.Generator().manual_seed(seed)
    kept = torch.rand(settings.thinned, len(columns), generator=random) >= settings.dropout
    return torch.cat([torch.ones(rows, len(columns)), kept.float()])


def _batch(
    base: BaseModel, rows: Sequence[Row]
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Padded rows, the `(row, position)` whose logits predict a target token, and those tokens."""
    batch = collate([[*r.prompt, *r.target] for r in rows], side="right", device=base.device)
    places = [
        (i, len(r.prompt) - 1 + j, token)
        for i, r in enumerate(rows)
        for j, token in enumerate(r.target)
    ]
    row, position, token = torch.tensor(places, device=base.device).T
    return batch, (row, position), token
