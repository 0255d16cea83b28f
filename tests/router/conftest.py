"""A router that reads words, quick and exact, and a sentence encoder with random weights."""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from memoir_edge.router.codes import codes
from memoir_edge.tophash import Bytes


class WordRouter:
    """Texts that share telling words have codes that overlap."""

    kind = "words"
    bits, weight = 1024, 512
    digest = "words"

    def codes(self, texts: Sequence[str]) -> Bytes:
        rows = [sum((_vector(w) for w in _words(text)), np.zeros(64)) for text in texts]
        return codes(np.array(rows, np.float32).reshape(len(texts), 64), self.bits)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


COMMON = {
    "the", "a", "of", "is", "in", "was", "to", "does", "do", "what", "which", "where", "who",
    "something", "city", "called",
}  # fmt: skip


def _vector(word: str) -> np.ndarray:
    weight = 0.2 if word in COMMON else 1.0
    return weight * np.random.default_rng(zlib.crc32(word.encode())).normal(size=64)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOIR_EDGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def words() -> WordRouter:
    return WordRouter()


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer with random weights, as sentence-transformers saves it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    letters = [f"{mark}{chr(c)}" for c in range(97, 123) for mark in ("", "##")]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *"?.'0123456789"]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    bert = Transformer(str(folder / "bert"), max_seq_length=32)
    modules = [bert, Pooling(32), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "saved"))
    return folder / "saved"
