"""Masks that are drawn by lot: k ones, the same each time, and no more alike than chance has it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoir_edge import tophash
from memoir_edge.router.masks import drawn


@given(prompt=st.text(), D=st.integers(1, 300), data=st.data())
def test_a_mask_has_k_ones_within_d(prompt: str, D: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, D))
    mask = drawn(prompt, D, k)
    assert mask.shape == (-(-D // 8),)
    assert tophash.unpack(mask, D).sum() == np.bitwise_count(mask).sum() == k


def test_it_is_the_same_everywhere_and_for_ever() -> None:
    """A repeated edit of a prompt takes the former's place by its mask."""
    assert drawn("The capital of France is", 24, 6).tolist() == [2, 11, 132]


def test_like_prompts_share_what_chance_has_them_share() -> None:
    D, k = 1536, 192
    masks = np.stack([drawn(f"The capital of country {i} is", D, k) for i in range(60)])
    shared = tophash.overlap(masks, masks, k)[~np.eye(60, dtype=bool)]
    assert shared.mean() == pytest.approx(k / D, rel=0.05)
    assert shared.max() < 0.25
