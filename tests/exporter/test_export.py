"""`export` from end to end: what it makes, and each way it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import memoir_edge_exporter
from fused import fused
from memoir_edge import ports, sidecar
from memoir_edge.errors import GraphError, InputError, MemoirEdgeError, SiteError
from memoir_edge.identity import former_digests, model_digest
from memoir_edge_exporter import export

Build = Callable[..., onnx.ModelProto]
Given = Callable[..., Path]


def test_the_public_names_are_listed() -> None:
    public = {name for name in vars(memoir_edge_exporter) if not name.startswith("_")}
    assert public == set(memoir_edge_exporter.__all__)


def test_an_export_holds_what_a_runtime_needs(made) -> None:
    exported = made.exported
    assert {path.name for path in made.out.iterdir()} >= {
        "model.onnx", "memoir_edge.json", "config.json", "generation_config.json",
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    }  # fmt: skip
    for name in ("tokenizer.json", "config.json"):
        assert (made.out / name).read_bytes() == (made.model / name).read_bytes()
    assert sidecar.read(made.out) == exported.sidecar
    assert exported.sidecar.digest == model_digest(made.model)
    assert exported.sidecar.former == former_digests(made.model)
    assert exported.sidecar.model_id == "model"
    assert exported.sidecar.exporter == "memoir-edge-exporter 0.1.0"
    assert exported.nodes == len(onnx.load(made.out / "model.onnx").graph.node)
    assert exported.bytes == sum(path.stat().st_size for path in made.out.iterdir())
    assert exported.seconds > 0


def test_site_and_dtype_are_what_was_asked(llama, llama_fp16, gpt2) -> None:
    assert (llama.site, llama.exported.sidecar.dtype) == ("model.layers.2.mlp.down_proj", "fp32")
    assert llama_fp16.exported.sidecar.dtype == "fp16"
    assert gpt2.site == "transformer.h.1.mlp.c_proj"


def test_the_same_export_gives_the_same_bytes(llama, tmp_path: Path, capfd) -> None:
    capfd.readouterr()
    again = export(model=llama.model, out=tmp_path / "out")
    for path in sorted(llama.out.iterdir()):
        assert (again.out / path.name).read_bytes() == path.read_bytes(), path.name
    assert capfd.readouterr() == ("", "")  # and nothing is said on the way


def test_a_graph_exported_elsewhere(llama, tmp_path: Path) -> None:
    alone = export(onnx_dir=llama.base, out=tmp_path / "alone", site="model.layers.0.mlp.up_proj")
    assert (alone.sidecar.site, alone.sidecar.D, alone.sidecar.d) == (
        "model.layers.0.mlp.up_proj",
        32,
        50,
    )
    assert (alone.sidecar.digest, alone.sidecar.model_id) == (None, "base")
    both = export(
        onnx_dir=llama.base, model=llama.model, out=tmp_path / "both", model_id="org/name"
    )
    assert both.sidecar.digest == model_digest(llama.model)
    assert (both.sidecar.site, both.sidecar.model_id) == (llama.site, "org/name")
    assert (both.out / "model.onnx").read_bytes() == (llama.out / "model.onnx").read_bytes()


@pytest.mark.parametrize("kind", ["required", "recurrent", "cache"])
def test_the_kind_of_ports_is_what_was_asked(
    llama, open_graph, tmp_path: Path, kind: ports.Kind
) -> None:
    made = export(onnx_dir=llama.base, model=llama.model, out=tmp_path / "out", kind=kind)
    assert sidecar.read(made.out).kind == made.sidecar.kind == kind
    inputs = {value.name for value in open_graph(made.out).get_inputs()}
    assert ("memory.columns" in inputs) == (kind == "required")
    assert ("past_key_values.3.recurrent_state" in inputs) == (kind == "recurrent")
    assert ("past_key_values.3.key" in inputs) == (kind == "cache")
    layers = json.loads((made.out / "config.json").read_text())["num_hidden_layers"]
    assert layers == 3 + (kind == "cache")


def test_a_short_site_is_recorded_in_full(three_nodes: Build, given: Given, tmp_path: Path) -> None:
    made = export(onnx_dir=given(three_nodes()), out=tmp_path / "out", site="down_proj")
    assert made.sidecar.site == "model.layers.0.mlp.down_proj"


def test_external_weights_can_be_forced(llama, tmp_path: Path, Graph) -> None:
    made = export(model=llama.model, out=tmp_path / "out", max_inside=10_000)
    assert (made.out / "model.onnx.data").stat().st_size > 100_000
    assert Graph(made.out).names == Graph(llama.out).names


# --- Refusals: one clear line, and nothing written -----------------------------------------------


def copy(folder: Path, to: Path, *leave_out: str) -> Path:
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*leave_out)))


def test_no_model(tmp_path: Path, refused) -> None:
    refused(tmp_path, InputError, "nothing to export")


def test_a_folder_that_is_no_model(tmp_path: Path, refused) -> None:
    refused(tmp_path, InputError, r"config\.json", model=tmp_path)
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_text("{}")
    refused(tmp_path, InputError, "optimum-onnx cannot export", model=tmp_path, site="x")


def test_a_graph_without_a_configuration_needs_its_model(llama, tmp_path: Path, refused) -> None:
    graph = fused(llama.model, tmp_path / "graph")
    error = refused(tmp_path, InputError, r"holds no config\.json", onnx_dir=graph)
    assert "--model DIR" in str(error.hint)
    made = export(onnx_dir=graph, model=llama.model, out=tmp_path / "out")
    assert made.sidecar.padding_side == "right"
    assert (made.out / "config.json").is_file()


def test_an_unknown_dtype(llama, tmp_path: Path, refused) -> None:
    refused(tmp_path, InputError, "unknown dtype 'int3'", model=llama.model, dtype="int3")


def test_no_tokenizer(llama, tmp_path: Path, refused) -> None:
    model = copy(llama.model, tmp_path / "model", "*token*")
    assert "save_pretrained" in str(
        refused(tmp_path, InputError, r"no tokenizer\.json in", model=model).hint
    )
    base = copy(llama.base, tmp_path / "base", "*token*")
    refused(tmp_path, InputError, r"no tokenizer\.json in", onnx_dir=base)


def test_a_tokenizer_of_another_kind(
    three_nodes: Build, given: Given, tmp_path: Path, refused
) -> None:
    source = given(three_nodes())
    (source / "tokenizer.json").rename(source / "tokenizer.model")
    refused(tmp_path, InputError, r"no tokenizer\.json in", onnx_dir=source)


def test_an_unknown_architecture_needs_a_site(
    three_nodes: Build, given: Given, tmp_path: Path, refused
) -> None:
    source = given(three_nodes())
    (source / "config.json").write_text(json.dumps({"model_type": "new", "num_hidden_layers": 2}))
    refused(tmp_path, SiteError, "no default site for model type 'new'", onnx_dir=source)
    export(onnx_dir=source, out=tmp_path / "out", site="down_proj")


def test_a_site_that_is_not_there(llama, tmp_path: Path, refused) -> None:
    error = refused(tmp_path, SiteError, "no matrix product", onnx_dir=llama.base, site="x.y")
    assert "model.layers.{0..2}.mlp.down_proj" in str(error.hint)


def test_something_in_the_way(llama, tmp_path: Path, refused) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refused(tmp_path, InputError, "is in the way", onnx_dir=llama.base)


def test_a_graph_that_cannot_take_ports(
    llama, three_nodes: Build, given: Given, tmp_path: Path, refused
) -> None:
    refused(tmp_path, GraphError, "it has memory ports already", onnx_dir=llama.out)
    refused(tmp_path, GraphError, "opset 17", onnx_dir=given(three_nodes(opset=17)))


@pytest.mark.parametrize("content", [None, b"", b"no graph", b"\x00" * 100])
def test_no_readable_graph(llama, tmp_path: Path, content: bytes | None) -> None:
    source = copy(llama.base, tmp_path / "base", "model.onnx")
    if content is not None:
        (source / "model.onnx").write_bytes(content)
    with pytest.raises(MemoirEdgeError, match=r"cannot read|no ONNX model|no graph that can take"):
        export(onnx_dir=source, out=tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base"}
