"""Codes: what a router compares. Embeddings go in, packed bits of fixed weight come out.

    z    = e W                                  W [w, P/2], fixed by seed
    f    = [max(z, 0), max(-z, 0)]
    code = ones at the P/2 largest of f         TopHash, memoir_edge.tophash

Of z and -z one is positive, so a code has a one for the sign of each projection, and P/2 in all:
codes are masks to the memory format and to the Route op. The overlap of two codes is the share of
signs that agree, 1 - angle/pi in expectation. Knows nothing of texts and encoders.
"""

import functools

import numpy as np
import numpy.typing as npt

from memoir_edge import tophash
from memoir_edge.tophash import Bytes, Floats

BITS = 1024  # P
SEED = 0


@functools.cache
def projection(width: int, bits: int = BITS) -> Floats:
    """W, `[width, bits / 2]`: directions that are orthogonal as far as the width allows.

    Orthogonal directions estimate an angle with less variance than independent ones.
    """
    half = bits // 2
    draw = np.random.default_rng(SEED)
    blocks = [_orthogonal(draw.standard_normal((width, width))) for _ in range(-(-half // width))]
    return np.concatenate(blocks, axis=1)[:, :half].astype(np.float32)


def _orthogonal(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    Q, R = np.linalg.qr(matrix)
    unique: npt.NDArray[np.float64] = Q * np.sign(np.diag(R))  # whatever signs LAPACK took
    return unique


def codes(embeddings: Floats, bits: int = BITS) -> Bytes:
    """Codes of embeddings, `[n, w]` to `[n, bits / 8]`.

    >>> made = codes(np.eye(4, dtype=np.float32), bits=16)
    >>> made.shape, np.bitwise_count(made).sum(axis=1).tolist()
    ((4, 2), [8, 8, 8, 8])
    """
    f = feature(embeddings, projection(embeddings.shape[1], bits))
    half = bits // 2
    zeros, ones = np.zeros(bits, np.float32), np.ones(bits, np.float32)
    return tophash.pack(tophash.mask(f, zeros, ones, np.arange(bits), half))


def feature(embeddings: Floats, projection: Floats) -> Floats:
    """What TopHash reads, `[n, 2 h]`: the positive parts of e W and of -e W, `W [w, h]`."""
    z = embeddings.astype(np.float32) @ projection
    return np.concatenate([np.maximum(z, 0), np.maximum(-z, 0)], axis=1)
