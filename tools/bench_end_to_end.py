"""What an edit, an export and an answer cost, end to end on the demo model.

    python tools/bench_end_to_end.py [--edits 20] [--rounds 100] [--threads 1]

Four cases run round after round, in an order drawn anew each time, so that the machine's drift hits
all alike: the base graph as optimum-onnx exports it, the same graph with empty ports, with a memory
that does not fire, with a memory that fires. Medians, and ratios to the base graph. The last line
is one JSON document.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from memoir_edge import memory as memory_file
from memoir_edge import ports, tophash
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import Editor, choose, load, quiet
from memoir_edge_exporter import export
from memoir_edge_exporter._base_graph import base_graph
from memoir_edge_runtime import Session

STEPS = 16  # tokens of one round
PROMPT = 64  # tokens of its prompt


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime")
    given = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = edit(folder, given.edits) | export_both(folder)
        figures |= answer(folder, given.rounds, given.threads)
    show(figures)
    print(json.dumps(figures))


def edit(folder: Path, count: int) -> dict[str, Any]:
    """Seconds an edit, and the size of the memory."""
    base = load(str(model_dir()), device="cpu")
    editor = Editor(base, choose(base))
    edits = sample(count)
    times, steps = [], []
    for each in edits:
        start = time.perf_counter()
        steps += [change.steps for change in editor.edit([each])]
        times.append(time.perf_counter() - start)
    memory_file.write(editor.memory(), folder / "m.safetensors")
    return {
        "edits": count,
        "seconds_per_edit": statistics.median(times),
        "steps_per_edit": statistics.median(steps),
        "memory_bytes": (folder / "m.safetensors").stat().st_size,
    }


def export_both(folder: Path) -> dict[str, Any]:
    """Seconds of an export, and the sizes of the graph without and with ports."""
    (folder / "base").mkdir()
    base_graph(model_dir(), folder / "base", "fp32")
    start = time.perf_counter()
    made = export(model=model_dir(), out=folder / "onnx")
    return {
        "export_seconds": time.perf_counter() - start,
        "base_graph_bytes": (folder / "base/model.onnx").stat().st_size,
        "graph_bytes": (made.out / "model.onnx").stat().st_size,
    }


def answer(folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds of a prefill and of a token in the four cases."""
    memory = memory_file.read(folder / "m.safetensors")
    text = str((memory.edits[0].record or {})["prompt"])
    ids = Session(folder / "onnx").language.tokenizer.encode(text)
    ids = [ids[0]] * (PROMPT - len(ids)) + ids
    span = np.array([[0] * (PROMPT - 1) + [1]])
    loaded = ports.feeds(memory) | {"memory.span": span}
    # The same prompt fires or not by its threshold alone, so the work besides is the same.
    never = loaded | {"memory.thresholds": np.full(len(memory.bank), 2, np.float32)}
    always = loaded | {"memory.thresholds": np.zeros(len(memory.bank), np.float32)}
    base = _open(folder / "base/model.onnx", threads)
    ported = _open(folder / "onnx/model.onnx", threads)
    cases: dict[str, Callable[[], tuple[float, float, int | None]]] = {
        "base": lambda: run(base, ids, {}),
        "empty_ports": lambda: run(ported, ids, {}),
        "not_firing": lambda: run(ported, ids, never),
        "firing": lambda: run(ported, ids, always),
    }
    times: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
    routes: dict[str, int | None] = {}
    for round_ in range(rounds + 2):
        for case, once in random.sample(list(cases.items()), len(cases)):
            prefill, token, routes[case] = once()
            if round_ >= 2:  # the first two warm up
                times[case].append((prefill, token))
    assert routes["not_firing"] == tophash.BASE, routes
    assert (routes["firing"] or 0) > 0, routes
    figures: dict[str, Any] = {"prompt_tokens": PROMPT, "rounds": rounds, "threads": threads}
    for i, what in enumerate(("prefill_ms", "token_ms")):
        medians = {case: statistics.median(t[i] for t in found) for case, found in times.items()}
        figures[what] = medians
        figures[what.replace("_ms", "_ratio")] = {
            case: statistics.median(
                own[i] / other[i] for own, other in zip(times[case], times["base"], strict=True)
            )
            for case in cases
        }
    return figures


def _open(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(
    session: ort.InferenceSession, ids: list[int], memory: Mapping[str, np.ndarray]
) -> tuple[float, float, int | None]:
    """One prompt and `STEPS` tokens: prefill ms, median ms a token, and the route if there is one.

    The plain loop that any server would write, the same for graphs with and without ports.
    """
    value = ort.OrtValue.ortvalue_from_numpy
    feeds = {name: value(np.ascontiguousarray(array)) for name, array in memory.items()}
    outputs = [output.name for output in session.get_outputs()]
    past = [i for i in session.get_inputs() if i.name.startswith("past_key_values")]
    cache = {i.name: value(np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)) for i in past}
    tokens, done, route, times = np.array([ids], np.int64), 0, None, []
    for _ in range(1 + STEPS):
        T = tokens.shape[1]
        run_feeds = {
            "input_ids": value(tokens),
            "attention_mask": value(np.ones((1, done + T), np.int64)),
            "position_ids": value(np.arange(done, done + T, dtype=np.int64)[None]),
        }
        start = time.perf_counter()
        found = session.run_with_ort_values(outputs, run_feeds | cache | feeds)
        times.append((time.perf_counter() - start) * 1000)
        out = dict(zip(outputs, found, strict=True))
        cache = {i.name: out[i.name.replace("past_key_values", "present")] for i in past}
        tokens, done = out["logits"].numpy()[:, -1:].argmax(-1), done + T
        if "memory.route_out" in out and memory:
            route = int(out["memory.route_out"].numpy()[0])
            feeds.pop("memory.span", None)
            feeds["memory.route"] = value(np.array([route], np.int64))
    return times[0], statistics.median(times[1:]), route


def show(figures: Mapping[str, Any]) -> None:
    """Two tables for people."""
    console = Console()
    table = Table("what", "figure", title="once")
    for name, figure in figures.items():
        if isinstance(figure, int | float):
            table.add_row(name, f"{figure:,.3f}" if isinstance(figure, float) else f"{figure:,}")
    console.print(table)
    table = Table("graph", "prefill ms", "/ base", "token ms", "/ base", title="each answer")
    for case in figures["prefill_ms"]:
        columns = ("prefill_ms", "prefill_ratio", "token_ms", "token_ratio")
        table.add_row(case, *(f"{figures[column][case]:.2f}" for column in columns))
    console.print(table)


if __name__ == "__main__":
    main()
