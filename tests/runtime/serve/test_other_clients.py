"""Clients as they are: their ordinary calls, each from a process of its own in their environment.

`make clients` makes that environment, and MEMOIR_EDGE_CLIENTS names another folder for it.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CALLS = Path(__file__).parent / "clients"
ROOT = Path(__file__).parents[3]
ENVIRONMENT = Path(os.environ.get("MEMOIR_EDGE_CLIENTS", ROOT / ".clients"))
PYTHON = ENVIRONMENT / "bin/python"
pytestmark = pytest.mark.slow


def _ask(*command: object) -> None:
    done = subprocess.run(
        [*map(str, command)],
        env=os.environ | {"MEMOIR_EDGE_CLIENTS": str(ENVIRONMENT), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout.endswith("done\n"), done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize(
    ("package", "calls"),
    [
        ("openai", "openai_calls.py"),
        ("litellm", "litellm_calls.py"),
        ("langchain_openai", "langchain_calls.py"),
        ("lm_eval", "lm_eval_calls.py"),
    ],
)
def test_python(make_server, export_dir, package, calls):
    if not list(ENVIRONMENT.glob(f"lib/*/site-packages/{package}")):
        pytest.skip(f"{package} is not in {ENVIRONMENT}; make clients puts it there")
    _ask(PYTHON, CALLS / calls, make_server().url, export_dir)


def test_javascript(make_server):
    if not (ENVIRONMENT / "node_modules/openai").is_dir() or shutil.which("node") is None:
        pytest.skip(f"no node, or no openai in {ENVIRONMENT}; make clients puts it there")
    _ask("node", CALLS / "openai_calls.mjs", make_server().url)


def test_the_page_names_the_versions():
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    pins = re.findall(
        r"^([\w-]+)(?:\[.*\])?==(.*)$", (CALLS / "requirements.txt").read_text(), re.M
    )
    wanted = json.loads((CALLS / "package.json").read_text())["dependencies"]
    named = {"openai": "openai, Python", "lm-eval": "lm-evaluation-harness"}
    expected = {named.get(name, name): version for name, version in pins if name != "transformers"}
    expected |= {f"{name}, JavaScript": version for name, version in wanted.items()}
    found = re.findall(r"^\| ([^|]+) \| (\d+\.[\d.]+) \|", page, re.M)
    assert dict(found) == expected
