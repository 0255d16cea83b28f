"""One run of the commands on the demo model that the tests of this folder look at."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memoir_edge.cli import main
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir


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
