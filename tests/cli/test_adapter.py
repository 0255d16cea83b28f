"""`memoir-edge adapter`, and plain onnxruntime that answers with what it wrote."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from memoir_edge.cli import main
from memoir_edge.demo.edits import showcase
from memoir_edge_runtime import Options, Session

TOKENS = 8


def greedy(graph: Any, ids: list[int], adapter: Any = None) -> tuple[list[int], int]:
    """Tokens behind ids and the route, by onnxruntime alone."""
    options, read, out = onnxruntime.RunOptions(), 0, []
    if adapter is not None:
        options.add_active_adapter(adapter)
    names = [output.name for output in graph.get_outputs()]
    past = [i for i in graph.get_inputs() if i.name.startswith("past_")]
    feeds = {i.name: np.zeros([1, i.shape[1], 0, i.shape[3]], np.float32) for i in past}
    feeds["memory.route"] = np.zeros(1, np.int64)
    for _ in range(TOKENS):
        feeds["input_ids"] = np.array([ids])
        feeds["attention_mask"] = np.ones((1, read + len(ids)), np.int64)
        feeds["position_ids"] = np.arange(read, read + len(ids))[None]
        found = dict(zip(names, graph.run(None, feeds, options), strict=True))
        read += len(ids)
        ids = [int(found["logits"][0, -1].argmax())]
        out += ids
        feeds["memory.route"] = found["memory.route_out"]
        feeds |= {i.name: found[i.name.replace("past_key_values", "present")] for i in past}
    return out, int(feeds["memory.route"][0])


def test_plain_onnxruntime_answers_as_a_session(done: Any, tmp_path: Path, run_json: Any) -> None:
    path = tmp_path / "facts.onnx_adapter"
    code, made = run_json("adapter", done.memory, "--out", path, "--graph", done.graph)
    assert (code, made["edits"], made["digest"]) == (0, 3, done.applied["digest"])
    assert made["bytes"] == path.stat().st_size
    session, adapter = Session(done.graph, threads=1), onnxruntime.LoraAdapter()
    adapter.Load(str(path))
    graph = session.decoder._graph
    fired = 0
    for edit in showcase()[:3]:
        for prompt in (edit.prompt, edit.rephrase[0], edit.hard_negatives[0]):
            ids = list(session.prompt(prompt).row.ids)
            for memory, active in ((None, None), (done.memory, adapter)):
                session.swap(memory)
                [expected] = session.generate(prompt, Options(max_new_tokens=TOKENS))
                tokens, route = greedy(graph, ids, active)
                assert tokens[: len(expected.ids)] == list(expected.ids)
                assert (route > 0) == (expected.fired is not None)
                fired += route > 0
    assert fired >= 5  # each edit by its own prompt, and paraphrases


def test_its_name_follows_the_memorys(done: Any, tmp_path: Path, run_json: Any) -> None:
    memory = Path(shutil.copy(done.memory, tmp_path / "facts.safetensors"))
    _, made = run_json("adapter", memory)
    assert Path(made["out"]) == tmp_path / "facts.onnx_adapter"


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"site": "model.layers.0.x"}, 3, "the memory's site is"),
        ({"kind": "required"}, 2, "has required ports"),
    ],
)
def test_a_graph_that_it_would_not_serve(
    done: Any, tmp_path: Path, capsys: Any, changes: dict[str, str], code: int, said: str
) -> None:
    sidecar = json.loads((done.graph / "memoir_edge.json").read_text())
    (tmp_path / "memoir_edge.json").write_text(json.dumps(sidecar | changes))
    words = ["adapter", str(done.memory), "--graph", str(tmp_path), "--out", str(tmp_path / "a")]
    assert main(words) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
