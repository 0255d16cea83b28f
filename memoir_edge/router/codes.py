"""Codes: what a router compares. Embeddings go in, packed bits of fixed weight come out.

    f    = 1 + e W / |e|                        W [w, P], fixed by seed, columns of length 1
    code = ones at the P/2 largest of f         TopHash, memoir_edge.tophash

f is positive, so TopHash takes the larger half of the projections: nearly their signs, but P/2 ones
in every code, so that codes are masks to the memory format and to the Route op (center -1, scale
1). The overlap of two codes is about 1 - angle/pi. Knows nothing of texts and encoders.
"""

import functools

import numpy as np
import numpy.typing as npt

from memoir_edge import tophash
from memoir_edge.tophash import Bytes, Floats

BITS = 1024  # P
SEED = 0
_ROWS = 256  # that are hashed at a time: 40 kB each
FORMULA = "larger half"  # part of a router's digest; another formula must have another name


@functools.cache
def projection(width: int, bits: int = BITS) -> Floats:
    """W, `[width, bits]`: directions that are orthogonal as far as the width allows.

    Orthogonal directions estimate an angle with less variance than independent ones.
    """
    draw = np.random.default_rng(SEED)
    blocks = [_orthogonal(draw.standard_normal((width, width))) for _ in range(-(-bits // width))]
    return np.concatenate(blocks, axis=1)[:, :bits].astype(np.float32)


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
    W = projection(embeddings.shape[1], bits)
    zeros, ones = np.zeros(bits, np.float32), np.ones(bits, np.float32)
    made = np.zeros((len(embeddings), -(-bits // 8)), np.uint8)
    for start in range(0, len(embeddings), _ROWS):
        part = slice(start, start + _ROWS)
        f = feature(embeddings[part], W)
        made[part] = tophash.pack(tophash.mask(f, zeros, ones, np.arange(bits), bits // 2))
    return made


def feature(embeddings: Floats, projection: Floats) -> Floats:
    """What TopHash reads, `[n, P]`, positive."""
    e = embeddings.astype(np.float32)
    length = np.linalg.norm(e, axis=1, keepdims=True)
    return np.asarray(1 + e @ projection / np.maximum(length, 1e-12), np.float32)
