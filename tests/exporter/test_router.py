"""The exported router against the offline one: the same codes, and the same routes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from memoir_edge import sidecar, tophash
from memoir_edge.errors import InputError
from memoir_edge.memory import Codes
from memoir_edge.memory import Router as Bound
from memoir_edge.router.codes import BITS, feature, projection
from memoir_edge.router.encoder import Encoder
from memoir_edge_exporter import Exported, export, export_router
from memoir_edge_exporter._router import KEYS, route_graph
from memoir_edge_runtime import Router

FAMILIES = ["bert", "distilbert", "roberta", "xlm-roberta", "mpnet"]
TEXTS = [
    f"{form} {name}{mark}"
    for form in ("the capital of", "what is the currency of", "who leads", "Is it about")
    for name in ("France", "Japan", "Acme Inc", "Zoë & Söhne")
    for mark in ("", "?")
]
LONG = "what is the capital of japan " * 8 + "and the currency of france?"


def codes(found: np.ndarray) -> tophash.Bytes:
    P = found.shape[1]
    zeros, ones = np.zeros(P, np.float32), np.ones(P, np.float32)
    return tophash.pack(tophash.mask(found, zeros, ones, np.arange(P), P // 2))


def features(router: Router, texts: list[str]) -> np.ndarray:
    return np.stack([each.f for each in router.read(texts)])


def shared(found: tophash.Bytes, wanted: tophash.Bytes) -> np.ndarray:
    """Share of bits that are the same, a row."""
    return 1 - np.bitwise_count(found ^ wanted).sum(axis=1) / (8 * found.shape[1])


@pytest.fixture(scope="module", params=FAMILIES)
def folder(
    request: pytest.FixtureRequest,
    save_encoder: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"), request.param)


def test_in_float32_the_graph_is_the_offline_formula(folder: Path, tmp_path: Path) -> None:
    export_router(str(folder), tmp_path, precision="fp32")
    found = features(Router(tmp_path / "router", threads=1), [*TEXTS, LONG])
    encoder = Encoder(str(folder))
    embeddings = encoder.embeddings([*TEXTS, LONG])
    wanted = feature(embeddings, projection(embeddings.shape[1], encoder.bits))
    error = np.abs(found - wanted).max()
    differs = tophash.unpack(codes(found) ^ encoder.codes([*TEXTS, LONG]), BITS)
    z = np.maximum(wanted[:, :512], wanted[:, 512:])
    print(f"error {error:.1e}, bits that differ {differs.sum()}")
    assert error < 1e-5
    assert (z[differs[:, :512]] <= error).all()  # where a projection is zero but for rounding


def test_in_int8_nearly_all_bits_are_the_same(folder: Path, tmp_path: Path) -> None:
    export_router(str(folder), tmp_path)
    router = Router(tmp_path / "router", threads=1)
    same = shared(codes(features(router, TEXTS)), Encoder(str(folder)).codes(TEXTS))
    print(f"bits the same: {same.mean():.4f} on average, {same.min():.4f} at least")
    assert same.mean() > 0.95
    alone = Router(tmp_path / "router", threads=1)
    for text, together in zip(TEXTS, router.read(TEXTS), strict=True):
        [by_itself] = alone.read([text])
        np.testing.assert_allclose(by_itself.f, together.f, atol=1e-6)  # but for rounding


def test_a_real_encoders_graph_agrees_with_it(
    real_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = str(real_model("minilm"))
    export_router(folder, tmp_path)
    router = Router(tmp_path / "router", threads=1)
    same = shared(codes(features(router, [*TEXTS, LONG])), Encoder(folder).codes([*TEXTS, LONG]))
    print(f"bits the same: {same.mean():.4f} on average, {same.min():.4f} at least")
    assert same.mean() >= 0.97
    assert same.min() >= 0.95


def test_what_cannot_be_read_is_cut_at_the_left(encoder_dir: Path, tmp_path: Path) -> None:
    made = export_router(str(encoder_dir), tmp_path, precision="fp32")
    long, last = Router(tmp_path / "router").read([LONG, "and the currency of france?"])
    assert (made.max_tokens, long.cut, last.cut) == (24, True, False)
    tail = "japan " * 30 + "and the currency of france?"
    [other] = Router(tmp_path / "router").read(["what is the capital? " * 9 + tail])
    [same] = Router(tmp_path / "router").read([tail])
    assert (other.cut, same.cut) == (True, True)
    np.testing.assert_array_equal(other.f, same.f)


@pytest.mark.parametrize("native", [True, False])
def test_routes_of_codes_are_the_oracles(encoder_dir: Path, tmp_path: Path, native: bool) -> None:
    made = export_router(str(encoder_dir), tmp_path, precision="fp32")
    router = Router(tmp_path / "router", threads=1, native=native)
    random = np.random.default_rng(0)
    keys = codes(random.normal(size=(500, made.bits)).astype(np.float32))
    keys[::50] = codes(features(router, TEXTS[::4]))[:8].repeat(2, axis=0)[:10]
    owner = np.where(np.arange(500) % 7, np.arange(500), -1).astype(np.int32)
    thresholds = random.uniform(0.4, 0.9, 500).astype(np.float32)
    bound = Bound(made.kind, made.digest, made.bits, made.weight)
    placed = router.place(Codes(router=bound, keys=keys, owner=owner, thresholds=thresholds))
    found = router.decide(TEXTS, placed).routes
    query = codes(features(router, TEXTS))
    wanted = tophash.route(query, np.zeros(1, np.int64), keys, owner, thresholds, made.weight)
    for name, value in found._asdict().items():
        np.testing.assert_array_equal(value, getattr(wanted, name), err_msg=name)
    assert (found.route > 0).any()
    assert (found.route < 0).any()


def test_another_encoder_has_another_digest(
    encoder_dir: Path, save_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    made = export_router(str(encoder_dir), tmp_path / "a")
    again = export_router(str(encoder_dir), tmp_path / "b", precision="fp32")
    other = export_router(str(save_encoder(tmp_path / "mpnet", "mpnet")), tmp_path / "c")
    assert made == again  # whatever the precision
    assert made.digest != other.digest
    assert made.digest == Encoder(str(encoder_dir)).digest


def test_an_export_with_a_router_says_so(llama: Any, encoder_dir: Path, tmp_path: Path) -> None:
    made: Exported = export(
        onnx_dir=llama.base, model=llama.model, out=tmp_path / "onnx", encoder=str(encoder_dir)
    )
    assert made.sidecar.router is not None
    assert sidecar.read(made.out).router == made.sidecar.router
    assert {file.name for file in (made.out / "router").iterdir()} == {
        "router.onnx", "route.onnx", "tokenizer.json",
    }  # fmt: skip


def test_with_required_ports_only_the_keys_are_fed(open_graph: Any) -> None:
    optional, required = (route_graph(64, 32, required=required) for required in (False, True))
    onnx.checker.check_model(required, full_check=True)
    session = open_graph(required)
    assert {value.name for value in session.get_inputs()} == {"code", *KEYS}
    keys = np.packbits(np.arange(64)[None] < 32, axis=1, bitorder="little")
    feeds = {
        "code": np.linspace(2, 1, 64, dtype=np.float32)[None], "memory.bank": keys,
        "memory.owner": np.array([4], np.int32), "memory.thresholds": np.array([1], np.float32),
    }  # fmt: skip
    assert session.run(None, feeds) == open_graph(optional).run(None, feeds) == [[5], [1], [0]]


# --- What is refused -----------------------------------------------------------------------------


def refused(folder: Path, out: Path, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        export_router(str(folder), out)
    assert caught.value.hint


def test_a_folder_without_a_tokenizer(save_encoder: Callable[..., Path], tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    refused(folder, tmp_path, "holds no tokenizer")


def test_an_encoder_that_changes_the_text(
    save_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save_encoder(tmp_path / "encoder")
    told = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    refused(folder, tmp_path, "changes a text before it is read")


def test_an_export_that_fails_at_its_encoder_leaves_nothing(
    llama: Any, save_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save_encoder(tmp_path / "encoder")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError):
        export(onnx_dir=llama.base, model=llama.model, out=tmp_path / "onnx", encoder=str(folder))
    assert [each.name for each in tmp_path.iterdir()] == ["encoder"]
