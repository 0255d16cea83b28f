"""A gradient that avoids what other edits read."""

import torch

from memoir_edge.editor.spare import Reads


def test_a_change_avoids_what_others_read() -> None:
    """The direction that others read is damped by 1 / (1 + s), one that nobody reads is left."""
    reads = Reads(torch.zeros(6, 6))
    columns = torch.tensor([0, 2, 4, 5])
    assert reads.avoided(columns, None, 3.0) is None  # nobody is there
    x = torch.tensor([[2.0, 0, 0, 0]])
    reads.add(x, columns)
    P = reads.avoided(columns, None, 3.0)
    assert P is not None
    assert torch.allclose(P, torch.diag(torch.tensor([1 / 4, 1.0, 1.0, 1.0])))
    assert reads.avoided(columns, None, 0.0) is None
    assert reads.avoided(columns, x, 3.0) is None  # only what it reads itself
    other = torch.tensor([1, 2, 3, 5])  # meets the first in columns 2 and 5, which it does not read
    P = reads.avoided(other, None, 3.0)
    assert P is not None
    assert torch.allclose(P, torch.eye(4))
