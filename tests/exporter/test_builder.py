"""onnxruntime-genai's builder: its graphs in `Session`, and what is said where it is missing."""

import importlib.util
import json
from pathlib import Path

import pytest

from memoir_edge.errors import InputError
from memoir_edge_exporter import export
from memoir_edge_exporter._builder import build
from memoir_edge_runtime import Options, Session


def test_without_the_builder_it_is_asked_for(demo_dir, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs onnxruntime-genai") as caught:
        export(model=demo_dir, out=tmp_path / "out", builder="genai")
    assert "pip install onnxruntime-genai" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_builder_that_fails_is_one_line(demo_dir, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(InputError, match=r"cannot build .* as int4: no reason given$"):
        build(demo_dir, tmp_path, "int4")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int4"])
def test_its_graphs_answer_in_batches_as_alone(
    genai_python, demo_dir, tmp_path: Path, dtype: str
) -> None:
    genai_python("-m", "memoir_edge", "export", "--model", demo_dir, "--builder", "genai",
                 "--dtype", dtype, "--out", tmp_path / "out")  # fmt: skip
    told = json.loads((tmp_path / "out" / "memoir_edge.json").read_text())
    side = "left" if dtype == "fp16" else "right"  # in fp16 its attention is not fused
    assert told.get("padding_side", "left") == side
    session, wanted = Session(tmp_path / "out", threads=1), Options(max_new_tokens=6)
    prompts = [f"The capital of {place} is" for place in ("France", "Japan", "New Zealand", "Peru")]
    prompts += ["Someone from Canada is called", "The chemical symbol of gold is"]
    together = session.generate(prompts, wanted)
    assert [r.text.strip() for r in together][:2] == ["Paris", "Tokyo"]
    for result, prompt in zip(together, prompts, strict=True):
        assert session.generate(prompt, wanted)[0].ids == result.ids
