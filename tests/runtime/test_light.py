"""The runtime alone: what it imports, what it exports, an environment of nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import memoir_edge_runtime
from memoir_edge import memory as memories
from memoir_edge_runtime import Options

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "onnx", "onnxscript", "optimum")
ANSWER = f"""
import importlib.util, json, sys
from memoir_edge_runtime import Options, Session
session = Session(sys.argv[1], memory=sys.argv[2], threads=1)
[result] = session.generate(sys.argv[3], Options(6))
[base] = session.generate(sys.argv[3], Options(6), memory=session.base)
session.render_chat([{{"role": "user", "content": "a"}}])
loaded = [name for name in {HEAVY} if name in sys.modules]
there = [name for name in {HEAVY} if importlib.util.find_spec(name)]
print(json.dumps([result.ids, base.ids, result.fired, loaded, there]))
"""


@pytest.fixture
def asked(session, make_memory, prompts, export_dir, tmp_path):
    """Arguments for the script above, and the answer expected of it."""
    path = tmp_path / "facts.safetensors"
    generation = session.load(memories.write(make_memory(prompts[:3]), path))
    [edited] = session.generate(prompts[0], Options(max_new_tokens=6), memory=generation)
    [base] = session.generate(prompts[0], Options(max_new_tokens=6))
    assert edited.ids != base.ids
    return [str(export_dir), str(path), prompts[0]], [
        list(edited.ids),
        list(base.ids),
        edited.fired,
    ]


def _answer(python: Path | str, arguments: list[str], folder: Path) -> list:
    done = subprocess.run(
        [python, "-W", "error", "-c", ANSWER, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_answering_imports_nothing_heavy(asked, tmp_path):
    arguments, expected = asked
    *found, loaded, _ = _answer(sys.executable, arguments, tmp_path)
    assert found == expected
    assert loaded == []


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_an_environment_with_the_runtime_alone(asked, tmp_path):
    arguments, expected = asked
    wheels, home = tmp_path / "wheels", tmp_path / "alone"
    for project in (ROOT, ROOT / "runtime"):
        built = _run(
            sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, project
        )
        assert built.returncode == 0, built.stdout + built.stderr
    made = _run(sys.executable, "-m", "venv", home)
    assert made.returncode == 0, made.stderr
    python = home / "bin" / "python"
    files = [f"{file}[cpu]" if "runtime" in file.name else str(file) for file in wheels.iterdir()]
    installed = _run(python, "-m", "pip", "install", "--quiet", "--no-warn-script-location", *files)
    if installed.returncode:
        pytest.skip(f"no package index can be reached: {installed.stderr.strip().splitlines()[-1]}")
    *found, loaded, there = _answer(python, arguments, tmp_path)
    assert found == expected
    assert (loaded, there) == ([], [])


def test_public_names_are_sorted_and_all_there_are():
    names = memoir_edge_runtime.__all__
    assert names == sorted(names)
    assert all(hasattr(memoir_edge_runtime, name) for name in names)
    public = {name for name in vars(memoir_edge_runtime) if not name.startswith("_")}
    public -= {"serve"}  # a package of its own, there once another test has imported it
    assert public == set(names)


def test_every_module_says_what_it_knows_nothing_about():
    folder = Path(memoir_edge_runtime.__file__).parent
    silent = {"__init__.py"}
    for file in folder.glob("*.py"):
        opening = file.read_text(encoding="utf-8").split('"""')[1].lower()
        assert file.name in silent or "knows nothing" in opening or "know nothing" in opening, file
