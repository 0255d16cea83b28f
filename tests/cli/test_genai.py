"""`memoir-edge package genai`: the folder, and onnxruntime-genai's own loop on it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fused import fused
from memoir_edge import memory as memories
from memoir_edge import ports, sidecar
from memoir_edge.cli import main
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.errors import InputError
from memoir_edge.router.encoder import Encoder
from memoir_edge_exporter import export, export_router, package_genai
from memoir_edge_exporter._few_bits import quantize
from memoir_edge_runtime import Options, Session

LOOP = Path(__file__).parents[2] / "tools/genai_loop.py"
TOKENS = 6
EDITS = showcase()[:3]
ASKED = [edit.prompt for edit in EDITS]
QUOTED = 'it\'s "one"'
NEAR = ["The capital of Italy is", "The capital of Spain is", "The currency of France is"]


@pytest.fixture(scope="module", params=[None, 4], ids=["fp32", "int4"])
def graph(request, tmp_path_factory) -> Path:
    """A graph as the builder makes it of the demo model."""
    folder = fused(model_dir(), tmp_path_factory.mktemp("graph"))
    if request.param:
        path = folder / "model.onnx"
        onnx.save(quantize(onnx.load(path), request.param), path)
    return folder


@pytest.fixture(scope="module")
def package(graph, done, tmp_path_factory) -> Path:
    """With two memories: three edits, and one in which the first alone is reached."""
    folder = tmp_path_factory.mktemp("package")
    export(onnx_dir=graph, model=model_dir(), out=folder / "onnx")
    shutil.copy(done.memory, folder / "facts.safetensors")
    facts = memories.read(done.memory)
    first = facts.owner == facts.edits[0].row
    limits = np.where(first, facts.thresholds, np.float32(2))
    memories.write(replace(facts, thresholds=limits), folder / "one.safetensors")
    assert main(["package", "genai", str(folder / "onnx"), "--out", str(folder / "package"),
                 "--memory", str(folder / "facts.safetensors"), "--quiet",
                 "--memory", str(folder / "one.safetensors")]) == 0  # fmt: skip
    return folder / "package"


def ask(python: Callable[..., str], folder: Path, **jobs: dict[str, Any]) -> dict[str, Any]:
    listed = [{"tokens": TOKENS} | job for job in jobs.values()]
    return dict(zip(jobs, json.loads(python(LOOP, folder, json.dumps(listed))), strict=True))


def test_the_folder_is_a_whole_model_with_its_memories(package) -> None:
    settings = json.loads((package / "genai_config.json").read_text())
    decoder = settings["model"]["decoder"]
    assert decoder["num_hidden_layers"] == 8
    assert decoder["inputs"].keys() == {
        "input_ids", "attention_mask", "past_key_names", "past_value_names",
    }  # fmt: skip
    assert (package / decoder["session_options"]["custom_ops_library"]).is_file()
    assert settings["model"]["eos_token_id"] == [1]
    assert {path.stem for path in package.glob("*.onnx_adapter")} == {"facts", "one"}
    assert sidecar.read(package).kind == "recurrent"
    told = (package / "README.md").read_text()
    assert 'memories.load("facts.onnx_adapter", "facts")' in told
    assert 'append_tokens([0, *tokenizer.encode("...")])' in told
    compile(told.split("```python")[1].split("```")[0], "README", "exec")


def test_the_folder_opens_in_a_session_as_well(package, done) -> None:
    session = Session(package, memory=done.memory, threads=1)
    for edit, result in zip(EDITS, session.generate(ASKED, Options(TOKENS)), strict=True):
        assert (result.text.strip(), result.fired) == (edit.target, edit.id)


@pytest.mark.slow
def test_genais_own_loop_answers_edited(package, graph, genai_python, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(package, bare, ignore=shutil.ignore_patterns("*.onnx_adapter", "model.*"))
    shutil.copy(graph / "model.onnx", bare)
    every = [*ASKED, *NEAR]
    alone = {
        f"{name} {i}": {"turns": [[prompt]], "adapter": name}
        for name in ("facts", "one", None)
        for i, prompt in enumerate(every)
    }
    found = ask(
        genai_python, package, **alone,
        batch={"turns": [every], "adapter": "facts"},
        turns={"turns": [[NEAR[0]], [" " + ASKED[0]]], "adapter": "facts"},
    )  # fmt: skip
    base = ask(
        genai_python, bare, **{str(i): {"turns": [[p]]} for i, p in enumerate(every)},
    )  # fmt: skip
    session = Session(package, threads=1)
    text = lambda ids: session.language.tokenizer.decode([i for i in ids if i > 2]).strip()  # noqa: E731
    targets = [edit.target for edit in EDITS]
    for name, edited in (("facts", 3), ("one", 1), (None, 0)):
        answers = [found[f"{name} {i}"][0][0] for i in range(6)]
        assert [text(ids) for ids in answers[:edited]] == targets[:edited]
        assert answers[edited:] == [base[str(i)][0][0] for i in range(edited, 6)]
    together = [text(ids) for ids in found["batch"][0]]
    assert together == [*targets, *(text(base[str(i)][0][0]) for i in range(3, 6))]
    assert text(found["turns"][1][0]) == targets[0]


@pytest.mark.slow
def test_with_a_router_the_route_is_given_at_the_start(
    graph, done, genai_python, encoder_dir, tmp_path: Path
) -> None:
    """Here by hand: the edits' own rows, in place of what a router says."""
    export(onnx_dir=graph, model=model_dir(), out=tmp_path / "onnx", encoder=str(encoder_dir),
           site=memories.read(done.memory).site)  # fmt: skip
    made = package_genai(tmp_path / "onnx", tmp_path / "package", memory=[done.memory])
    assert made.router
    name, rows = done.memory.stem, [e.row + 1 for e in memories.read(done.memory).edits]
    found = ask(
        genai_python, tmp_path / "package",
        routed={"turns": [ASKED], "adapter": name, "route": rows},
        decided={"turns": [ASKED], "adapter": name, "route": [0, 0, 0]},
        held={"turns": [ASKED], "adapter": name, "route": [-1, -1, -1]},
        base={"turns": [ASKED], "route": [-1, -1, -1]},
    )  # fmt: skip
    assert found["routed"] == found["decided"]
    assert found["held"] == found["base"] != found["routed"]
    session = Session(tmp_path / "package", threads=1)
    ends = session.language.eos
    answers = [
        session.language.tokenizer.decode([i for i in ids if i not in ends]).strip()
        for ids in found["routed"][0]
    ]
    assert [
        answer.startswith(edit.target) for answer, edit in zip(answers, EDITS, strict=True)
    ] == [True] * 3


@pytest.fixture(scope="module")
def exports(done, encoder_dir, coded, tmp_path_factory) -> Path:
    """The graph with a router and without, and memories that it routes and does not."""
    folder = tmp_path_factory.mktemp("exports")
    shutil.copytree(done.graph, folder / "bare")
    graph = shutil.copytree(done.graph, folder / "routed")
    router = export_router(str(encoder_dir), graph, precision="fp32")
    sidecar.write(graph, replace(sidecar.read(graph), router=router))
    for name in ("facts", QUOTED):
        shutil.copy(done.memory, folder / f"{name}.safetensors")
    memory = coded(memories.read(done.memory), Encoder(str(encoder_dir)))
    memories.write(memory, folder / "coded.safetensors")
    return folder


@pytest.fixture(
    params=[("bare", []), ("bare", ["facts"]), ("bare", [QUOTED]), ("routed", []),
            ("routed", ["facts"]), ("routed", ["coded"]), ("routed", ["facts", "coded"])],
    ids=str,
)  # fmt: skip
def served(request, exports, tmp_path: Path) -> tuple[str, str]:
    """The README's lines of a package, and what they answer to an edit's prompt."""
    graph, held = request.param
    memory = [exports / f"{name}.safetensors" for name in held]
    package_genai(exports / graph, tmp_path / "out", memory=memory)
    told = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code = told.split("```python")[1].split("```")[0].replace("...", ASKED[0])
    here = f"import os\nos.chdir({str(tmp_path / 'out')!r})\n"
    return here + code, EDITS[0].target if held else "Paris"


def test_the_lines_of_the_readme_are_python(served) -> None:
    compile(served[0], "README.md", "exec")


def test_the_lines_say_that_without_an_adapter_no_row_of_it_is_fed(served) -> None:
    code = served[0]
    assert ("leave it out, and feed -1" in code) == ("router.decide" in code)
    assert ("leave it out" in code) == ("set_active_adapter" in code)


@pytest.mark.slow
def test_the_lines_of_the_readme_answer(served, genai_python) -> None:
    code, answer = served
    assert genai_python("-c", code).strip() == f"{ASKED[0]} {answer}"


def test_a_graph_of_optimum_gets_its_settings_from_the_models_files(done, tmp_path: Path) -> None:
    made = package_genai(done.graph, tmp_path / "out")
    assert (made.adapters, made.library, made.router) == ({}, None, False)
    settings = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert "position_ids" in settings["model"]["decoder"]["inputs"]
    assert settings["model"]["type"] == "llama"
    assert not settings["search"]["past_present_share_buffer"]
    assert "There is no adapter here." in (tmp_path / "out" / "README.md").read_text()


RENAMED = {"num_attention_heads": "n_head", "hidden_size": "n_embd"}  # as GPT-2's


@pytest.mark.parametrize(
    ("renamed", "without"),
    [({}, ["bos_token_id"]), ({}, ["pad_token_id", "eos_token_id"]), (RENAMED, []),
     ({}, ["max_position_embeddings"])],
    ids=str,
)  # fmt: skip
def test_settings_hold_numbers_alone_whatever_the_models_files_say(
    done, tmp_path: Path, renamed: dict[str, str], without: list[str]
) -> None:
    folder = shutil.copytree(done.graph, tmp_path / "graph")
    (folder / "generation_config.json").unlink()
    said = json.loads((folder / "config.json").read_text())
    kept = {renamed.get(name, name): v for name, v in said.items() if name not in without}
    (folder / "config.json").write_text(json.dumps(kept | dict.fromkeys(without[:1])))
    package_genai(folder, tmp_path / "out")
    text = (tmp_path / "out" / "genai_config.json").read_text()
    model = json.loads(text)["model"]
    assert "null" not in text
    assert model["eos_token_id"] == [1]  # if nowhere else, the tokenizer says it
    assert model["decoder"]["num_attention_heads"] == said["num_attention_heads"]
    assert model["decoder"]["hidden_size"] == said["hidden_size"]
    assert 0 < model["context_length"] < 1 << 31


def test_a_configuration_that_says_too_little_is_refused(done, capsys, tmp_path: Path) -> None:
    folder = shutil.copytree(done.graph, tmp_path / "graph")
    (folder / "config.json").write_text("{}")
    assert main(["package", "genai", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "names no number of attention heads and no width" in capsys.readouterr().err


@pytest.mark.parametrize("graph", ["bare", "routed"])
def test_a_package_is_packaged_anew_with_another_memory(
    exports, tmp_path: Path, graph: str
) -> None:
    package_genai(exports / graph, tmp_path / "first")
    made = package_genai(
        tmp_path / "first", tmp_path / "second", memory=[exports / "facts.safetensors"]
    )
    assert list(made.adapters) == ["facts.onnx_adapter"]
    session = Session(tmp_path / "second", memory=exports / "facts.safetensors", threads=1)
    [found] = session.generate(ASKED[0], Options(TOKENS))
    assert (found.text.strip(), found.fired) == (EDITS[0].target, EDITS[0].id)


@pytest.mark.parametrize("host", ["genai", "web"])
@pytest.mark.parametrize("part", ["router.onnx", "route.onnx", "tokenizer.json", "."])
def test_a_router_that_lacks_a_part_is_not_packaged(
    exports, capsys, tmp_path: Path, host: str, part: str
) -> None:
    folder = shutil.copytree(exports / "routed", tmp_path / "graph")
    shutil.move(folder / "router" / part, tmp_path / "gone")
    assert main(["package", host, str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "error: there is no " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


NEOX = {"intermediate_size": 44, "rotary_pct": 0.5, "use_parallel_residual": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_neox": NEOX, "opt": {"ffn_dim": 44, "word_embed_proj_dim": 32, "init_std": 0.2},
    "gpt2": {"bos_token_id": None},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_genai_has_no_name_for_answer(
    family: str, genai_python, tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 1500, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "max_position_embeddings": 256, "initializer_range": 0.2, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    config = AutoConfig.for_model(family, **(sizes | FAMILIES[family]))
    torch.manual_seed(0)
    model = tmp_path / "model"
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(model_dir() / name, model)
    made = package_genai(export(model=model, out=tmp_path / "onnx").out, tmp_path / "out")
    [wanted] = Session(tmp_path / "out", threads=1).generate(NEAR[0], Options(TOKENS))
    found = ask(genai_python, tmp_path / "out", base={"turns": [NEAR[:1]], "begin": made.begin})
    assert found["base"][0][0][: len(wanted.ids)] == list(wanted.ids)


@pytest.mark.parametrize("kind", ["required", "cache"])
def test_ports_of_another_kind_are_refused(done, capsys, tmp_path: Path, kind: ports.Kind) -> None:
    folder = shutil.copytree(done.graph, tmp_path / "graph")
    told = json.loads((folder / "memoir_edge.json").read_text())
    (folder / "memoir_edge.json").write_text(json.dumps(told | {"kind": kind}))
    assert main(["package", "genai", str(folder), "--out", str(tmp_path / "out")]) == 3
    assert f"ports of kind {kind}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_memories_of_one_name_are_refused(done, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = Path(shutil.copy(done.memory, tmp_path / "b" / done.memory.name))
    with pytest.raises(InputError, match="two memories have one name"):
        package_genai(done.graph, tmp_path / "out", memory=[done.memory, other])
