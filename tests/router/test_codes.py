"""Codes are masks of fixed weight whose overlap tells the angle."""

import numpy as np

from memoir_edge import tophash
from memoir_edge.router.codes import BITS, codes, feature, projection


def embeddings(n: int, width: int = 48) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, width)).astype(np.float32)


def test_a_code_holds_the_larger_half_of_the_projections() -> None:
    e = embeddings(9)
    bits = tophash.unpack(codes(e), BITS)
    assert bits.sum(axis=1).tolist() == [BITS // 2] * 9
    z = e @ projection(e.shape[1])
    for row, held in zip(z, bits, strict=True):
        assert row[held].min() >= row[~held].max()


def test_overlap_is_one_minus_the_angle_over_pi() -> None:
    e = embeddings(200)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    made = codes(e)
    found = tophash.overlap(made, made, BITS // 2)
    expected = 1 - np.arccos(np.clip(e @ e.T, -1, 1)) / np.pi
    assert np.abs(found - expected).max() < 0.1
    assert np.abs(found - expected).mean() < 0.02


def test_length_does_not_matter_and_a_batch_changes_nothing() -> None:
    e = embeddings(5)
    made = codes(e)
    assert np.array_equal(codes(3 * e), made)
    assert np.array_equal(np.concatenate([codes(e[:2]), codes(e[2:])]), made)


def test_the_projection_is_orthogonal_and_always_the_same() -> None:
    W = projection(600, 512)
    assert W.shape == (600, 512)
    assert np.allclose(W.T @ W, np.eye(512), atol=1e-5)
    assert projection(48).shape == (48, BITS)
    # pinned: memories hold codes of it
    assert np.allclose(projection(4, 4)[0], PINNED, atol=1e-6)


def test_features_are_positive_for_any_length_of_embedding() -> None:
    f = feature(np.concatenate([1000 * embeddings(3), np.zeros((1, 48))]), projection(48, 16))
    assert f.shape == (4, 16)
    assert f.min() >= 0


PINNED = [0.0504792, -0.1246807, 0.4455723, -0.885083]
