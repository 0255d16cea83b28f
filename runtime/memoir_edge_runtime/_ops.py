"""The native kernels of Route and Recall, where this package was built with them.

Where it was not, the function bodies in every exported graph serve instead; they give the same
answers, more slowly. A bank of some megabytes is searched by an index, which is made here when the
bank is placed on the device; runtime/ops/prefix.h says how. Knows nothing of graphs, or of what a
bank is for.
"""

import ctypes
import weakref
from functools import cache
from pathlib import Path

from memoir_edge.errors import MemoirEdgeError
from memoir_edge_runtime._provider import OrtValue

SMALL = 8 * 2**20  # bytes of a bank up to which a scan is as fast
LARGE = 64 * 2**20  # bytes of a bank from which on not all features are indexed
PREFIX = 4096  # features that are indexed then: so many, or three quarters


@cache
def library(device: str) -> Path | None:
    """The library, if it was built for "cpu" or "cuda" and this system can load it."""
    for path in (Path(__file__).with_name("libmemoir_edge_ops" + e) for e in (".so", ".dylib")):
        loaded = _load(path) if path.is_file() else None
        if loaded is not None and (device == "cpu" or loaded.memoir_edge_has_cuda()):
            return path
    return None


@cache
def _load(path: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # built for another system
        return None


@cache
def _functions() -> ctypes.CDLL:
    path = library("cpu")
    loaded = None if path is None else _load(path)
    if loaded is None:
        raise MemoirEdgeError("the native ops were not built", hint="python runtime/hatch_build.py")
    loaded.memoir_edge_kernels.restype = ctypes.c_char_p
    loaded.memoir_edge_kernels.argtypes = [ctypes.c_char_p]
    loaded.memoir_edge_index.argtypes = [
        ctypes.c_void_p, *[ctypes.c_uint64] * 3, ctypes.c_void_p, ctypes.c_uint64,
    ]  # fmt: skip
    loaded.memoir_edge_forget.argtypes = [ctypes.c_void_p]
    loaded.memoir_edge_forget.restype = None
    return loaded


def kernels(wanted: str | None = None) -> str | None:
    """Name of the instruction set that the kernels use.

    Args:
        wanted: Use this one from now on, in this process: "baseline", "avx2", "avx512".

    Returns:
        None where this machine lacks the wanted one.

    Raises:
        MemoirEdgeError: The native ops were not built.
    """
    found = _functions().memoir_edge_kernels(None if wanted is None else wanted.encode())
    return None if found is None else str(found, "ascii")


def index(bank: OrtValue, thresholds: OrtValue, features: int | None = None) -> bool:
    """Search a bank on the CPU by an index from now on, for as long as the values live.

    Up to `LARGE` bytes the index is a second copy of the bank, and finds what a scan finds. For a
    larger bank it holds only the first features of each key. It then misses a key that would answer
    with a probability below 1e-9; where no key would answer, it may report another near key than
    the nearest.

    Args:
        bank: `[R, W]` uint8; from now on it must not be moved or changed.
        thresholds: `[R]` or `[1]` float32, those that are fed with it; nor must they.
        features: Number of features in the index, if not as above. They take `features * R / 8`
            bytes.

    Returns:
        False if the bank is so small that a scan is as fast, or if there was no room for the index;
        the bank is then scanned.

    Raises:
        MemoirEdgeError: The native ops were not built.
    """
    R, W = bank.shape()
    if features is None:
        if R * W < SMALL:
            return False
        features = 8 * W if R * W < LARGE else min(PREFIX, 6 * W)
    where, [T] = bank.data_ptr(), thresholds.shape()
    if _functions().memoir_edge_index(where, R, W, features, thresholds.data_ptr(), T):
        return False
    for held in (bank, thresholds):  # before its memory is given back and another may lie there
        weakref.finalize(held, _functions().memoir_edge_forget, where)
    return True
