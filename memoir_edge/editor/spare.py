"""Training an edit without disturbing the others: what they read, and a gradient that avoids it.

Where the masks of two edits share columns, training the later one also changes the earlier one's
answer. Let x be what an edit reads: the site's input under its mask, at a position where a target
token is predicted. Instead of the gradient a step follows

    (I + s C / c)^-1 gradient,   C = sum of x x^T over the other edits,   c = mean of |x|^2

which moves little along directions that the others read much. This is the ridge form of projecting
the gradient onto their null space, as AlphaEdit (arXiv 2410.02355) does for the knowledge that is
to stay. docs/editor.md has the measurement.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Reads:
    """What the edits in a memory read."""

    C: Tensor  # [D, D], the sum of x x^T
    count: int = 0  # of x

    def add(self, x: Tensor, columns: Tensor) -> None:
        """Add what one edit reads: x `[n, k]`, in the columns `[k]` of its mask."""
        self.C[columns[:, None], columns] += x.T @ x
        self.count += len(x)

    def avoided(self, columns: Tensor, own: Tensor | None, strength: float) -> Tensor | None:
        """The matrix `[k, k]` to multiply a gradient by; None where there is nothing to avoid.

        Args:
            columns: `[k]` columns of the edit to be trained.
            own: What that edit itself reads, if it has been added.
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
