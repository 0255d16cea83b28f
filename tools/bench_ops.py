"""The native ops against what else could do their work.

    python tools/bench_ops.py scan             Route over 15,000 and 100,000 keys
    python tools/bench_ops.py million          over a million keys: an index against a scan
    python tools/bench_ops.py model [--model DIR | --billion]    whole tokens of an exported model

Needs no more than the project; `scan` compares with faiss where it can be imported. Contenders run
round after round, in an order drawn anew each time; medians of times and of each round's ratios.
docs/ops.md shows runs. The last line is one JSON document.
"""

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from memoir_edge import tophash
from memoir_edge.demo.facts import model_dir
from memoir_edge.memory import Base, Entry, Memory
from memoir_edge_exporter import export
from memoir_edge_exporter._base_graph import base_graph
from memoir_edge_exporter._bodies import MIN_OPSET, VERSION, bodies
from memoir_edge_runtime import Session, _ops
from memoir_edge_runtime._provider import open_graph

Row = dict[str, Any]
Calls = Mapping[str, Callable[[], object]]


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--keys", type=int, help="of the largest bank; default as documented")
    parser.add_argument("--queries", type=int, default=10_000, help="that `million` decides twice")
    parser.add_argument("--model", type=Path, default=model_dir(), help="of `model`")
    parser.add_argument("--billion", dest="model", action="store_const", const=None,
                        help="of `model`: a random one of LLaMA-3.2-1B's shape")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    rows = PARTS[given.part](given)
    table = Table(*rows[0], title=f"{given.part}, kernels {_ops.kernels()}")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int)
                        else v or "-" for v in row.values()))  # fmt: skip
    Console(width=160).print(table)
    print(json.dumps({"part": given.part, "kernels": _ops.kernels(), "rows": rows}))


def timed(calls: Calls, rounds: int, *, settle: bool = False) -> dict[str, list[float]]:
    """Milliseconds of each in each round.

    To settle, each runs once unseen just before: an idle session's threads wait busily for a while,
    and would take their cores from the next.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for turn in range(rounds + 1):
        for name in order.sample(list(calls), len(calls)):
            if settle:
                calls[name]()
            start = time.perf_counter()
            calls[name]()
            if turn:  # the first warms up
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def ratio(times: list[float], others: list[float]) -> float:
    """Median of the rounds' ratios: what slows a whole round down is in both."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


# --- One op --------------------------------------------------------------------------------------


def route_alone(threads: int, *, native: bool) -> ort.InferenceSession:
    """A graph of Route and nothing else."""
    F, I64, I32, U8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8
    given = {"a": (F, 3), "span": (I64, 2), "route": (I64, 1), "bank": (U8, 2), "owner": (I32, 1),
             "thresholds": (F, 1), "center": (F, 1), "scale": (F, 1), "permutation": (I32, 1),
             "k": (I64, 1)}  # fmt: skip
    made = {"route_out": (I64, 1), "overlap": (F, 1), "candidate": (I64, 1)}
    inputs, outputs = (
        [helper.make_tensor_value_info(n, t, [f"{n}{i}" for i in range(r)])
         for n, (t, r) in some.items()] for some in (given, made)
    )  # fmt: skip
    node = helper.make_node("Route", list(given), list(made), domain="memoir_edge")
    graph = helper.make_graph([node], "route", inputs, outputs)
    opsets = [helper.make_opsetid("", MIN_OPSET), helper.make_opsetid("memoir_edge", VERSION)]
    model = helper.make_model(graph, functions=bodies(), opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if native:
        options.register_custom_ops_library(str(_ops.library("cpu")))
    return ort.InferenceSession(model.SerializeToString(), options)


def values(bank: np.ndarray, D: int, k: int, threshold: float, queries: np.ndarray) -> Any:
    """Feeds of Route: `queries` are masks [n, D], told by one token each."""
    rng = np.random.default_rng(1)
    a = np.where(queries, 1.0, 0.0) + 0.5 * rng.random(queries.shape)
    n, R = len(queries), len(bank)
    feeds = {
        "a": a[:, None].astype(np.float32), "span": np.ones((n, 1), np.int64),
        "route": np.zeros(n, np.int64), "bank": bank, "owner": np.arange(R, dtype=np.int32),
        "thresholds": np.full(R, threshold, np.float32), "center": np.zeros(D, np.float32),
        "scale": np.ones(D, np.float32), "permutation": np.arange(D, dtype=np.int32),
        "k": np.array([k]),
    }  # fmt: skip
    return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}


def masks(rng: np.random.Generator, n: int, D: int, k: int) -> np.ndarray:
    """Uniformly random masks, `[n, D]`."""
    return rng.random((n, D), np.float32).argsort(axis=1) < k


def scan(given: argparse.Namespace) -> list[Row]:
    """Route over banks that an index holds whole."""
    sizes = [R for R in (15_000, 100_000) if (given.keys or R) >= R]
    return [_scan(R, threads, given.rounds) for R in sizes for threads in (1, 2)]


def _scan(R: int, threads: int, rounds: int) -> Row:
    D, k = 14336, 4096
    rng = np.random.default_rng(0)
    # What is in a key costs nothing, so a thousand of them are enough, again and again.
    some = np.packbits(rng.random((1000, D), np.float32) < k / D, axis=1, bitorder="little")
    bank = np.ascontiguousarray(some[rng.integers(0, len(some), R)])
    query = masks(rng, 1, D, k)
    fed = values(bank, D, k, 0.65, query)
    held = fed | {"route": _value(np.array([-1]))}
    words, own = bank.view(np.uint64), tophash.pack(query).view(np.uint64)
    indexed = fed | {"bank": _value(bank.copy())}
    assert _ops.index(indexed["bank"], indexed["thresholds"])
    native, body = (route_alone(threads, native=is_native) for is_native in (True, False))
    calls: dict[str, Callable[[], object]] = {
        "native": lambda: native.run_with_ort_values(None, indexed),
        "scan": lambda: native.run_with_ort_values(None, fed),  # without the index
        "call": lambda: native.run_with_ort_values(None, held),  # decides nothing
        "numpy": lambda: np.bitwise_count(words & own).sum(1).argmax(),
        "read": lambda: words.max(),
    }
    if R <= 15_000:
        calls["body"] = lambda: body.run_with_ort_values(None, fed)
    found = timed(calls | dict(faiss(bank, own.view(np.uint8), threads)), rounds)
    names = ("native", "scan", "call", "body", "faiss", "numpy", "read")
    times = {n: statistics.median(found[n]) if n in found else None for n in names}
    others = ("scan", "body", "faiss", "numpy")
    ratios = {n: ratio(found[n], found["native"]) if n in found else None for n in others}
    return (
        {"keys": R, "threads": threads}
        | {f"{name}, ms": ms for name, ms in times.items()}
        | {f"{name} / native": times_as_long for name, times_as_long in ratios.items()}
        | {"native / read": ratio(found["native"], found["read"])}
    )


def faiss(bank: np.ndarray, query: np.ndarray, threads: int) -> Calls:
    """The peer: the nearest of binary vectors by Hamming distance."""
    try:
        import faiss as peer
    except ImportError:
        return {}
    peer.omp_set_num_threads(threads)
    index = peer.IndexBinaryFlat(8 * bank.shape[1])
    index.add(bank)
    return {"faiss": lambda: index.search(query, 1)}


# --- A million keys ------------------------------------------------------------------------------


def million(given: argparse.Namespace) -> list[Row]:
    """Search by an index of some features against reading every key; do they decide alike?"""
    R = given.keys or 1_000_000
    return [row for kind in KINDS for row in _million(given, R, kind)]


class Kind(NamedTuple):
    """Keys of a bank."""

    name: str
    D: int
    k: int
    steep: float  # how much more popular a feature is than another
    threshold: float


KINDS = (
    Kind("masks as real ones are", 4096, 1170, 3, 0.65),
    Kind("masks, uniformly random", 4096, 1170, 0, 0.4),
    Kind("codes", 1024, 512, 0.6, 0.76),
)


def _million(given: argparse.Namespace, R: int, kind: Kind) -> list[Row]:
    D, k, threshold = kind.D, kind.k, kind.threshold
    rng = np.random.default_rng(2)
    bank, unpacked = crowd(rng, R, D, k, steep=kind.steep)
    far = unpacked(rng, 50)
    met = tophash.overlap(tophash.pack(far), bank[rng.integers(0, R, 2000)], k)
    whole = values(bank, D, k, threshold, far[:1])
    start = time.perf_counter()
    indexed = _value(bank.copy())
    assert _ops.index(indexed, whole["thresholds"])
    seconds = time.perf_counter() - start
    asked = itertools.cycle([values(bank[:1], D, k, threshold, far[[i]])["a"] for i in range(10)])
    rows: list[Row] = []
    for threads in (1, 2):
        session = route_alone(threads, native=True)
        found = timed(
            {
                name: lambda bank=bank_value, run=session: run.run_with_ort_values(
                    None, whole | {"bank": bank, "a": next(asked)}
                )
                for name, bank_value in (("scan", whole["bank"]), ("search", indexed))
            },
            given.rounds,
        )
        rows.append({
            "keys are": kind.name, "keys": R, "threshold": threshold,
            "unrelated overlap": float(met.mean()), "spread": float(met.std()),
            "threads": threads, "scan, ms": statistics.median(found["scan"]),
            "search, ms": statistics.median(found["search"]),
            "scan / search": ratio(found["scan"], found["search"]), "index, s": seconds,
        })  # fmt: skip
    decided = agreement(given, rng, bank, indexed, whole, k, threshold, unpacked)
    return [row | decided for row in rows]


def crowd(rng: np.random.Generator, R: int, D: int, k: int, *, steep: float) -> tuple[Any, Any]:
    """A bank of R masks of about k ones, and a maker of unpacked masks of exactly k.

    Real masks share popular features, some more than others: a feature's popularity, tempered by
    what a prompt has in common with others.
    """
    popular = rng.permutation(np.linspace(-1, 1, D))
    tempers = np.linspace(0.55, 1.35, 8)

    def shares() -> np.ndarray:
        found = []
        for temper in tempers:
            low, high = -10.0, 10.0
            while high - low > 1e-4:  # the level at which k features are expected
                level = (low + high) / 2
                odds = 1 / (1 + np.exp(-(steep * temper * popular + level)))
                low, high = (level, high) if odds.sum() < k else (low, level)
            found.append(odds)
        return np.array(found)

    p = shares()
    levels = np.round(p * 256).clip(0, 255).astype(np.uint8)
    bank = np.empty((R, -(-D // 8)), np.uint8)
    for start in range(0, R, 20_000):
        n = min(20_000, R - start)
        of = levels[rng.integers(0, len(levels), n)]
        bits = rng.integers(0, 256, (n, D), np.uint8) < of
        bank[start : start + n] = np.packbits(bits, axis=1, bitorder="little")

    def unpacked(rng: np.random.Generator, n: int) -> np.ndarray:
        drawn = np.log(p[rng.integers(0, len(p), n)]) + rng.gumbel(size=(n, D))
        return drawn.argsort(axis=1).argsort(axis=1) >= D - k

    return bank, unpacked


def agreement(
    given: argparse.Namespace,
    rng: np.random.Generator,
    bank: np.ndarray,
    indexed: Any,
    whole: Mapping[str, Any],
    k: int,
    threshold: float,
    unpacked: Any,
) -> Row:
    """Decisions of both over queries of which half share about the threshold with a key."""
    session = route_alone(2, native=True)
    D, fired, differ = 8 * bank.shape[1], 0, 0
    for start in range(0, given.queries, 100):
        n = min(100, given.queries - start)
        queries = unpacked(rng, n)
        for i in range(0, n, 2):  # a key with as many of its ones exchanged as leave that share
            key = np.unpackbits(bank[rng.integers(len(bank))], bitorder="little").astype(bool)
            on = rng.permutation(np.flatnonzero(key))
            kept = on[: min(len(on), round((threshold + rng.normal(0, 0.02)) * k))]
            others = rng.permutation(np.flatnonzero(~key))[: k - len(kept)]
            queries[i] = np.isin(np.arange(D), np.concatenate([kept, others]))
        asked = values(bank[:1], D, k, threshold, queries)
        fed = dict(whole) | {name: asked[name] for name in ("a", "span", "route")}
        a, b = (session.run_with_ort_values(None, fed | {"bank": each})[0].numpy()
                for each in (whole["bank"], indexed))  # fmt: skip
        fired += int((a > 0).sum())
        differ += int((a != b).sum())
    return {"asked": given.queries, "fired": fired, "differ": differ}


# --- Whole tokens --------------------------------------------------------------------------------

KEYS, STEPS, PROMPT = 15_000, 16, 128


def model(given: argparse.Namespace) -> list[Row]:
    """A graph with ports and a memory of 15,000 edits against the same graph without ports."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plain").mkdir()
        source = given.model if given.model else _billion(folder / "billion")
        base_graph(source, folder / "plain", "fp32")
        export(model=source, onnx_dir=folder / "plain", out=folder / "ports")
        for threads in (1, 2):
            rows += _tokens(folder, given, threads)
    return rows


def _billion(folder: Path) -> Path:
    """A model of LLaMA-3.2-1B's shape with random weights and the demo model's words."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(model_dir(), folder)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    words = LlamaConfig.from_pretrained(folder).vocab_size
    config = LlamaConfig(
        vocab_size=words, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _tokens(folder: Path, given: argparse.Namespace, threads: int) -> list[Row]:
    plain = open_graph(folder / "plain" / "model.onnx", ["CPUExecutionProvider"], threads)
    calls: dict[str, tuple[Any, Mapping[str, Any]]] = {"no ports": (plain, {})}
    rng = np.random.default_rng(3)
    for name, native in (("native", True), ("bodies", False)):
        session = Session(folder / "ports", threads=threads, native=native)
        graph = session.decoder._graph
        fed = dict(session.load(_memory(session, rng)).feeds)
        one = lambda route: {"memory.route": _value(np.array([route]))}  # noqa: E731
        calls[f"{name}, nothing fires"] = (graph, fed)
        calls[f"{name}, an edit fires"] = (graph, fed | one(1))
    prefill, step = _feeds(plain)
    rows: list[Row] = []
    for what, feeds in (("prefill of 128", prefill), ("token", step)):
        # At a token the route is known: the prompt decided it.
        known = {} if what != "token" else {"memory.route": _value(np.array([-1]))}
        found = timed(
            {
                name: lambda g=graph, f=feeds, m={**(known if m else {}), **m}:
                    g.run_with_ort_values(None, f | m)
                for name, (graph, m) in calls.items()
            },
            given.rounds * (8 if what == "token" else 1),
            settle=True,
        )  # fmt: skip
        for name, times in found.items():
            rows.append({"threads": threads, "run": what, "graph": name,
                         "ms": statistics.median(times),
                         "overhead": ratio(times, found["no ports"]) - 1})  # fmt: skip
    return rows


def _value(array: np.ndarray) -> Any:
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _feeds(session: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prompt, and a token behind it."""
    ids = np.random.default_rng(4).integers(3, 200, (1, PROMPT))
    past = {
        i.name: _value(np.zeros([1, i.shape[1], 0, i.shape[3]], np.float32))
        for i in session.get_inputs()
        if i.name.startswith("past_key_values")
    }
    names = {i.name for i in session.get_inputs()}

    def feeds(ids: np.ndarray, length: int, cache: Mapping[str, Any]) -> dict[str, Any]:
        n = ids.shape[1]
        given = {
            "input_ids": ids,
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(length - n, length)[None],
        }
        return {k: _value(v) for k, v in given.items() if k in names} | dict(cache)

    first = feeds(ids, PROMPT, past)
    outputs = session.run_with_ort_values(None, first)
    made = dict(zip((o.name for o in session.get_outputs()), outputs, strict=True))
    cache = {name: made[name.replace("past_key_values", "present")] for name in past}
    return first, feeds(ids[:, :1], PROMPT + 1, cache)


def _memory(session: Session, rng: np.random.Generator) -> Memory:
    """15,000 edits of random masks that no prompt of random tokens reaches."""
    graph = session.sidecar
    D, d = graph.D, graph.d
    k = round(D * 2 / 7)
    some = tophash.pack(masks(rng, 1000, D, k))
    return Memory(
        base=Base(graph.model_id, graph.digest), site=graph.site, feature="last",
        columns=np.arange(D, dtype=np.int32), values=rng.normal(0, 1e-3, (D, d)).astype(np.float32),
        bank=some[rng.integers(0, len(some), KEYS)], owner=np.arange(KEYS, dtype=np.int32),
        thresholds=np.full(KEYS, 0.9, np.float32), center=np.zeros(D, np.float32),
        scale=np.ones(D, np.float32), permutation=rng.permutation(D).astype(np.int32), k=k,
        edits=tuple(Entry(str(i), i) for i in range(KEYS)),
    )  # fmt: skip


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    part.__name__: part for part in (scan, million, model)
}

if __name__ == "__main__":
    main()
