"""The examples in the docstrings give what they say.

They run in a folder that holds `model`, the demo model; `onnx`, its export; `facts.safetensors`, a
memory of one edit of it. `base` is that model in PyTorch, `edits` the edit, and `choose` is the
function of that name.
"""

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest

from memoir_edge.demo.edits import showcase
from memoir_edge.editor import Editor, choose, load
from memoir_edge.memory import write
from memoir_edge_exporter import export

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "memoir_edge", *ROOT.glob("*/memoir_edge_*"))
SHOWN = [
    ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in sorted(package.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, demo_dir: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("examples")
    (folder / "model").symlink_to(demo_dir)
    base, edits = load(str(folder / "model"), device="cpu"), showcase()[:1]
    editor = Editor(base, choose(base))
    editor.apply(edits)
    write(editor.memory(), folder / "facts.safetensors")
    export(model=folder / "model", out=folder / "onnx")
    return folder, {"base": base, "edits": edits, "choose": choose}


@pytest.mark.parametrize("name", SHOWN)
def test_examples(
    name: str, world: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, names = world
    monkeypatch.chdir(folder)
    module = importlib.import_module(name)
    found = doctest.testmod(module, globs=names | vars(module))
    assert found.attempted
    assert not found.failed
