"""Rewrite the parts of README.md and docs/ that the program itself says; `make docs`.

    python tools/readme.py            rewrite all parts
    python tools/readme.py --fast     only those that need no model: tree and command help

A part stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. tests/test_docs.py compares
the fast parts with what this script would write, and the answers of the demo with the facts;
tests/cli/test_serving_docs.py runs the clients' examples.
"""

import ast
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).parents[1]
WIDTH = "100"
SHOWN = 4  # edits of the demo that the README shows
PACKAGES = ("memoir_edge", "exporter/memoir_edge_exporter", "runtime/memoir_edge_runtime")
SOURCES = (
    (
        "runtime/ops/",
        "The custom-op library: both ops natively, in C++.",
        (".cpp", ".cu", ".h"),
    ),
    ("js/src/", "The npm package: memories under node and in a browser.", (".js",)),
)
REST = {
    "tools": "benchmarks and experiments: each prints a table, its last line is one JSON document",
    "tests": "mirror the packages",
    "docs": "words, memory format, journal, ports, ops, editor, routing, serving, and more",
}


def tree() -> str:
    """Every folder and module of the packages, with what its docstring's first line says."""
    lines = [line for package in PACKAGES for line in _folder(ROOT / package, package, depth=0)]
    for folder, what, suffixes in SOURCES:
        lines += _sources(folder, what, suffixes)
    lines += [f"{f'{name}/':32}{note}" for name, note in REST.items()]
    return "```\n" + "\n".join(lines) + "\n```"


def _folder(folder: Path, name: str, depth: int) -> list[str]:
    lines = [_line(f"{name}/", folder / "__init__.py", depth)]
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("__"):
            lines.append(_line(path.name, path, depth + 1))
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").exists():
            lines += _folder(path, path.name, depth + 1)
    return lines


def _line(name: str, path: Path, depth: int) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return f"{'  ' * depth + name:32}{docstring.splitlines()[0]}"


def register() -> str:
    """How other programs use the native ops."""
    from memoir_edge_exporter._readme import REGISTER

    return REGISTER.rstrip()


def _sources(folder: str, what: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files in C++ or JavaScript with their first sentence, but those that only point elsewhere."""
    lines = [f"{folder:32}{what}"]
    for path in sorted(p for p in (ROOT / folder).iterdir() if p.suffix in suffixes):
        text = path.read_text(encoding="utf-8").splitlines()
        comment = [*takewhile(lambda line: line.startswith("// "), text)]
        first, _, _ = " ".join(line.removeprefix("// ") for line in comment).partition(". ")
        if comment and not first.startswith("See "):
            lines.append(f"{'  ' + path.name:32}{first.removesuffix('.')}.")
    return lines


def commands() -> str:
    """The help of every command, as the program prints it."""
    from memoir_edge.cli import COMMANDS, app

    parts = []
    for name in COMMANDS:
        printed = io.StringIO()
        console = Console(file=printed, width=int(WIDTH), color_system=None)
        app([name, "--help"], console=console, result_action="return_value")
        text = "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())
        parts.append(f"## memoir-edge {name}\n\n```\n{text}\n```")
    return "\n\n".join(parts)


def demo() -> str:
    """What `memoir-edge demo` prints, shortened to the first edits, and saying so."""
    lines = [line.rstrip() for line in _run("demo").splitlines()]
    blanks = [i for i, line in enumerate(lines) if not line]
    start = next(i for i, line in enumerate(lines) if "───" in line)
    groups = [i for i in blanks if i > start]
    first, last = groups[SHOWN - 1], groups[-1]
    shown = [*lines[:first], "", f"  ... {len(groups) - SHOWN} more edits", *lines[last:]]
    return "```\n" + "\n".join(shown) + "\n```"


def evaluation() -> str:
    """`memoir-edge eval` of 48 edits of SmolLM2 that an encoder routes, on the exported graph."""
    from world import relations_of, with_unrelated, world

    from memoir_edge.demo.models import path

    model, encoder = path("smollm2"), path("minilm")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = with_unrelated(world(relations_of("present"), 48, seed=0))
        lines = [json.dumps(edit.full_record()) for edit in asked]
        (folder / "edits.jsonl").write_text("\n".join(lines))
        edits, memory, graph = folder / "edits.jsonl", folder / "m.safetensors", folder / "onnx"
        given = ("--model", model, "--encoder", encoder)
        _run("apply", edits, *given, "--out", memory, may_fail=True)  # an edit may not hold
        _run("export", *given, "--out", graph)
        text = _run("eval", graph, "--memory", memory, "--edits", edits)
    printed = "\n".join(line.rstrip() for line in text.splitlines()).strip()
    return f"```\nSmolLM2-135M-Instruct: {printed}\n```"


# More edits, and the methods that train on all rows, take a day.
PEERS = ("--edits", "10", "--memories", "1", "--methods",
         "memoir-edge,lora,tuning,in-context,grace,paper")  # fmt: skip


def peers() -> str:
    """`tools/compare_editors.py`, whose rows are kept in the cache; half an hour at first."""
    from memoir_edge.cache import folder

    command = [sys.executable, ROOT / "tools/compare_editors.py", "--out", folder() / "compare"]
    text = subprocess.run([*command, *PEERS], stdout=subprocess.PIPE, text=True, check=True).stdout
    return compared(json.loads(text.splitlines()[-1])["rows"])


def compared(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `tools/compare_editors.py`, and the command that made them."""
    heads = ("data", "method", "prompts", "rephrasings", "rephrasings that begin so",
             "unrelated prompts unchanged", "hard negatives changed", "forced: prompts",
             "forced: rephrasings", "CPU s an edit", "MB")  # fmt: skip
    lines = [
        f"`python tools/compare_editors.py --out FOLDER {' '.join(PEERS)}`:\n",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for row in rows:
        free, forced = row["free"], row["teacher_forced"]
        figures = (free["reliability"], free["generalization"], row["begins"]["generalization"],
                   free["locality"], free["hard_negatives_changed"], forced["reliability"],
                   forced["generalization"])  # fmt: skip
        shares = [f"{figure:.2f}" for figure in figures]
        cost = [f"{row['cpu_seconds_per_edit']:.1f}", f"{row['bytes'] / 1e6:.2f}"]
        lines.append(" | ".join(["", row["dataset"], row["method"], *shares, *cost, ""]).strip())
    return "\n".join(lines)


SERVING = ROOT / "docs/serving.md"
INTERPRETERS = {
    "python": [sys.executable, "-c"],
    "bash": ["bash", "-c"],
    "javascript": ["node", "--input-type=module", "-e"],
}
_ADDRESS = "http://127.0.0.1:8000"  # in the examples
# What differs from run to run or from memory to memory, overlaps in sentences included.
_VOLATILE = re.compile(r'("(?:id|created|digest|threshold|overlap)"): .*?(,?)$', re.MULTILINE)
_OVERLAP = re.compile(r"\b[01]\.\d{3}\b")


def example(language: str, address: str) -> str:
    """What a client's example in docs/serving.md prints, asking the server at an address."""
    page = SERVING.read_text(encoding="utf-8")
    (code,) = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    command = [*INTERPRETERS[language], code.replace(_ADDRESS, address)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    stable = _OVERLAP.sub("...", _VOLATILE.sub(r"\1: ...\2", printed)).strip()
    return f"```\n{stable}\n```"


@contextmanager
def served(graph: Path, memory: Path) -> Iterator[str]:
    """The address of a server that answers from a memory."""
    from served import listening

    words = ["serve", graph.resolve(), "--memory", memory.resolve(), "--port", 0]
    with tempfile.TemporaryDirectory() as folder, listening(words, Path(folder)) as found:
        yield found.url


@cache
def examples() -> dict[str, str]:
    """What all clients' examples print, on three edits of the demo model."""
    from memoir_edge.demo.edits import showcase
    from memoir_edge.demo.facts import model_dir

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [json.dumps(edit.full_record()) for edit in showcase()[:3]]
        (folder / "edits.jsonl").write_text("\n".join(lines))
        edits, memory, graph = folder / "edits.jsonl", folder / "m.safetensors", folder / "onnx"
        _run("apply", edits, "--model", model_dir(), "--out", memory)
        _run("export", "--model", model_dir(), "--out", graph)
        with served(graph, memory) as address:
            return {language: example(language, address) for language in INTERPRETERS}


def _run(*words: object, may_fail: bool = False) -> str:
    command = [sys.executable, "-m", "memoir_edge", *map(str, words)]
    environment = os.environ | {"COLUMNS": WIDTH}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if not (may_fail and done.returncode == 1):
        done.check_returncode()
    return done.stdout


FAST: dict[str, tuple[str, Callable[[], str]]] = {
    "tree": ("README.md", tree),
    "commands": ("docs/commands.md", commands),
    "register": ("docs/ops.md", register),
}
SLOW: dict[str, tuple[str, Callable[[], str]]] = {
    "demo": ("README.md", demo),
    "evaluation": ("README.md", evaluation),
    "peers": ("docs/editor.md", peers),
    "serving-python": ("docs/serving.md", lambda: examples()["python"]),
    "serving-bash": ("docs/serving.md", lambda: examples()["bash"]),
    "serving-javascript": ("docs/serving.md", lambda: examples()["javascript"]),
}


def replaced(text: str, name: str, part: str) -> str:
    """The text with one part written anew."""
    pattern = rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)"
    new, count = re.subn(pattern, lambda m: f"{m[1]}{part}\n{m[2]}", text, flags=re.DOTALL)
    assert count == 1, f"one part {name!r} expected, found {count}"
    return new


def main() -> None:
    """Rewrite the files."""
    parts = FAST if "--fast" in sys.argv else FAST | SLOW
    for name, (file, write) in parts.items():
        path = ROOT / file
        path.write_text(replaced(path.read_text(encoding="utf-8"), name, write()), encoding="utf-8")
        print(f"{file}: {name}")


if __name__ == "__main__":
    main()
