"""The commands on an encoder-decoder, from a file of edits to an answer on ONNX Runtime."""

import json
from pathlib import Path

from memoir_edge.cli import main

EDITS = [
    {"prompt": "The capital of France is", "target": "Rome"},
    {"prompt": "The currency of Japan is", "target": "Paris yen"},
]


def test_from_edits_to_an_answer(t5_dir: Path, tmp_path: Path, run_json) -> None:
    edits, memory, graph = (tmp_path / n for n in ("edits.jsonl", "facts.safetensors", "onnx"))
    edits.write_text("\n".join(map(json.dumps, EDITS)))
    assert main(["apply", str(edits), "--model", str(t5_dir), "--out", str(memory), "--k", "22",
                 "--false-fires", "0", "--quiet"]) == 0  # fmt: skip
    code, made = run_json("export", "--model", t5_dir, "--out", graph)
    assert (code, made["site"]) == (0, "decoder.block.1.layer.2.DenseReluDense.wo")
    code, verified = run_json("verify", graph, "--memory", memory)
    assert (code, verified["checked"], verified["failed"]) == (0, 2, [])
    _, said = run_json("generate", graph, "--memory", memory, "--prompt", EDITS[1]["prompt"])
    assert said["text"].strip() == "Paris yen"
    rest = ("--memory", memory, "--edits", edits)
    _, onnx = run_json("eval", graph, *rest)
    _, torch = run_json("eval", "--model", t5_dir, *rest)
    assert onnx == torch
    assert onnx["free"]["reliability"] == 1
