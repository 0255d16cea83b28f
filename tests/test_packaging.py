"""The three distributions: their wheels share no file, and only the editor knows torch."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "onnx", "onnxscript", "onnx_ir", "optimum"}
LIGHT = [
    *(p for p in (ROOT / "memoir_edge").rglob("*.py") if p.parent.name != "editor"),
    *(ROOT / "runtime").rglob("*.py"),
]


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: str(path.relative_to(ROOT)))
def test_light_modules_import_nothing_heavy(path: Path) -> None:
    found = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert not found & HEAVY


@pytest.mark.slow
def test_wheels_share_no_file(tmp_path: Path) -> None:
    held: dict[str, str] = {}
    for project in (".", "exporter", "runtime"):
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path),
             str(ROOT / project)],
            check=True, capture_output=True,
        )  # fmt: skip
    wheels = sorted(tmp_path.glob("*.whl"))
    assert len(wheels) == 3
    for wheel in wheels:
        for name in zipfile.ZipFile(wheel).namelist():
            assert name not in held, f"{name} is in {held[name]} and {wheel.name}"
            held[name] = wheel.name
    for needed in ("model/model.safetensors", "data/countries.tsv"):
        assert held[f"memoir_edge/demo/{needed}"].startswith("memoir_edge-")
    assert "memoir_edge/unrelated.txt" in held
    assert "memoir_edge/report/templates/report.html" in held
    assert "memoir_edge/studio/page/studio.js" in held
    assert "memoir_edge_runtime/serve/console/main.js" in held
