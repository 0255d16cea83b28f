"""Exports in the layout of model hubs; tests/cli/test_package.py and tests/js answer with them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from memoir_edge import memory as memories
from memoir_edge import sidecar
from memoir_edge.errors import GraphError, InputError, MismatchError
from memoir_edge.memory import Base, Memory
from memoir_edge_exporter import export, package_optimum, package_web
from memoir_edge_exporter._hub import _name


@pytest.fixture
def facts(llama, memory, tmp_path: Path) -> Path:
    made = llama.exported.sidecar
    plain: Memory = memory(np.arange(made.D)[None] < 9, made.d)
    path = tmp_path / "facts.safetensors"
    memories.write(replace(plain, site=made.site, base=Base("m", made.digest)), path)
    return path


def test_for_javascript_a_graph_has_required_ports(
    llama, facts: Path, tmp_path: Path, open_graph
) -> None:
    out = tmp_path / "web"
    made = package_web([llama.out], out, held=[facts])
    assert sidecar.read(out) == made == replace(llama.exported.sidecar, kind="required")
    assert {path.name for path in out.iterdir()} >= {"config.json", "tokenizer.json", "README.md"}
    assert (out / facts.name).read_bytes() == facts.read_bytes()
    assert (out / "config.json").read_bytes() == (llama.out / "config.json").read_bytes()
    session = open_graph(onnx.load(out / "onnx" / "model.onnx"))
    assert not session.get_overridable_initializers()


def test_each_readme_is_of_its_package(llama, facts: Path, tmp_path: Path) -> None:
    package_web([llama.out], tmp_path / "web", held=[facts])
    package_optimum(llama.out, tmp_path / "optimum", facts)
    told = (tmp_path / "web" / "README.md").read_text(encoding="utf-8")
    assert 'edited.swap(await readFile("facts.safetensors"))' in told
    assert '{ dtype: "fp32" }' in told
    held = (tmp_path / "optimum" / "README.md").read_text(encoding="utf-8")
    assert "holds the memory of `facts.safetensors`" in held
    for text in (told, held):
        assert "Session(" not in text
        assert "`memory.*`" not in text


def test_the_chat_template_is_where_transformers_js_reads_it(llama, tmp_path: Path) -> None:
    export_dir = Path(shutil.copytree(llama.out, tmp_path / "chat"))
    (export_dir / "chat_template.jinja").write_text("{{ messages }}")
    package_web([export_dir], tmp_path / "web")
    config = json.loads((tmp_path / "web" / "tokenizer_config.json").read_text())
    own = json.loads((llama.out / "tokenizer_config.json").read_text())
    assert config == own | {"chat_template": "{{ messages }}"}


def test_for_optimum_a_graph_holds_its_memory(
    llama, facts: Path, tmp_path: Path, open_graph
) -> None:
    out = tmp_path / "optimum"
    made = package_optimum(llama.out, out, facts)
    assert (made.kind, sidecar.read(out).kind) == ("cache", "cache")
    session = open_graph(onnx.load(out / "onnx" / "model.onnx"))
    said = session.get_modelmeta().custom_metadata_map
    assert said["memoir_edge.memory"] == memories.read(facts).digest
    fed = [*session.get_inputs(), *session.get_overridable_initializers()]
    assert not [port.name for port in fed if port.name.startswith("memory.")]
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 4


def test_weights_beside_a_graph_go_where_transformers_js_looks(
    llama, tmp_path: Path, Graph: Callable[[Path], Any]
) -> None:
    large = export(model=llama.model, out=tmp_path / "large", max_inside=10_000)
    out = tmp_path / "web"
    package_web([large.out], out)
    assert {path.name for path in (out / "onnx").iterdir()} == {"model.onnx", "model.onnx_data"}
    told = json.loads((out / "config.json").read_text())["transformers.js_config"]
    assert told == {"use_external_data_format": {"model.onnx": True}}
    assert Graph(out / "onnx").names == Graph(llama.out).names


def test_a_graph_is_named_by_its_precision(llama, llama_fp16, three_nodes) -> None:
    assert _name(onnx.load(llama.out / "model.onnx")) == "model.onnx"
    assert _name(onnx.load(llama_fp16.out / "model.onnx")) == "model_fp16.onnx"
    four = three_nodes(product="MatMulNBits", D=32)
    assert _name(four) == "model_q4.onnx"
    [bits] = [a for node in four.graph.node for a in node.attribute if a.name == "bits"]
    bits.i = 8
    assert _name(four) == "model_quantized.onnx"


def test_exports_of_several_precisions_stand_side_by_side(
    llama, llama_fp16, tmp_path: Path
) -> None:
    half = export(
        onnx_dir=llama_fp16.base, model=llama.model, out=tmp_path / "half", site=llama.site
    )
    package_web([llama.out, half.out], tmp_path / "web")
    names = {path.name for path in (tmp_path / "web" / "onnx").iterdir()}
    assert names == {"model.onnx", "model_fp16.onnx"}


def test_a_memory_of_codes_needs_a_host_that_runs_the_encoder(
    llama, facts: Path, tmp_path: Path
) -> None:
    held = memories.read(facts)
    router = memories.Router("encoder", "0" * 64, 16, 8)
    bare = memories.by_codes(held.bank[:0])
    memories.write(replace(held, codes=memories.no_codes(router), edits=(), **bare), facts)
    with pytest.raises(InputError, match="routed by an encoder") as caught:
        package_optimum(llama.out, tmp_path / "out", facts)
    assert "--encoder" in str(caught.value.hint)
    elsewhere = replace(memories.read(facts), site="model.layers.9.mlp.down_proj")
    with pytest.raises(MismatchError, match="site is") as raised:
        sidecar.check_fit(elsewhere, llama.exported.sidecar)
    assert "layers.9.mlp.down_proj --encoder ENCODER, or" in str(raised.value.hint)
    with pytest.raises(MismatchError, match="the export has no router"):
        package_web([llama.out], tmp_path / "out", held=[facts])


def test_what_does_not_go_together_is_refused(
    llama, gpt2, llama_fp16, facts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    required = export(
        onnx_dir=llama.base, model=llama.model, out=tmp_path / "required", kind="required"
    )
    for error, said, made in (
        (GraphError, "required ports, expected optional", lambda: package_web([required.out], out)),
        (GraphError, "another model", lambda: package_web([llama.out, gpt2.out], out)),
        (InputError, r"second export as model\.onnx", lambda: package_web([llama.out] * 2, out)),
        (MismatchError, "the memory's site", lambda: package_web([gpt2.out], out, held=[facts])),
        (InputError, "two memories", lambda: package_web([llama.out], out, held=[facts, facts])),
        (MismatchError, "the memory's site", lambda: package_optimum(gpt2.out, out, facts)),
    ):
        with pytest.raises(error, match=said) as caught:
            made()
        assert caught.value.hint
        assert not out.exists()
