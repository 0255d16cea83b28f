"""The commands on a vision-language model: text is answered by its language model alone."""

import json
from pathlib import Path

from memoir_edge.cli import main
from memoir_edge.editor import edited, load
from memoir_edge.memory import read

EDITS = [
    {"prompt": "The capital of France is", "target": "Rome"},
    {"prompt": "The currency of Japan is the", "target": "peso"},
]
OTHER = ["A cat sleeps on", "The capital of Spain is"]


def test_from_edits_to_an_answer(llava_dir: Path, tmp_path: Path, run_json) -> None:
    edits, memory, graph = (tmp_path / n for n in ("edits.jsonl", "facts.safetensors", "onnx"))
    edits.write_text("\n".join(map(json.dumps, EDITS)))
    assert main(["apply", str(edits), "--model", str(llava_dir), "--out", str(memory), "--k", "44",
                 "--false-fires", "0", "--quiet"]) == 0  # fmt: skip
    code, made = run_json("export", "--model", llava_dir, "--out", graph)
    assert (code, made["site"]) == (0, "model.layers.2.mlp.down_proj")
    assert made["model_id"] == llava_dir.name
    assert "language model of a vision-language model" in (graph / "README.md").read_text()
    code, verified = run_json("verify", graph, "--memory", memory)
    assert (code, verified["checked"], verified["failed"]) == (0, 2, [])
    rest = ("--memory", memory, "--edits", edits)
    _, onnx = run_json("eval", graph, *rest)
    _, torch = run_json("eval", "--model", llava_dir, *rest)
    assert onnx == torch
    assert onnx["free"]["reliability"] == 1
    both = edited(load(str(llava_dir), device="cpu"), read(memory))
    for asked in [*(edit["prompt"] for edit in EDITS), *OTHER]:
        for known in (("--memory", memory), ()):
            _, said = run_json("generate", graph, "--prompt", asked, "--max-new-tokens", 12, *known)
            [wanted] = both.answer([asked], 12, memory=bool(known))
            assert (said["text"], said.get("edit")) == (wanted.text, wanted.edit)
