"""One run of the commands on the demo model that the tests of this folder look at."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memoir_edge import memory as memories
from memoir_edge.cli import main
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.memory import Codes, Entry, Memory
from memoir_edge.memory import Router as Bound
from memoir_edge.router.encoder import Encoder


@dataclass(frozen=True)
class Done:
    """Three edits applied, the model exported."""

    edits: Path
    memory: Path
    graph: Path
    applied: dict[str, Any]


RunJson = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run_json(capsys: pytest.CaptureFixture[str]) -> RunJson:
    """A command's exit code and its JSON document, the only thing on standard output."""

    def run(*words: object) -> tuple[int, dict[str, Any]]:
        code = main([*map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("done")
    edits, memory, graph = (folder / name for name in ("edits.jsonl", "m.safetensors", "onnx"))
    lines = [json.dumps(edit.full_record()) for edit in showcase()[:3]]
    edits.write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda text, **rest: printed.append(text))
        assert main(["apply", str(edits), "--model", str(model_dir()), "--out", str(memory),
                     "--steps", "40", "--json"]) == 0  # fmt: skip
        assert main(["export", "--model", str(model_dir()), "--out", str(graph), "--json"]) == 0
    return Done(edits, memory, graph, json.loads(printed[0]))


def _coded(memory: Memory, encoder: Encoder) -> Memory:
    """The same edits, with the codes of their prompts as keys and a guard beside each."""
    edits = showcase()[:3]
    keys = [text for e in edits for text in (e.prompt, e.hard_negatives[0])]
    rows = {entry.id: memory.bank[[entry.row]] for entry in memory.edits}
    masks = np.concatenate([rows[e.id] for e in edits])
    codes = Codes(
        router=Bound("encoder", encoder.digest, encoder.bits, encoder.weight),
        keys=encoder.codes(keys),
        owner=np.array([row for i in range(len(edits)) for row in (i, -1)], np.int32),
        thresholds=np.full(len(keys), 0.9, np.float32),
        texts=tuple(keys),
    )
    entries = tuple(Entry(e.id, i) for i, e in enumerate(edits))
    return replace(memory, codes=codes, edits=entries, probes=(), **memories.by_codes(masks))


@pytest.fixture(scope="session")
def coded() -> Callable[[Memory, Encoder], Memory]:
    """Makes of the memory of `done` one that an encoder routes."""
    return _coded
