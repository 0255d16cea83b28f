"""TopHash masks and routing in numpy: the oracle that every fast path is tested against.

Knows nothing of models, text or files: activations and masks go in, masks and routes come out.
Paper: MEMOIR (arXiv 2506.07899), section 3.2 (masks) and 3.3 (routing).

    f      = mean of a over the tokens where span is 1          feature()
    f      = (f - center) * scale                               mask()
    M      = ones at permutation[top-k of |f|]                  mask()
    R_i    = number of ones in M & bank_i, divided by k         overlap()
    route  = owner of the best key if R reaches its threshold   route()
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Routes that are no edit's.
UNDECIDED = 0
BASE = -1
GUARD = -1  # the owner of a key that says "base model"
_PAIRS = 1 << 18  # of masks that are compared at a time


def _every_token(attention: Ints) -> Ints:
    return attention


def _last_token(attention: Ints) -> Ints:
    # Position of the last 1 of each row, whichever side the padding is on.
    rows, last = np.arange(len(attention)), -1 - np.argmax(attention[:, ::-1], axis=1)
    marked = np.zeros_like(attention)
    marked[rows, last] = attention[rows, last]
    return marked


def _last_two(attention: Ints) -> Ints:
    after = attention[:, ::-1].cumsum(axis=1)[:, ::-1]  # real tokens from here to the end
    marked: Ints = attention * (after <= 2)
    return marked


def _later_half(attention: Ints) -> Ints:
    after = attention[:, ::-1].cumsum(axis=1)[:, ::-1]
    marked: Ints = attention * (2 * after <= attention.sum(axis=1, keepdims=True) + 1)
    return marked


# A routing feature is the mean of the site's input over a span of tokens; its name picks the span.
FEATURES: dict[str, Callable[[Ints], Ints]] = {
    "mean": _every_token,
    "last": _last_token,
    "last-two": _last_two,
    "later-half": _later_half,
    "mean-scaled": _every_token,
    "last-scaled": _last_token,
}
# These are divided by their standard deviation over unrelated prompts, by the memory's `scale`.
SCALED = frozenset({"mean-scaled", "last-scaled"})


def span(feature: str, attention: npt.NDArray[np.integer]) -> Ints:
    """The tokens that count for routing.

    Args:
        feature: A key of `FEATURES`.
        attention: `[B, T]`, 1 on the prompt's tokens, 0 on padding.

    Returns:
        `[B, T]` int64, a subset of `attention`.
    """
    return FEATURES[feature](attention.astype(np.int64))


def feature(a: npt.NDArray[np.floating], span: npt.NDArray[np.integer]) -> Floats:
    """Mean of the site's input over the span, in float32.

    Args:
        a: `[B, T, D]` inputs of the edited layer.
        span: `[B, T]`, 1 where a token counts.

    Returns:
        `[B, D]` float32; zeros for a row whose span is empty.
    """
    counts = span[:, :, None] > 0
    # where, not a product: whatever stands on padding, even NaN, must not reach the feature
    total = np.where(counts, a.astype(np.float32), np.float32(0)).sum(axis=1)
    return np.asarray(total / np.maximum(counts.sum(axis=1), 1), dtype=np.float32)


def scale(f: Floats) -> Floats:
    """1 over each feature's standard deviation, so that all weigh alike in a mask.

    Args:
        f: `[n, D]` features of unrelated prompts.

    Returns:
        `[D]`. A deviation below a twentieth of their mean counts as that much, so that a feature
        that hardly varies is not magnified without bound.
    """
    deviation = f.std(axis=0)
    floor = max(0.05 * float(deviation.mean()), 1e-6)
    return np.asarray(1 / np.maximum(deviation, floor), dtype=np.float32)


def mask(
    f: Floats, center: Floats, scale: Floats, permutation: npt.NDArray[np.integer], k: int
) -> Bits:
    """TopHash: ones at the permuted places of the k largest centred features.

    Of equal magnitudes the one with the lower index counts as larger, as in ONNX TopK.

    Args:
        f: `[B, D]` routing features.
        center: `[D]` subtracted first.
        scale: `[D]` multiplied then; ones in the paper's method.
        permutation: `[D]`, a permutation of `0..D-1`.
        k: Number of ones.

    Returns:
        `[B, D]` bool with exactly k ones in each row.

    >>> f = np.array([[1, -5, 2, 3]], np.float32)
    >>> mask(f, np.zeros(4, np.float32), np.ones(4, np.float32), np.arange(4), k=2).tolist()
    [[False, True, False, True]]
    """
    magnitude = np.abs((f.astype(np.float32) - center) * scale)
    top = np.argsort(-magnitude, axis=-1, kind="stable")[..., :k]
    bits = np.zeros(f.shape, dtype=np.bool_)
    np.put_along_axis(bits, permutation[top].astype(np.int64), True, axis=-1)
    return bits


def pack(bits: Bits) -> Bytes:
    """`[..., D]` bool to `[..., ceil(D/8)]` uint8, bit order little, padding bits 0."""
    return np.packbits(bits, axis=-1, bitorder="little")


def unpack(packed: Bytes, D: int) -> Bits:
    """`[..., ceil(D/8)]` uint8 to `[..., D]` bool."""
    return np.unpackbits(packed, axis=-1, count=D, bitorder="little").astype(np.bool_)


def overlap(query: Bytes, bank: Bytes, k: int) -> Floats:
    """Share of the query's ones that each stored mask has too.

    Args:
        query: `[B, ceil(D/8)]` packed masks.
        bank: `[R, ceil(D/8)]` packed masks.
        k: Number of ones in a mask.

    Returns:
        `[B, R]` float32 in `[0, 1]`.

    >>> stored = pack(np.array([[1, 1, 0, 0], [0, 1, 1, 0]], np.bool_))
    >>> overlap(stored[:1], stored, k=2).tolist()
    [[1.0, 0.5]]
    """
    asked, stored = _words(query), np.ascontiguousarray(_words(bank).T)
    common = np.zeros((len(query), len(bank)), np.uint32)
    step = max(_PAIRS // max(len(bank), 1), 1)
    for start in range(0, len(query), step):  # a part whose words stay in the processor's cache
        part = slice(start, start + step)
        for i, word in enumerate(stored):
            common[part] += np.bitwise_count(asked[part, i, None] & word)
    return np.asarray(common.astype(np.float32) / np.float32(k), dtype=np.float32)


def _words(packed: Bytes) -> npt.NDArray[np.uint64]:
    """`[n, bytes]` as 64-bit words `[n, ceil(bytes/8)]`, zeros behind."""
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)


class Routes(NamedTuple):
    """What routing decided, one entry a row: all `[B]`."""

    route: Ints  # -1: the base model; i + 1: the edit whose primary key is bank row i
    overlap: Floats  # with the best key, also when below its threshold; 0 where the route was given
    candidate: Ints  # bank row of the best key; -1 where the route was given


def route(
    query: Bytes,
    given: Ints,
    bank: Bytes,
    owner: npt.NDArray[np.integer],
    thresholds: Floats,
    k: int,
) -> Routes:
    """Decide each row that is undecided; keep the others as given.

    The key with the largest overlap wins, the newest among equals. If the overlap reaches that
    key's threshold, the key's owner answers; a guard has none, so the base model does.

    Args:
        query: `[B, ceil(D/8)]` packed masks of the rows.
        given: `[B]` or `[1]`; 0 asks for a decision, any other route is kept.
        bank: `[R, ceil(D/8)]`, R at least 1.
        owner: `[R]` bank row of the key's edit, -1 for a guard.
        thresholds: `[R]` or `[1]`.
        k: Number of ones in a mask.
    """
    R = overlap(query, bank, k)
    candidate = bank.shape[0] - 1 - np.argmax(R[:, ::-1], axis=1)  # newest among equals
    best = R[np.arange(len(R)), candidate]
    threshold = np.broadcast_to(thresholds.astype(np.float32), owner.shape)[candidate]
    owning = owner[candidate].astype(np.int64)
    decided = np.where((best >= threshold) & (owning >= 0), owning + 1, BASE)
    given = np.broadcast_to(given, candidate.shape)
    held = given != UNDECIDED
    return Routes(
        np.where(held, given, decided),
        np.where(held, np.float32(0), best),
        np.where(held, -1, candidate),
    )
