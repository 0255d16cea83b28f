"""Rows of tokens woven into one sequence, in which what rows begin with alike stands once.

A token attends to those before it in its own rows alone, so that it is read as in each of them by
itself. An edit's rows are much alike: forms of one prompt, chats behind one system message.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from memoir_edge.editor.model import BaseModel


class Woven(NamedTuple):
    """Rows as one sequence of `T` tokens."""

    ids: list[int]  # [T]
    before: list[int]  # [T] place of the token before each in its rows; -1: none
    places: list[list[int]]  # of each row's tokens

    def batch(self, base: BaseModel) -> dict[str, Tensor]:
        """What a model reads: `input_ids`, `position_ids [1, T]`, `attention_mask [1, 1, T, T]`."""
        T = len(self.ids)
        sees = torch.zeros(T, T, dtype=torch.bool)
        for i, before in enumerate(self.before):
            if before >= 0:
                sees[i] = sees[before]
            sees[i, i] = True
        weights: Tensor = next(base.net.parameters())
        hidden = torch.zeros(T, T, dtype=weights.dtype)
        hidden.masked_fill_(~sees, torch.finfo(weights.dtype).min)
        batch = {
            "input_ids": torch.tensor([self.ids]),
            "position_ids": sees.sum(1)[None] - 1,
            "attention_mask": hidden[None, None],
        }
        return {name: tensor.to(base.device) for name, tensor in batch.items()}


def weave(rows: Sequence[Sequence[int]]) -> Woven:
    """Rows of token ids as one sequence, in their order.

    >>> weave([[5, 6, 7], [5, 6, 8], [6]])
    Woven(ids=[5, 6, 7, 8, 6], before=[-1, 0, 1, 1, -1], places=[[0, 1, 2], [0, 1, 3], [4]])
    """
    known: dict[tuple[int, int], int] = {}  # place of a token behind a place
    woven = Woven([], [], [])
    for row in rows:
        at, places = -1, []
        for token in row:
            step = at, token
            if step not in known:
                known[step] = len(woven.ids)
                woven.ids.append(token)
                woven.before.append(at)
            at = known[step]
            places.append(at)
        woven.places.append(places)
    return woven
