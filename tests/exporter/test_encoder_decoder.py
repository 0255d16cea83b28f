"""A T5 as two graphs: they give what transformers gives, whatever is padded."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from memoir_edge.base import ENCODER
from memoir_edge.errors import GraphError, InputError, SiteError
from memoir_edge_exporter import (
    Exported,
    export,
    package_genai,
    package_optimum,
    package_triton,
    package_web,
)
from memoir_edge_exporter._base_graph import OPSET, quiet
from memoir_edge_exporter._encoder_decoder import encoder_and_decoder

SOURCE = np.array([[4, 5, 6, 7, 8, 1], [9, 10, 1, 0, 0, 0]])
READ = np.array([[0, 4, 5, 6, 7, 8, 9], [0, 20, 21, 22, 23, 24, 25]])
SEEN = (SOURCE != 0).astype(np.int64)


@pytest.fixture(scope="module")
def folder(t5_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graphs")
    with quiet():
        encoder_and_decoder(t5_dir, out, OPSET)
    return out


@pytest.fixture(scope="module")
def wanted(t5_dir: Path) -> np.ndarray:
    net = AutoModelForSeq2SeqLM.from_pretrained(t5_dir).eval()
    fed = {"input_ids": SOURCE, "attention_mask": SEEN, "decoder_input_ids": READ}
    with torch.no_grad():
        return net(**{name: torch.from_numpy(x) for name, x in fed.items()}).logits.numpy()


class Decoder:
    """The decoder's graph behind what the encoder's gave."""

    def __init__(self, folder: Path) -> None:
        encoder = onnxruntime.InferenceSession(folder / ENCODER)
        fed = {"input_ids": SOURCE, "attention_mask": SEEN}
        names = [output.name for output in encoder.get_outputs()]
        self.read = dict(zip(names, encoder.run(None, fed), strict=True))
        self.graph = onnxruntime.InferenceSession(folder / "model.onnx")
        self.names = [output.name for output in self.graph.get_outputs()]

    def run(
        self, ids: np.ndarray, attention: np.ndarray, past: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Logits and the new past."""
        inputs = [i.name for i in self.graph.get_inputs() if ".decoder." in i.name]
        past = past or {name: np.zeros((2, 4, 0, 8), np.float32) for name in inputs}
        fed = {"input_ids": ids, "attention_mask": attention, "encoder_attention_mask": SEEN}
        found = dict(zip(self.names, self.graph.run(None, fed | self.read | past), strict=True))
        logits = found.pop("logits")
        return logits, {n.replace("present", "past_key_values"): x for n, x in found.items()}


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    print(f"largest difference {np.abs(found - wanted).max():.1e} of {np.abs(wanted).max():.1f}")
    np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())


def test_one_decoder_is_the_first_step_and_all_others(folder: Path, wanted: np.ndarray) -> None:
    decoder = Decoder(folder)
    close(decoder.run(READ, np.ones_like(READ))[0], wanted)
    past: dict[str, Any] | None = None
    for t in range(READ.shape[1]):
        logits, past = decoder.run(READ[:, [t]], np.ones((2, t + 1), np.int64), past)
        close(logits[:, 0], wanted[:, t])


def test_a_row_that_began_later_is_padded(folder: Path, wanted: np.ndarray) -> None:
    decoder = Decoder(folder)
    ids = np.array([READ[0, :5], [0, 0, *READ[1, :3]]])
    attention = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    logits, past = decoder.run(ids, attention)
    close(logits[1, 2:], wanted[1, :3])
    attention = np.concatenate([attention, [[1], [1]]], axis=1)
    logits, _ = decoder.run(np.array([READ[0, [5]], READ[1, [3]]]), attention, past)
    close(logits[:, 0], np.stack([wanted[0, 5], wanted[1, 3]]))


def test_the_encoder_gives_what_the_decoder_takes(folder: Path) -> None:
    encoder, decoder = (onnx.load(folder / name).graph for name in (ENCODER, "model.onnx"))
    given = {value.name for value in encoder.output}
    taken = {value.name for value in decoder.input}
    assert given == {name for name in taken if ".encoder." in name}
    # Cross attention's keys and values are computed in the encoder's graph alone.
    assert not [w.name for w in decoder.initializer if "EncDecAttention.k" in w.name]


@pytest.fixture(scope="module")
def made(t5_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(model=t5_dir, out=tmp_path_factory.mktemp("export") / "out")


def test_an_export_has_both_graphs(made: Exported) -> None:
    assert (made.sidecar.site, made.sidecar.D) == ("decoder.block.1.layer.2.DenseReluDense.wo", 44)
    assert {ENCODER, "model.onnx", "tokenizer.json", "config.json"} <= {
        path.name for path in made.out.iterdir()
    }
    assert "`encoder_model.onnx` reads the prompts" in (made.out / "README.md").read_text()


@pytest.mark.parametrize(
    "package",
    [
        package_triton,
        package_genai,
        lambda folder, out: package_web([folder], out),
        lambda folder, out: package_optimum(folder, out, folder / "facts.safetensors"),
    ],
    ids=["triton", "genai", "web", "optimum"],
)
def test_hosts_of_one_graph_get_no_package(made: Exported, tmp_path: Path, package: Any) -> None:
    with pytest.raises(GraphError, match="holds an encoder-decoder"):
        package(made.out, tmp_path / "package")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "asked",
    [{"dtype": "int8"}, {"builder": "genai"}, {"kind": "cache"}, {"onnx_dir": Path("graphs")}],
    ids=str,
)
def test_what_an_encoder_decoder_cannot_do_is_said(
    t5_dir: Path, tmp_path: Path, refused: Any, asked: dict[str, Any]
) -> None:
    refused(tmp_path, InputError, "an encoder-decoder cannot be exported", model=t5_dir, **asked)


def test_other_encoder_decoders_are_named(t5_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(t5_dir, tmp_path / "model")
    config = (model / "config.json").read_text().replace('"model_type": "t5"', '"model_type": "x"')
    (model / "config.json").write_text(config)
    with pytest.raises(InputError, match="encoder-decoders of type 'x' cannot be exported"):
        export(model=model, out=tmp_path / "out")


def test_a_layer_of_the_encoder_is_no_site(t5_dir: Path, tmp_path: Path, refused: Any) -> None:
    site = "encoder.block.1.layer.1.DenseReluDense.wo"
    refused(tmp_path, SiteError, "no matrix product", model=t5_dir, site=site)
