"""Which hosts answer edited on which graphs: ten edits of the demo model, asked everywhere.

    python tools/host_matrix.py [--genai PYTHON] [--folder DIR] [--markdown FILE]

Rows are graphs of the demo model, columns are hosts. A cell says how many of the edits' prompts and
of their paraphrases get the edit's target, and how many near misses answer as the same host does
without the memory. A cell that could not be filled says why. --genai is the Python of an
environment with onnxruntime-genai (the Makefile makes one: .venv-transformers5). The last line is
one JSON document.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import javascript
import stock_hosts
from rich.console import Console
from rich.table import Table
from served import Made, serving

from memoir_edge.cli import main as command
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import quiet
from memoir_edge_exporter import package_genai
from memoir_edge_runtime import Options, Session

TOKENS, TOGETHER = 10, 8
TITLE = "edits, paraphrases, near misses as the base"
EDITS = showcase()
PROMPTS = [edit.prompt for edit in EDITS]
PARAPHRASES = [(text, edit.target) for edit in EDITS for text in edit.rephrase]
NEAR = [text for edit in EDITS for text in edit.hard_negatives]
ASKED = [*PROMPTS, *(text for text, _ in PARAPHRASES), *NEAR]
ROOT = Path(__file__).parents[1]


class CannotError(Exception):
    """Why a cell stays empty."""


@dataclass(frozen=True)
class Place:
    """Where one row's cells are measured."""

    graph: Path  # an export directory
    memory: Path
    genai: Path | None  # a Python with onnxruntime-genai


Answers = dict[str, str]  # by prompt, stripped
Host = Callable[[Place, bool], Answers]  # with the memory, or without


@dataclass(frozen=True)
class Cell:
    """What came of one graph on one host; `reason` where nothing did."""

    edits: int = 0
    paraphrases: int = 0
    near_misses: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        found = (self.edits, PROMPTS), (self.paraphrases, PARAPHRASES), (self.near_misses, NEAR)
        return ", ".join(f"{count}/{len(every)}" for count, every in found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--genai", type=Path, default=ROOT / ".venv-transformers5/bin/python")
    parser.add_argument("--folder", type=Path, help="where what is made is kept, and found again")
    parser.add_argument("--markdown", type=Path, help="write the table there as well")
    parser.add_argument("--host", action="append", choices=HOSTS, help="ask only this; repeatable")
    given = parser.parse_args()
    quiet()
    genai = given.genai if _has_genai(given.genai) else None
    with tempfile.TemporaryDirectory() as name:
        folder = (given.folder or Path(name)).resolve()
        memory = _memory(folder)
        cells = {
            row: {
                host: _cell(make, folder / row.replace(" ", "-"), memory, genai, host)
                for host in given.host or HOSTS
            }
            for row, make in ROWS.items()
        }
    show(cells)
    if given.markdown:
        given.markdown.write_text(markdown(cells), encoding="utf-8")
    print(json.dumps({row: {h: asdict(c) for h, c in each.items()} for row, each in cells.items()}))


def _cell(make: "Make", graph: Path, memory: Path, genai: Path | None, host: str) -> Cell:
    try:
        if not graph.exists():
            make(graph, genai)
        place = Place(graph, memory, genai)
        edited, base = HOSTS[host](place, True), HOSTS[host](place, False)
    except CannotError as error:
        return Cell(reason=str(error))
    return Cell(
        edits=sum(edited[edit.prompt] == edit.target for edit in EDITS),
        paraphrases=sum(edited[text] == target for text, target in PARAPHRASES),
        near_misses=sum(edited[text] == base[text] for text in NEAR),
    )


def show(cells: dict[str, dict[str, Cell]]) -> None:
    """The table for people."""
    table = Table(
        "graph", *next(iter(cells.values())), title="edits, paraphrases, near misses as the base"
    )
    for row, each in cells.items():
        table.add_row(row, *map(str, each.values()))
    Console().print(table)


def markdown(cells: dict[str, dict[str, Cell]]) -> str:
    """The table as docs/hosts.md has it."""
    hosts = list(next(iter(cells.values())))
    lines = [f"| graph | {' | '.join(hosts)} |", f"|{'---|' * (len(hosts) + 1)}"]
    lines += [f"| {row} | {' | '.join(map(str, each.values()))} |" for row, each in cells.items()]
    return "\n".join(lines) + "\n"


# --- Rows ----------------------------------------------------------------------------------------

Make = Callable[[Path, Path | None], None]


def _ours(dtype: str) -> Make:
    def make(out: Path, _: Path | None) -> None:
        _run("export", "--model", model_dir(), "--dtype", dtype, "--out", out)

    return make


def _builders(dtype: str) -> Make:
    def make(out: Path, genai: Path | None) -> None:
        words = ["-m", "memoir_edge", "export", "--model", model_dir(), "--builder", "genai"]
        _elsewhere(genai, *words, "--dtype", dtype, "--out", out)

    return make


ROWS: dict[str, Make] = {f"ours {dtype}": _ours(dtype) for dtype in ("fp32", "int8", "int4")}
ROWS |= {f"genai {dtype}": _builders(dtype) for dtype in ("fp32", "int4")}


def _memory(folder: Path) -> Path:
    """The ten edits, applied as a user does."""
    edits, memory = folder / "edits.jsonl", folder / "facts.safetensors"
    if not memory.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(edit.full_record()) for edit in EDITS]
        edits.write_text("\n".join(lines), encoding="utf-8")
        _run("apply", edits, "--model", model_dir(), "--out", memory)
    return memory


def _run(*words: object) -> None:
    if command([*map(str, words), "--quiet"]):
        raise SystemExit(f"memoir-edge {words[0]} failed")


# --- Hosts ---------------------------------------------------------------------------------------


def session(together: int) -> Host:
    """`Session`, so many prompts at a time."""

    def ask(place: Place, edited: bool) -> Answers:
        opened = Session(place.graph, memory=place.memory if edited else None, threads=1)
        return {
            result.prompt: result.text.strip()
            for i in range(0, len(ASKED), together)
            for result in opened.generate(ASKED[i : i + together], Options(TOKENS))
        }

    return ask


def server(place: Place, edited: bool) -> Answers:
    """`memoir-edge serve`, prompts of a request answered together."""
    other = shutil.copy(place.memory, place.memory.with_name("other.safetensors"))
    made = Made(place.graph, place.memory, Path(other), EDITS)
    with serving(made, threads=1) as served:
        model = f"base@{place.memory.stem}" if edited else "base"
        return dict(_served(f"{served.url}/v1/completions", model))


def _served(url: str, model: str) -> Iterator[tuple[str, str]]:
    for i in range(0, len(ASKED), TOGETHER):
        prompts = ASKED[i : i + TOGETHER]
        body = {"model": model, "prompt": prompts, "max_tokens": TOKENS, "temperature": 0}
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as reply:
            choices = json.load(reply)["choices"]
        yield from ((prompts[c["index"]], c["text"].strip()) for c in choices)


def genai_loop(place: Place, edited: bool) -> Answers:
    """onnxruntime-genai's own generator on `memoir-edge package genai`."""
    with tempfile.TemporaryDirectory() as name:
        made = package_genai(place.graph, Path(name) / "package", memory=[place.memory])
        adapter = place.memory.stem if edited else None
        jobs = [
            {"turns": [[text]], "adapter": adapter, "tokens": TOKENS, "begin": made.begin}
            for text in ASKED
        ]
        said = _elsewhere(
            place.genai, ROOT / "tools/genai_loop.py", Path(name) / "package", json.dumps(jobs)
        )
    tokenizer = Session(place.graph, threads=1).language
    ids = [turns[0][0] for turns in json.loads(said)]
    kept = [[i for i in answer if i not in tokenizer.silent] for answer in ids]
    return {
        text: tokenizer.tokenizer.decode(a).strip() for text, a in zip(ASKED, kept, strict=True)
    }


def stock(ask: stock_hosts.Ask) -> Host:
    """A host that knows nothing of memories, by the package made for it."""

    def answer(place: Place, edited: bool) -> Answers:
        try:
            said = ask(place.graph, place.memory if edited else None, ASKED, TOKENS)
        except javascript.UnavailableError as error:
            raise CannotError(str(error)) from error
        return dict(zip(ASKED, said, strict=True))

    return answer


HOSTS: dict[str, Host] = {
    "Session, alone": session(1),
    f"Session, batch of {TOGETHER}": session(TOGETHER),
    "server": server,
    "genai's loop": genai_loop,
    "ORTModelForCausalLM": stock(stock_hosts.optimum),
    "onnxruntime-node": stock(stock_hosts.node),
    "Chromium": stock(stock_hosts.chromium),
}


# --- The other environment -----------------------------------------------------------------------


def _has_genai(python: Path) -> bool:
    check = [str(python), "-c", "import onnxruntime_genai"]
    return (
        python.is_file() and not subprocess.run(check, capture_output=True, check=False).returncode
    )


def _elsewhere(python: Path | None, *words: object) -> str:
    """What a program prints in the environment with onnxruntime-genai."""
    if python is None:
        raise CannotError("no environment with onnxruntime-genai: --genai PYTHON")
    packages = os.pathsep.join(str(ROOT / part) for part in (".", "exporter", "runtime"))
    done = subprocess.run(
        [str(python), *map(str, words)], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": packages},
    )  # fmt: skip
    if done.returncode:
        raise CannotError(done.stderr.strip().splitlines()[-1])
    return done.stdout


if __name__ == "__main__":
    main()
