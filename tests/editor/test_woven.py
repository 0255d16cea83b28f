"""Rows as one sequence: what a token sees is its own row before it."""

import torch

from memoir_edge.editor import BaseModel
from memoir_edge.editor.woven import weave

ROWS = [[5, 6, 7], [5, 6, 8, 9], [6, 7], [5, 6]]


def test_what_rows_begin_with_alike_stands_once() -> None:
    woven = weave(ROWS)
    assert len(woven.ids) == 7
    assert [[woven.ids[place] for place in row] for row in woven.places] == ROWS


def test_a_token_sees_its_own_row_before_it(tiny: BaseModel) -> None:
    woven = weave(ROWS)
    batch = woven.batch(tiny)
    sees = batch["attention_mask"][0, 0] == 0
    for row in woven.places:
        for i, place in enumerate(row):
            assert sees[place].nonzero().flatten().tolist() == row[: i + 1]
            assert batch["position_ids"][0, place] == i


@torch.no_grad()
def test_the_model_says_what_it_says_of_each_row_alone(tiny: BaseModel) -> None:
    woven = weave(ROWS)
    found = tiny.net(**woven.batch(tiny)).logits[0]
    for row, places in zip(ROWS, woven.places, strict=True):
        assert torch.allclose(found[places], tiny.net(torch.tensor([row])).logits[0], atol=1e-5)
