"""Codes are masks of fixed weight whose overlap tells the angle."""

import numpy as np

from memoir_edge import tophash
from memoir_edge.router.codes import BITS, codes, feature, projection


def embeddings(n: int, width: int = 48) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, width)).astype(np.float32)


def test_a_code_has_half_its_bits_and_never_both_signs_of_one() -> None:
    bits = tophash.unpack(codes(embeddings(9)), BITS)
    assert bits.sum(axis=1).tolist() == [BITS // 2] * 9
    assert np.array_equal(bits[:, : BITS // 2], ~bits[:, BITS // 2 :])


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
    W = projection(600, 1024)
    assert W.shape == (600, 512)
    assert np.allclose(W.T @ W, np.eye(512), atol=1e-5)
    assert projection(48).shape == (48, 512)
    # pinned: memories hold codes of it
    assert np.allclose(projection(4, 8)[0], PINNED, atol=1e-6)


def test_of_each_projection_one_sign_is_positive() -> None:
    f = feature(embeddings(3), projection(48, 16))
    assert f.shape == (3, 16)
    assert ((f > 0).sum(axis=1) == 8).all()


PINNED = [0.0504792, -0.1246807, 0.4455723, -0.885083]
