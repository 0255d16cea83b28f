"""The router of kind `encoder`: what a prompt asks for, read by a sentence encoder.

    encoder = Encoder("sentence-transformers/all-MiniLM-L6-v2")
    keys = encoder.codes(["The capital of France is", "What is France's capital?"])
    tophash.overlap(keys[:1], keys[1:], encoder.weight)

Needs sentence-transformers (extra `router`), imported when an encoder is made. Everything that it
computes a graph can compute: pooling and normalizing are the encoder's own, then comes the
projection of `memoir_edge.router.codes`.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from memoir_edge.base import check_tokenizer, locate, weights_digest
from memoir_edge.errors import InputError, first_line
from memoir_edge.identity import weight_files
from memoir_edge.router import adapter as adapters
from memoir_edge.router.codes import BITS, FORMULA, SEED, codes
from memoir_edge.spelling import Spelling
from memoir_edge.tophash import Bytes, Floats

REMEMBERED = 1 << 16  # texts, about 20 MB with their codes
_BATCH = 64
_TOKENIZED = 512  # texts at a time


class Router(Protocol):
    """Texts in, codes out."""

    kind: str
    bits: int  # of a code, P
    weight: int  # ones of a code

    @property
    def digest(self) -> str:
        """What memories are bound to: the same wherever the codes are."""
        ...

    def codes(self, texts: Sequence[str]) -> Bytes:
        """Packed codes, `[n, ceil(bits / 8)]`."""
        ...

    def reads_all(self, text: str) -> bool:
        """Whether a code is made of the whole text, not of its last part alone."""
        ...

    def respelling(self, texts: Iterable[str]) -> Callable[[str], str]:
        """What puts typos right: by the router's words, and those of texts that may be asked."""
        ...


class Encoder:
    """A sentence encoder with its adapter and projection.

    Args:
        model: Folder or hub id of what sentence-transformers loads.
        adapter: A low-rank change of it; default: the one shipped for this encoder, if any. ""
            leaves the encoder as it is.
        bits: Of a code.

    Raises:
        InputError: No such encoder, or sentence-transformers is missing.
        MismatchError: An adapter of another encoder.
    """

    kind = "encoder"

    def __init__(self, model: str, *, adapter: str | Path | None = None, bits: int = BITS) -> None:
        self.folder = locate(model)
        self.bits, self.weight = bits, bits // 2
        self.module = _load(self.folder)
        self._known: dict[str, bytes] = {}  # codes by text
        # A memory may lie in the folder, too.
        self.weights = str(weights_digest(self.folder, weight_files(self.folder) or None))
        path = adapters.shipped().get(self.weights) if adapter is None else adapter
        change = adapters.read(Path(path)) if path else None
        self._change = change.digest if change else ""
        if change:
            adapters.merge(change, self.module[0].auto_model, self.weights)

    def respelling(self, texts: Iterable[str]) -> Spelling:
        """What puts typos right: by the tokenizer's words, and those of texts that may be asked."""
        return self._spelling.knowing(texts)

    @functools.cached_property
    def _spelling(self) -> Spelling:
        return Spelling(self.module.tokenizer.get_vocab())

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over all that codes follow from: weights, adapter, tokenizer, pooling, bits."""
        files = ("tokenizer.json", "vocab.txt", "modules.json", "1_Pooling/config.json")
        parts = [self.weights, self._change]
        parts += [_sha256(self.folder / name) for name in files]
        parts += [str(self.tokens), str(self.bits), str(SEED), FORMULA]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """Most tokens that it reads; of a longer text it reads the last."""
        return int(self.module.max_seq_length)

    def reads_all(self, text: str) -> bool:
        """Whether a code is made of the whole text, not of its last part alone."""
        return len(self.module.tokenizer(text)["input_ids"]) <= self.tokens

    def embeddings(self, texts: Sequence[str]) -> Floats:
        """`[n, w]` float32, as the encoder gives them.

        Each text is read once, together with others of as many tokens: padding costs as much.
        """
        unique = list(dict.fromkeys(texts))
        order = sorted(unique, key=self._lengths(unique).__getitem__)
        parts = [
            self.module.encode(order[i : i + _BATCH], batch_size=_BATCH, show_progress_bar=False)
            for i in range(0, len(order), _BATCH)
        ]
        place = {text: i for i, text in enumerate(order)}
        return np.concatenate(parts).astype(np.float32)[[place[text] for text in texts]]

    def _lengths(self, texts: Sequence[str]) -> dict[str, int]:
        """Tokens of each text; a part at a time, since what a tokenizer says of one takes 5 kB."""
        found: dict[str, int] = {}
        for i in range(0, len(texts), _TOKENIZED):
            part = texts[i : i + _TOKENIZED]
            read = self.module.tokenizer(part, truncation=True, max_length=self.tokens)
            found |= zip(part, map(len, read["input_ids"]), strict=True)
        return found

    def codes(self, texts: Sequence[str]) -> Bytes:
        """Packed codes, `[n, bits / 8]`; a text that was read lately is not read again."""
        known = {text: self._known[text] for text in texts if text in self._known}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            read = codes(self.embeddings(new), self.bits)
            known |= zip(new, map(bytes, read), strict=True)
            if len(self._known) + len(new) > REMEMBERED:
                self._known.clear()
            self._known |= {text: known[text] for text in new[:REMEMBERED]}
        packed = b"".join(known[text] for text in texts)
        return np.frombuffer(packed, np.uint8).reshape(-1, self.bits // 8)


def _load(folder: Path) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            "reading what is asked needs sentence-transformers",
            hint='pip install "memoir-edge[router]"',
        ) from error
    check_tokenizer(folder, "give a folder that sentence-transformers saved")
    try:
        module = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except Exception as error:  # a spoiled file raises whatever its reader does
        raise InputError(
            f"cannot load a sentence encoder from {folder}: {first_line(error)}",
            hint="is a file spoiled or missing? give a folder that sentence-transformers saved",
        ) from error
    module.tokenizer.truncation_side = "left"  # what is asked stands at the end
    module.eval().requires_grad_(False)
    return module


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
