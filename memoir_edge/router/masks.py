"""Masks of edits that codes route: which columns an edit may change.

Where a prompt's mask is also its key, masks of prompts that are alike must be alike, and edits of
like prompts share most of their columns and wear each other down. Codes leave masks free: these are
drawn by lot, so two of them share about k^2 / D ones, however near their prompts are
(docs/editor.md has the measurement).
"""

import hashlib

import numpy as np

from memoir_edge import tophash
from memoir_edge.tophash import Bytes


def drawn(prompt: str, D: int, k: int) -> Bytes:
    """The mask of a prompt, packed `[ceil(D/8)]`, with k ones; always the same.

    >>> int(np.bitwise_count(drawn("The capital of France is", D=100, k=30)).sum())
    30
    """
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest(), "little")
    bits = np.zeros(D, np.bool_)
    bits[np.random.default_rng(seed).permutation(D)[:k]] = True
    return tophash.pack(bits)
