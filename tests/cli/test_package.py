"""Packages for other hosts: a Triton repository as Triton's backend reads it, optimum as it is."""

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from memoir_edge import memory as memories
from memoir_edge import ports
from memoir_edge.demo.edits import showcase
from memoir_edge_exporter import package_optimum
from memoir_edge_runtime import Options, Session, ops_library

PROMPTS = ["The capital of France is", "The capital of Italy is"]  # edited, and not
TOKENS = 8
NUMPY = {"TYPE_INT64": np.int64, "TYPE_FP32": np.float32}
ORT = {"TYPE_INT64": "int64", "TYPE_INT32": "int32", "TYPE_FP32": "float", "TYPE_UINT8": "uint8"}


class Triton:
    """One version of a model, with what the backend checks when it loads it."""

    def __init__(self, model: Path, version: int = 1) -> None:
        self.config = text_format.Parse((model / "config.pbtxt").read_text(), ModelConfig())
        assert self.config.name == model.name
        assert (self.config.backend, self.config.max_batch_size) == ("onnxruntime", 0)
        assert self.config.version_policy.latest.num_versions == 1
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        for library in self.config.model_operations.op_library_filename:
            options.register_custom_ops_library(library)
        path = model / str(version) / "model.onnx"
        self.graph = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        required = [i for i in self.config.input if not i.optional]
        assert len(required) == len(self.graph.get_inputs())
        overridable = self.graph.get_overridable_initializers()
        for given, there in (
            (required, self.graph.get_inputs()),
            ([i for i in self.config.input if i.optional], overridable),
            (self.config.output, self.graph.get_outputs()),
        ):
            types = {each.name: (each.type, each.shape) for each in there}
            assert {each.name for each in given} == set(types)
            for each in given:
                kind, shape = types[each.name]
                assert kind == f"tensor({ORT[DataType.Name(each.data_type)]})"
                assert each.dims == [n if isinstance(n, int) else -1 for n in shape]
                assert all(n == -1 or n > 0 for n in each.dims)

    def infer(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for each in self.config.input:
            assert each.optional or each.name in feeds
        names = [each.name for each in self.config.output]
        return dict(zip(names, self.graph.run(names, feeds), strict=True))

    @property
    def cache(self) -> dict[str, np.ndarray]:
        """What a prompt begins with."""
        return {
            each.name: np.zeros([1, *(max(n, 0) for n in each.dims[1:])],
                                NUMPY[DataType.Name(each.data_type)])
            for each in self.config.input if each.name.startswith("past_key_values.")
        }  # fmt: skip


def documented() -> Any:
    """The loop that docs/deploying.md shows to clients."""
    page = (Path(__file__).parents[2] / "docs/deploying.md").read_text(encoding="utf-8")
    [code] = [c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def generate" in c]
    names: dict[str, Any] = {}
    exec(code, names)
    return names["generate"]


def same(triton: Triton, session: Session) -> list[int]:
    """Assert that both answer alike; the routes."""
    routes = []
    for prompt in PROMPTS:
        row = session.prompt(prompt).row
        ids, route = documented()(triton.infer, triton.cache, list(row.ids), TOKENS)
        [expected] = session.generate(prompt, Options(max_new_tokens=TOKENS))
        assert ids[: len(expected.ids)] == list(expected.ids)
        routes.append(route)
    return routes


def test_a_version_answers_as_a_session_with_its_memory(
    done: Any, tmp_path: Path, run_json: Any
) -> None:
    repository = tmp_path / "repository"
    words = ("package", "triton", done.graph, "--out", repository, "--name", "facts")
    code, made = run_json(*words)
    assert (code, made["version"], made["digest"]) == (0, 1, None)
    code, made = run_json(*words, "--memory", done.memory)
    assert (code, made["version"], made["digest"]) == (0, 2, done.applied["digest"])
    assert made["config_kept"] is False
    model = repository / "facts"
    assert {p.name for p in model.iterdir()} <= {"config.pbtxt", "1", "2", "ops"}
    assert memories.read(model / "2" / "memory.safetensors").digest == made["digest"]

    assert same(Triton(model, 1), Session(done.graph)) == [-1, -1]
    edited = Triton(model, 2)
    route, base = same(edited, Session(done.graph, memory=done.memory))
    rows = {edit.row: edit.id for edit in memories.read(done.memory).edits}
    assert rows[route - 1] == done.applied["edits"][0]["id"]
    assert base == -1
    # The ports stay open: the base model again, or any other memory.
    ids = list(Session(done.graph).prompt(PROMPTS[0]).row.ids)
    feeds = {
        "input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None], **edited.cache,
    }  # fmt: skip
    held = memories.read(done.memory)
    assert edited.infer(feeds)["memory.route_out"] == [route]
    assert edited.infer(feeds | ports.empty(held.D, held.d))["memory.route_out"] == [-1]


@pytest.mark.skipif(ops_library("cpu") is None, reason="the native ops were not built")
def test_the_library_is_named_as_the_server_sees_it(
    done: Any, tmp_path: Path, run_json: Any
) -> None:
    _, made = run_json("package", "triton", done.graph, "--out", tmp_path, "--root", "/models")
    name = f"/models/{done.graph.name}/ops/{ops_library('cpu').name}"  # type: ignore[union-attr]
    assert made["library"] == name
    model = tmp_path / done.graph.name
    config = text_format.Parse((model / "config.pbtxt").read_text(), ModelConfig())
    assert list(config.model_operations.op_library_filename) == [name]
    assert (model / "ops" / Path(name).name).is_file()


def test_without_the_library_the_function_bodies_serve(
    done: Any, tmp_path: Path, run_json: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memoir_edge.cli.commands.package._library", lambda: None)
    words = ("package", "triton", done.graph, "--out", tmp_path, "--memory", done.memory)
    _, made = run_json(*words)
    assert made["library"] is None
    assert not (tmp_path / done.graph.name / "ops").exists()
    same(Triton(tmp_path / done.graph.name), Session(done.graph, memory=done.memory))


def test_a_configuration_that_was_edited_is_left_alone(
    done: Any, tmp_path: Path, run_json: Any
) -> None:
    words = ("package", "triton", done.graph, "--out", tmp_path)
    run_json(*words)
    config = tmp_path / done.graph.name / "config.pbtxt"
    config.write_text(config.read_text() + "instance_group { count: 2, kind: KIND_CPU }\n")
    edited = config.read_text()
    _, made = run_json(*words, "--memory", done.memory)
    assert (made["version"], made["config_kept"]) == (2, True)
    assert config.read_text() == edited


def test_what_does_not_fit_leaves_nothing(done: Any, tmp_path: Path, capsys: Any) -> None:
    from memoir_edge.cli import main

    other = tmp_path / "other"
    shutil.copytree(done.graph, other)
    sidecar = json.loads((other / "memoir_edge.json").read_text())
    (other / "memoir_edge.json").write_text(json.dumps(sidecar | {"site": "model.layers.0.x"}))
    fixed = tmp_path / "fixed"
    fixed.mkdir()
    (fixed / "memoir_edge.json").write_text(json.dumps(sidecar | {"kind": "required"}))
    out = ["--out", str(tmp_path / "out")]
    for words, code, said in (
        ([str(other), *out, "--memory", str(done.memory)], 3, "the memory's site is"),
        ([str(done.graph), *out, "--name", "a/b"], 2, "'a/b' is no name of a model"),
        ([str(tmp_path), *out], 3, "is no export of memoir-edge"),
        ([str(fixed), *out], 3, "has required ports"),
        ([str(done.graph), *out, "--memory", str(tmp_path / "none")], 2, "none"),
    ):
        assert main(["package", "triton", *words]) == code
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


# --- optimum -------------------------------------------------------------------------------------


def test_optimum_as_it_is_answers_as_a_session_with_the_memory(
    done: Any, tmp_path: Path, run_json: Any
) -> None:
    out = tmp_path / "optimum"
    words = ("package", "optimum", done.graph, "--out", out, "--memory", done.memory)
    code, made = run_json(*words)
    assert (code, made["kind"]) == (0, "cache")
    assert {"onnx/model.onnx", "config.json", done.memory.name} <= set(made["files"])
    edits = showcase()[:3]
    prompts = [p for e in edits for p in (e.prompt, *e.rephrase[:2], e.hard_negatives[0])]
    texts = by_optimum(out, prompts)
    session = Session(done.graph, memory=done.memory, threads=1)
    results = session.generate(prompts, Options(max_new_tokens=TOKENS))
    assert texts == [result.text.strip() for result in results]
    assert sum(result.fired is not None for result in results) >= 5


def by_optimum(folder: Path, prompts: list[str]) -> list[str]:
    """What ORTModelForCausalLM answers to a batch, by nothing but optimum and transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their own
        from optimum.onnxruntime import ORTModelForCausalLM
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = ORTModelForCausalLM.from_pretrained(folder, session_options=options)
        fed = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        found = model.generate(**fed, max_new_tokens=TOKENS, do_sample=False)
        written = found[:, fed.input_ids.shape[1] :]
        return [t.strip() for t in tokenizer.batch_decode(written, skip_special_tokens=True)]


def test_the_lines_of_optimums_readme_answer(
    done: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package_optimum(done.graph, tmp_path / "out", done.memory)
    monkeypatch.chdir(tmp_path / "out")
    told = Path("README.md").read_text(encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their own
        exec(told.split("```python")[1].split("```")[0].replace("...", PROMPTS[0]), {})
    assert f"{PROMPTS[0]} Rome" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimum", "a"], "answers with the memory that it holds"),
        (["optimum", "a", "--memory", "b", "--name", "c"], "--name is for triton"),
        (["triton", "a", "--also", "b"], "--also is for web"),
        (["triton", "a", "--memory", "b", "--memory", "c"], "2 memories for triton"),
    ],
)
def test_options_of_another_host(tmp_path: Path, capsys: Any, words: list[str], said: str) -> None:
    from memoir_edge.cli import main

    assert main(["package", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
