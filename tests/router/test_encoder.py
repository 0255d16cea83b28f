"""An encoder with random weights, its adapter, and MiniLM where it can be had."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from memoir_edge import tophash
from memoir_edge.base import weights_digest
from memoir_edge.errors import InputError, MismatchError
from memoir_edge.identity import weight_files
from memoir_edge.router import adapter
from memoir_edge.router import encoder as module
from memoir_edge.router.encoder import Encoder

TEXTS = ["the capital of france is", "what is the capital of spain?", "a"]


@pytest.fixture
def change(encoder_dir: Path, tmp_path: Path) -> Path:
    """A change of one layer."""
    random = np.random.default_rng(0)
    A, B = random.normal(size=(2, 32)), random.normal(size=(48, 2))
    path = tmp_path / "change.safetensors"
    layers = {"encoder.layer.0.intermediate.dense": (A, B)}
    adapter.write(path, layers, str(weights_digest(encoder_dir)))
    return path


def test_codes_do_not_depend_on_batch_mates(encoder_dir: Path) -> None:
    encoder = Encoder(str(encoder_dir))
    together = encoder.codes(TEXTS)
    assert together.shape == (3, encoder.bits // 8)
    apart = np.concatenate([encoder.codes([text]) for text in TEXTS])
    agree = tophash.overlap(together, apart, encoder.weight).diagonal()
    assert agree.min() > 0.99  # a batch adds in another order: a sign at zero may turn
    assert encoder.codes([]).shape == (0, encoder.bits // 8)


def test_each_text_is_read_once_beside_others_of_its_length(
    encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(str(encoder_dir))
    texts = ["a b c", "a", "e", "a", "a c b", "e"]
    alone = np.concatenate([encoder.embeddings([text]) for text in texts])
    run: list[list[str]] = []
    encode = encoder.module.encode
    monkeypatch.setattr(module, "_BATCH", 2)
    monkeypatch.setattr(
        encoder.module, "encode", lambda part, **how: run.append(part) or encode(part, **how)
    )
    assert np.allclose(encoder.embeddings(texts), alone, atol=1e-5)
    assert run == [["a", "e"], ["a b c", "a c b"]]


def test_what_was_read_lately_is_not_read_again(
    encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of so many texts; then all are forgotten."""
    encoder = Encoder(str(encoder_dir))
    read: list[str] = []
    embeddings = encoder.embeddings
    monkeypatch.setattr(
        encoder, "embeddings", lambda texts: read.extend(texts) or embeddings(texts)
    )
    monkeypatch.setattr(module, "REMEMBERED", 3)
    first = encoder.codes(["a", "b", "a"])
    again = encoder.codes(["b", "c", "a"])
    assert read == ["a", "b", "c"]
    assert (again[[2, 0]] == first[:2]).all()
    assert (first[0] == first[2]).all()
    encoder.codes(["d", "a"])
    assert encoder.codes(["a"]).shape == (1, encoder.bits // 8)
    assert read == ["a", "b", "c", "d", "a"]


def test_of_a_long_text_the_last_part_is_read(encoder_dir: Path) -> None:
    encoder = Encoder(str(encoder_dir))
    assert encoder.tokens == 32
    end = "b " * 30  # as many tokens, and two around them
    long, other, last = encoder.embeddings(["a " * 90 + end, "c " * 50 + end, end])
    assert np.allclose(long, last, atol=1e-5)
    assert np.allclose(other, last, atol=1e-5)
    assert encoder.reads_all(end)
    assert not encoder.reads_all("a " + end)


def test_an_adapter_changes_codes_and_digest(encoder_dir: Path, change: Path) -> None:
    bare, changed = Encoder(str(encoder_dir)), Encoder(str(encoder_dir), adapter=change)
    assert bare.digest != changed.digest
    assert bare.digest == Encoder(str(encoder_dir)).digest
    assert not np.allclose(bare.embeddings(TEXTS), changed.embeddings(TEXTS), atol=1e-3)


def test_an_adapter_adds_its_product_to_the_weight(encoder_dir: Path, change: Path) -> None:
    name = "encoder.layer.0.intermediate.dense"
    A, B = adapter.read(change).layers[name]
    weights = [
        Encoder(str(encoder_dir), adapter=a).module[0].auto_model.get_submodule(name).weight
        for a in ("", change)
    ]
    assert np.allclose((weights[1] - weights[0]).numpy(), B @ A, atol=1e-5)


def test_more_bits_are_another_router(encoder_dir: Path) -> None:
    small, large = Encoder(str(encoder_dir), bits=256), Encoder(str(encoder_dir))
    assert small.codes(TEXTS).shape == (3, 32)
    assert small.digest != large.digest


def test_a_copy_is_the_same_router(encoder_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(encoder_dir, copy)
    assert Encoder(str(copy)).digest == Encoder(str(encoder_dir)).digest
    (copy / "vocab.txt").write_text((copy / "vocab.txt").read_text() + "\nz")
    assert Encoder(str(copy)).digest != Encoder(str(encoder_dir)).digest


@pytest.mark.parametrize("name", ["a.safetensors", "z.safetensors", "a.bin"])
def test_what_lies_beside_the_weights_makes_no_other_router(
    encoder_dir: Path, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(encoder_dir, copy)
    shutil.copy(copy / "model.safetensors", copy / name)
    assert Encoder(str(copy)).digest == Encoder(str(encoder_dir)).digest


@pytest.mark.parametrize(
    "names", [["model.safetensors"], ["pytorch_model.bin"], ["adapter_model.safetensors"]]
)
def test_weights_by_themselves_are_named_as_ever(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"weights")
    found = weights_digest(tmp_path, weight_files(tmp_path) or None)
    assert found == weights_digest(tmp_path)


# --- Bad input -----------------------------------------------------------------------------------


def test_a_folder_without_tokenizer_is_refused(encoder_dir: Path, tmp_path: Path) -> None:
    shutil.copy(encoder_dir / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"holds no tokenizer: tokenizer\.json not found"):
        Encoder(str(tmp_path))


def test_a_folder_that_is_no_encoder_is_refused(encoder_dir: Path, tmp_path: Path) -> None:
    shutil.copy(encoder_dir / "tokenizer.json", tmp_path)
    with pytest.raises(InputError, match="cannot load a sentence encoder from"):
        Encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "left"),
    [("model.safetensors", 5000), ("tokenizer.json", 500), ("modules.json", 20),
     ("1_Pooling/config.json", None), ("1_Pooling/config.json", 3), ("config.json", 20)],
)  # fmt: skip
def test_an_encoder_with_a_spoiled_file_is_refused(
    encoder_dir: Path, tmp_path: Path, name: str, left: int | None
) -> None:
    file = Path(shutil.copytree(encoder_dir, tmp_path / "copy")) / name
    content = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(content[:left])
    with pytest.raises(InputError, match=r"cannot load a sentence encoder from .*copy"):
        Encoder(str(file.parents[name.count("/")]))


def test_an_adapter_of_another_encoder_is_refused(encoder_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    adapter.write(path, {"x": (np.ones((1, 2)), np.ones((2, 1)))}, "0" * 64)
    with pytest.raises(MismatchError, match="the adapter is of encoder 000000000000, this one is"):
        Encoder(str(encoder_dir), adapter=path)


@pytest.mark.parametrize(
    "tensors", [{}, {"x.A": np.ones(1)}, {"x.A": np.ones(1), "x.B": np.ones(1), "y": np.ones(1)}]
)
def test_a_file_that_is_no_adapter_is_refused(
    tmp_path: Path, tensors: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "none.safetensors"
    save_file(tensors, path, metadata={adapter.BASE: "x"})
    with pytest.raises(InputError, match="is no adapter"):
        adapter.read(path)
    path.write_bytes(b"torn")
    with pytest.raises(InputError, match="is no adapter"):
        adapter.read(path)
    with pytest.raises(InputError, match="cannot read"):
        adapter.read(tmp_path / "missing.safetensors")
