"""Training an edit without disturbing the others: what they read, and a gradient that avoids it.

Where the columns of two edits meet, a later change also moves what an earlier edit reads. With `x`
what the other edits read (masked activations where a target token is predicted), a step along

    (I + s C / c)^-1 gradient,   C = sum of x x^T,   c = mean of |x|^2

reaches the target by the directions that they read little: the ridge form of projecting a change
away from them (AlphaEdit, arXiv 2410.02355, does so for the knowledge that is to stay).
docs/editor.md has the measurement.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Reads:
    """What the edits in a memory read, as `C` `[D, D]`."""

    C: Tensor
    count: int = 0

    def add(self, x: Tensor, columns: Tensor) -> None:
        """Take in what one edit reads: x `[n, k]`, in its own columns `[k]`."""
        self.C[columns[:, None], columns] += x.T @ x
        self.count += len(x)

    def avoided(self, columns: Tensor, own: Tensor | None, strength: float) -> Tensor | None:
        """The matrix `[k, k]` to multiply a gradient with; None where there is nothing to avoid.

        Args:
            columns: `[k]` columns of the edit to be trained.
            own: What that edit itself reads, if it is among those taken in.
            strength: `s` above.
        """
        others = self.count - (0 if own is None else len(own))
        if not strength or not others:
            return None
        C = self.C[columns[:, None], columns]
        if own is not None:
            C = C - own.T @ own
        mean = self.C.diagonal().sum() / self.count
        identity = torch.eye(len(columns), device=C.device)
        avoided: Tensor = torch.linalg.inv(identity + strength / mean * C)
        return avoided
