"""MEMOIR in plain torch, slow and obvious: the oracle for masks, one edit's change and routing.

Written from the paper (arXiv 2506.07899) alone; shares no code with memoir_edge. One prompt at a
time, no padding, no batching, the full forward pass and all columns of Wm every step.
"""

import torch
from torch import Tensor, nn


def site_activation(net: nn.Module, site: nn.Module, ids: list[int]) -> Tensor:
    """`a` `[T, D]` of one sequence."""
    seen: list[Tensor] = []
    handle = site.register_forward_hook(lambda module, args, y: seen.append(args[0][0]))
    with torch.no_grad():
        net(input_ids=torch.tensor([ids]))
    handle.remove()
    return seen[0]


def tophash(a: Tensor, feature: str, center: Tensor, permutation: Tensor, k: int) -> Tensor:
    """Mask `[D]` of one prompt from its activations `[T, D]` (section 3.2)."""
    f = (a.mean(dim=0) if feature == "mean" else a[-1]).float() - center
    order = torch.sort(f.abs(), descending=True, stable=True).indices
    M = torch.zeros_like(f)
    M[permutation[order[:k]]] = 1
    return M


def edit(
    net: nn.Module,
    site: nn.Module,
    Wm: Tensor,
    rows: list[tuple[list[int], list[int], Tensor]],
    steps: int,
    lr: float,
    clip: float,
    stop_loss: float,
    *,
    parity: bool = False,
    seen: list[float] | None = None,
) -> Tensor:
    """Wm `[d, D]` after one edit: SGD on all of Wm through y = W0 a + Wm (M * a) (section 3.1).

    Each row is (prompt ids, target ids, mask `[D]`). `seen` takes every measured loss. With
    `parity` the arithmetic of the released code: the loss of a row is divided by one token more
    than it has, all of Wm decays by 1e-5 a step, and training stops when it stalls.
    """
    W = Wm.clone().requires_grad_(True)
    former = float("inf")
    for step in range(steps + 1):
        losses = []
        for prompt, target, M in rows:
            handle = site.register_forward_hook(
                lambda module, args, y, M=M, W=W: y + (args[0] * M) @ W.T
            )
            logits = net(input_ids=torch.tensor([[*prompt, *target]])).logits[0]
            handle.remove()
            predicted = logits[len(prompt) - 1 : -1]
            nats = nn.functional.cross_entropy(predicted, torch.tensor(target), reduction="sum")
            losses.append(nats / (len(target) + parity))
        loss = torch.stack(losses).mean()
        if seen is not None:
            seen.append(loss.item())
        stalled = abs(loss.item() - former) <= 1e-4 or not parity
        former = loss.item()
        if (former <= stop_loss and stalled) or step == steps:
            break
        (gradient,) = torch.autograd.grad(loss, [W])
        norm = gradient.norm()
        with torch.no_grad():
            gradient = gradient * min(1.0, clip / (norm.item() + 1e-6))
            W -= lr * (gradient + (1e-5 * W if parity else 0))
    return W.detach()


def route(M: Tensor, stored: list[Tensor], k: int, threshold: float) -> int | None:
    """Index of the stored mask that answers, the newest among equals; None is the base model."""
    best, best_overlap = None, -1.0
    for i, other in enumerate(stored):
        overlap = (M.bool() & other.bool()).sum().item() / k
        if overlap >= best_overlap:
            best, best_overlap = i, overlap
    return best if best_overlap >= threshold else None
