"""What a token costs on a graph of genai's builder: here, in genai's loop, beside llama.cpp.

    python tools/bench_hosts.py [--streams 1] [--rounds 3] [--tokens 128] [--answers N]
                                [--genai PYTHON] [--llama FOLDER] [--folder DIR] [WAY ...]

SmolLM2-135M in four bits, one thread. Each round runs every way in a process of its own:

    genai             onnxruntime-genai's generator, on the graph without ports
    genai, ports      the same on `memoir-edge package genai`, without an adapter
    genai, memory     with a memory as adapter that fires on the prompts
    Session           `memoir_edge_runtime.Session`, without a memory
    Session, memory   with that memory
    serve, memory     `memoir-edge serve` with that memory, an HTTP stream for each prompt
    llama.cpp         node-llama-cpp on the model's Q4_1 file, a sequence for each prompt
    optimum           ORTModelForCausalLM on the graph without ports

The prompts of the streams have several lengths, and all answers --tokens tokens. With --answers,
each stream writes N answers, from a quarter to seven quarters as long, as answers do that end where
the model ends them. A server and llama.cpp begin a stream's next answer when its last one has
ended; a batch of the others ends with its longest answer, and only what was wanted of it counts.

Medians of tokens a second, CPU time a token and resident memory, and of each round's ratio to the
first way. The memory is random: this measures cost, not answers. --genai is the Python of an
environment with onnxruntime-genai, --llama a folder where `npm install node-llama-cpp` was run;
without one, llama.cpp is left out, which is said. The last line is one JSON document.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
LLAMA = Path(__file__).with_name("bench_llama.mjs")
PROMPT = "Once upon a time in a small village by the sea there lived an old fisherman who"
NAME = "memory"
FIGURES = ("tokens a second", "CPU ms a token", "resident MB")
Figures = dict[str, float]
Write = Callable[[list[int]], None]  # write answers of so many tokens each


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("ways", nargs="*", metavar="WAY")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer, on average")
    parser.add_argument("--answers", type=int, default=0, help="a stream, of several lengths")
    parser.add_argument("--genai", type=Path, default=ROOT / ".venv-transformers5/bin/python")
    parser.add_argument("--llama", type=Path, default=ROOT / "js")
    parser.add_argument("--folder", type=Path, help="where what is made is kept, and found again")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(worker(given)))
        return
    every = (*WAYS, LLAMA_CPP)
    ways = [way for way in every if way in (given.ways or every)]
    if LLAMA_CPP in ways and not (shutil.which("node") and _llama_cpp(given.llama).exists()):
        print(f"llama.cpp is left out: no node, or no node-llama-cpp in {given.llama}")
        ways.remove(LLAMA_CPP)
    with tempfile.TemporaryDirectory() as name:
        given.folder = (given.folder or Path(name)).resolve()
        make(given.folder, given.genai)
        rounds = [{way: _apart(way, given) for way in ways} for _ in range(given.rounds)]
    show(rounds)
    print(json.dumps({"streams": given.streams, "answers": given.answers, "rounds": rounds}))


def prompts(streams: int) -> list[str]:
    """Prompts of five lengths from 5 to 17 words."""
    words = PROMPT.split()
    return [" ".join(words[: len(words) - 3 * (i % 5)]) for i in range(streams)]


def lengths(given: argparse.Namespace) -> list[int]:
    """Tokens of each answer that is wanted; the same for every way."""
    if not given.answers:
        return [given.tokens] * given.streams
    drawn = random.Random(0)
    shortest, longest = given.tokens // 4, 7 * given.tokens // 4
    return [drawn.randint(shortest, longest) for _ in range(given.answers * given.streams)]


def longest_of_batches(wanted: list[int], streams: int) -> list[int]:
    """How long a batch of answers takes that goes on until the last has ended."""
    return [max(wanted[first : first + streams]) for first in range(0, len(wanted), streams)]


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
    shutil.copy(model / "config.json", folder / "bare")  # for optimum
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


def _apart(way: str, given: argparse.Namespace) -> Figures:
    if way == LLAMA_CPP:
        from memoir_edge.demo import models

        asked = json.dumps({"model": str(models.path("smollm2")), "lengths": lengths(given),
                            "prompts": prompts(given.streams)})  # fmt: skip
        return _figures(_run(Path("node"), str(LLAMA), str(_llama_cpp(given.llama)), asked))
    python = given.genai if way.startswith("genai") else Path(sys.executable)
    words = ["--worker", way, "--folder", given.folder, "--tokens", given.tokens]
    words += ["--streams", given.streams, "--answers", given.answers]
    return _figures(_run(python, __file__, *map(str, words)))


def _figures(printed: str) -> Figures:
    found: Figures = json.loads(printed.splitlines()[-1])
    return found


def _llama_cpp(folder: Path) -> Path:
    return folder.resolve() / "node_modules/node-llama-cpp/dist/index.js"


def _run(python: Path, *words: str) -> str:
    packages = os.pathsep.join(str(ROOT / part) for part in (".", "exporter", "runtime"))
    env = os.environ | {"PYTHONPATH": packages, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(python), *words], capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def worker(given: argparse.Namespace) -> Figures:
    """The figures of one way, after a short run to warm up."""
    with WAYS[given.worker](given.folder, prompts(given.streams)) as (write, pid):
        write([8] * given.streams)
        wall, cpu = time.perf_counter(), _cpu(pid)
        write(lengths(given))
        wall, cpu = time.perf_counter() - wall, _cpu(pid) - cpu
        status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line)
    written = sum(lengths(given))
    return dict(zip(FIGURES, (written / wall, 1000 * cpu / written, resident / 1024), strict=True))


def _cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    if pid == os.getpid():
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Way = Iterator[tuple[Write, int]]  # how it writes, and the process that does


@contextmanager
def _session(folder: Path, asked: list[str], *, memory: bool) -> Way:
    from memoir_edge_runtime import Options, Session

    held = folder / f"{NAME}.safetensors" if memory else None
    session = Session(folder / "onnx", memory=held, threads=1, max_batch=len(asked))

    def write(wanted: list[int]) -> None:
        for count in longest_of_batches(wanted, len(asked)):
            for result in session.generate(asked, Options(count, ignore_eos=True)):
                assert len(result.ids) == count
                assert (result.fired is not None) == memory

    yield write, os.getpid()


@contextmanager
def _serve(folder: Path, asked: list[str]) -> Way:
    from served import listening, streamed

    words = ["serve", folder / "onnx", "--port", 0, "--threads", 1]
    words += ["--memory", folder / f"{NAME}.safetensors", "--max-new-tokens", 4096]
    with listening(words, folder) as served:

        async def stream(prompt: str, left: Iterator[int]) -> None:
            for count in left:
                one = {"prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True}
                async for _ in streamed(served.url, one):
                    pass

        async def every(wanted: list[int]) -> None:
            left = iter(wanted)  # each stream takes the next when its last has ended
            await asyncio.gather(*(stream(prompt, left) for prompt in asked))

        yield lambda wanted: asyncio.run(every(wanted)), served.pid


@contextmanager
def _genai(folder: Path, asked: list[str], *, ports: bool = False, memory: bool = False) -> Way:
    import onnxruntime_genai as og

    place = folder / ("package" if ports else "bare")
    config = og.Config(str(place))
    options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}
    config.overlay(json.dumps(options))
    model = og.Model(config)
    tokenizer, adapters = og.Tokenizer(model), og.Adapters(model)
    if memory:
        adapters.load(str(place / f"{NAME}.onnx_adapter"), NAME)

    def write(wanted: list[int]) -> None:
        for count in longest_of_batches(wanted, len(asked)):
            batch(count)

    def batch(count: int) -> None:
        ids, params = tokenizer.encode_batch(asked), og.GeneratorParams(model)
        length = ids.shape()[1] + count
        params.set_search_options(
            max_length=length, min_length=length, do_sample=False, batch_size=len(asked)
        )
        generator = og.Generator(model, params)
        if memory:
            generator.set_active_adapter(adapters, NAME)
        generator.append_tokens(ids)
        for _ in range(count):
            generator.generate_next_token()

    yield write, os.getpid()


@contextmanager
def _optimum(folder: Path, asked: list[str]) -> Way:
    import onnxruntime as ort
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import PreTrainedTokenizerFast

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = ORTModelForCausalLM.from_pretrained(folder / "bare", session_options=options)
    file = str(folder / "bare/tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=file, padding_side="left", pad_token="<|im_end|>"
    )

    def write(wanted: list[int]) -> None:
        for count in longest_of_batches(wanted, len(asked)):
            batch = tokenizer(asked, return_tensors="pt", padding=True, return_token_type_ids=False)
            model.generate(**batch, do_sample=False, min_new_tokens=count, max_new_tokens=count)

    yield write, os.getpid()


WAYS: dict[str, Callable[[Path, list[str]], AbstractContextManager[tuple[Write, int]]]] = {
    "genai": _genai,
    "genai, ports": partial(_genai, ports=True),
    "genai, memory": partial(_genai, ports=True, memory=True),
    "Session": partial(_session, memory=False),
    "Session, memory": partial(_session, memory=True),
    "serve, memory": _serve,
    "optimum": _optimum,
}
LLAMA_CPP = "llama.cpp"  # runs under node


def show(rounds: list[dict[str, Figures]]) -> None:
    """The table for people."""
    from rich.console import Console
    from rich.table import Table

    first, *_ = rounds[0]
    table = Table("way", *FIGURES, f"CPU to {first}'s", f"speed to {first}'s")
    for way in rounds[0]:
        each = [found[way] for found in rounds]
        ratios = [
            [found[way][name] / found[first][name] for found in rounds]
            for name in (FIGURES[1], FIGURES[0])
        ]
        cells = [f"{statistics.median(e[name] for e in each):.1f}" for name in FIGURES]
        table.add_row(way, *cells, *(f"{statistics.median(ratio):.2f}" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
