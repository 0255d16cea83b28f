"""What a token costs on a graph of genai's builder: in `Session` and in genai's own loop.

    python tools/bench_hosts.py [--genai PYTHON] [--rounds 3] [--tokens 128] [--folder DIR]

SmolLM2-135M in int4, one stream, one thread. Each round runs every way in a process of its own:

    genai             onnxruntime-genai's generator, on the graph without ports
    genai, ports      the same on `memoir-edge package genai`, without an adapter
    genai, memory     with a memory as adapter that fires on the prompt
    Session           `memoir_edge_runtime.Session`, without a memory
    Session, memory   with that memory

Medians of tokens a second, CPU time a token and resident memory, and of each round's ratio to the
first way. The memory is random: this measures cost, not answers. --genai is the Python of an
environment with onnxruntime-genai. The last line is one JSON document.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMPT = "Once upon a time in a small village by the sea there lived an old fisherman who"
NAME = "memory"
WAYS = ("genai", "genai, ports", "genai, memory", "Session", "Session, memory")
FIGURES = ("tokens a second", "CPU ms a token", "resident MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--genai", type=Path, default=ROOT / ".venv-transformers5/bin/python")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="where what is made is kept, and found again")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(worker(given.worker, given.folder, given.tokens)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = (given.folder or Path(name)).resolve()
        make(folder, given.genai)
        rounds = [
            {way: _apart(way, folder, given.genai, given.tokens) for way in WAYS}
            for _ in range(given.rounds)
        ]
    show(rounds)
    print(json.dumps(rounds))


def make(folder: Path, genai: Path) -> None:
    """The graph with ports, the bare one, the package, and the memory."""
    from memoir_edge import memory as memories
    from memoir_edge import sidecar
    from memoir_edge.base import locate
    from memoir_edge.demo import models
    from memoir_edge_exporter import export, package_genai

    if (folder / "package").exists():
        return
    model = locate(str(models.path("smollm2")))
    builder = ["-m", "onnxruntime_genai.models.builder", "-i", str(model), "-p", "int4"]
    _run(genai, *builder, "-o", str(folder / "bare"), "-e", "cpu", "-c", str(folder / "cache"))
    made = export(onnx_dir=folder / "bare", model=model, out=folder / "onnx").sidecar
    memories.write(_firing(made), folder / f"{NAME}.safetensors")
    package_genai(folder / "onnx", folder / "package", memory=[folder / f"{NAME}.safetensors"])
    assert sidecar.read(folder / "package").kind == "recurrent"


def _firing(made: "sidecar.Sidecar") -> "memories.Memory":  # noqa: F821
    """A memory of sixteen edits that any prompt reaches, of small random changes."""
    import numpy as np

    from memoir_edge import tophash
    from memoir_edge.memory import Base, Entry, from_dense

    rng, R, k = np.random.default_rng(0), 16, 2 * made.D // 7
    masks = np.zeros((R, made.D), bool)
    for row in masks:
        row[rng.permutation(made.D)[:k]] = True
    return from_dense(
        (rng.normal(size=(made.d, made.D)) * 1e-4).astype(np.float32),
        bank=tophash.pack(masks), site=made.site, feature="last", k=k,
        base=Base(made.model_id, made.digest), owner=np.arange(R, dtype=np.int32),
        thresholds=np.zeros(R, np.float32), center=np.zeros(made.D, np.float32),
        scale=np.ones(made.D, np.float32), permutation=np.arange(made.D, dtype=np.int32),
        edits=tuple(Entry(f"edit {row}", row) for row in range(R)),
    )  # fmt: skip


# --- One way, in a process of its own ------------------------------------------------------------


def _apart(way: str, folder: Path, genai: Path, tokens: int) -> dict[str, float]:
    python = genai if way.startswith("genai") else Path(sys.executable)
    words = [__file__, "--worker", way, "--folder", str(folder), "--tokens", str(tokens)]
    found: dict[str, float] = json.loads(_run(python, *words).splitlines()[-1])
    return found


def _run(python: Path, *words: str) -> str:
    packages = os.pathsep.join(str(ROOT / part) for part in (".", "exporter", "runtime"))
    env = os.environ | {"PYTHONPATH": packages, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(python), *words], capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def worker(way: str, folder: Path, tokens: int) -> dict[str, float]:
    """The figures of one way, after a short run to warm up."""
    write = (_genai if way.startswith("genai") else _session)(way, folder)
    write(8)
    wall, cpu = time.perf_counter(), time.process_time()
    write(tokens)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line)
    return dict(zip(FIGURES, (tokens / wall, 1000 * cpu / tokens, resident / 1024), strict=True))


def _session(way: str, folder: Path) -> Callable[[int], None]:
    from memoir_edge_runtime import Options, Session

    memory = folder / f"{NAME}.safetensors" if way.endswith("memory") else None
    session = Session(folder / "onnx", memory=memory, threads=1)

    def write(count: int) -> None:
        [result] = session.generate(PROMPT, Options(count, ignore_eos=True))
        assert len(result.ids) == count
        assert (result.fired is None) == (memory is None)

    return write


def _genai(way: str, folder: Path) -> Callable[[int], None]:
    import onnxruntime_genai as og

    place = folder / ("bare" if way == "genai" else "package")
    config = og.Config(str(place))
    options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}
    config.overlay(json.dumps(options))
    model = og.Model(config)
    tokenizer, adapters = og.Tokenizer(model), og.Adapters(model)
    if way.endswith("memory"):
        adapters.load(str(place / f"{NAME}.onnx_adapter"), NAME)

    def write(count: int) -> None:
        ids, params = tokenizer.encode(PROMPT), og.GeneratorParams(model)
        length = len(ids) + count
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, params)
        if way.endswith("memory"):
            generator.set_active_adapter(adapters, NAME)
        generator.append_tokens(ids)
        for _ in range(count):
            generator.generate_next_token()

    return write


def show(rounds: list[dict[str, dict[str, float]]]) -> None:
    """The table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table("way", *FIGURES, "CPU to genai's", "speed to genai's")
    for way in WAYS:
        each = [found[way] for found in rounds]
        ratios = [
            [found[way][name] / found[WAYS[0]][name] for found in rounds]
            for name in (FIGURES[1], FIGURES[0])
        ]
        cells = [f"{statistics.median(e[name] for e in each):.1f}" for name in FIGURES]
        table.add_row(way, *cells, *(f"{statistics.median(ratio):.2f}" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
