"""What only a GPU shows: the CUDA kernels, a session and the editor on a CUDA device.

    python tools/gpu_check.py [ops model speed llama] [--graphs DIR] [--device cpu]

    ops      native Route and Recall, and their function bodies, against the numpy oracle
    model    ten facts edited, and the memory answered with, on the device and on the CPU
    speed    what Route and Recall cost, alone and in the demo model
    llama    one edit of a random model of LLaMA-3-8B's shape: tools/bench_editor.py

Without a part: all of them. `--device cpu` rehearses them where there is no GPU. The exit code is 1
where a check failed, 2 where something is missing. The last line is one JSON document.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import torch
from onnx import helper
from rich.console import Console
from rich.table import Table

from memoir_edge import ports, tophash
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import Editor, Outcome, choose, load, quiet
from memoir_edge.memory import Base, Entry, Memory
from memoir_edge.router.masks import drawn
from memoir_edge_exporter import export
from memoir_edge_exporter._base_graph import base_graph
from memoir_edge_exporter._bodies import MIN_OPSET, VERSION, bodies
from memoir_edge_runtime import Options, Result, Row, Session, _ops, recorded, replay
from memoir_edge_runtime._provider import CPU, CUDA, value

Figures = dict[str, Any]
Feeds = dict[str, np.ndarray]
ROUTE = ("a", "span", "route", "bank", "owner", "thresholds", "center", "scale", "permutation", "k")
RECALL = ("a", "route_out", "bank", "columns", "values", "tile")
OUTPUTS = {"route_out": "int64", "overlap": "float32", "candidate": "int64", "delta": "float32"}
TILES = 3  # of Wm, at most
CLOSE = 0.05  # two trainings of the same edit, relative: rounding grows from step to step
PROVIDERS = {"cpu": [CPU], "cuda": [CUDA, CPU]}


def main() -> int:
    """Run the parts, print their tables, and say what failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--graphs", type=Path, help="the demo model's graphs: kept here, made once")
    parser.add_argument("--device", choices=PROVIDERS, default="cuda")
    parser.add_argument("--cases", type=int, default=200, help="random ones, of `ops`")
    parser.add_argument("--rounds", type=int, default=30, help="of `speed`")
    given = parser.parse_args()
    wrong = [f"no part {part!r}" for part in given.parts if part not in PARTS]
    if wrong := wrong or missing(given.device):
        print(*(f"gpu_check: {line}" for line in wrong), sep="\n", file=sys.stderr)
        return 2
    quiet()
    found: dict[str, list[Figures]] = {}
    failed: list[str] = []
    for part in given.parts or PARTS:
        try:
            found[part] = list(PARTS[part](given))
        except Exception:  # the other parts can still tell something
            traceback.print_exc()
            failed.append(f"{part} broke off")
        show(part, found.get(part, []))
        failed += [
            f"{part}: {row['what']}" for row in found.get(part, []) if row.get("ok") is False
        ]
    print(*(f"FAILED {line}" for line in failed), sep="\n")
    print(json.dumps({"on": machine(given.device), "failed": failed, **found}))
    return 1 if failed else 0


def missing(device: str) -> list[str]:
    """What this machine lacks, a line each."""
    lacks = []
    if device == "cuda" and not torch.cuda.is_available():
        lacks.append("PyTorch sees no CUDA device")
    if device == "cuda" and CUDA not in ort.get_available_providers():
        lacks.append("onnxruntime has no CUDAExecutionProvider: pip install onnxruntime-gpu")
    if _ops.library(device) is None:
        lacks.append(f"the native ops were not built for {device}: python runtime/hatch_build.py")
    return lacks


def machine(device: str) -> Figures:
    """What the figures belong to."""
    card = torch.cuda.get_device_name() if device == "cuda" else "none"
    return {"card": card, "onnxruntime": ort.__version__, "torch": torch.__version__}


def show(part: str, rows: Sequence[Figures]) -> None:
    """A table for people; rows of one part may differ in their columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, title=part)
    for row in rows:
        table.add_row(*(_shown(row.get(name, "")) for name in columns))
    Console(width=160).print(table)


def checked(
    what: str, cases: int, differ: int, more: Mapping[str, Any] = {}, *, ok: bool = True
) -> Figures:
    """A row that fails where a case differs, or where something else is not `ok`."""
    return {"what": what, "cases": cases, "differ": differ, "ok": ok and not differ, **more}


def _shown(figure: object) -> str:
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


# --- Route and Recall against the oracle ---------------------------------------------------------


class Answer(NamedTuple):
    """What both ops give, as numpy or as the oracle has it."""

    route_out: np.ndarray
    overlap: np.ndarray
    candidate: np.ndarray
    delta: np.ndarray


def oracle(feeds: Feeds) -> Answer:
    """By numpy; delta in float64."""
    f = feeds
    k, D = int(f["k"][0]), f["a"].shape[2]
    query = tophash.pack(
        tophash.mask(tophash.feature(f["a"], f["span"]), f["center"], f["scale"],
                     f["permutation"], k)
    )  # fmt: skip
    routes = tophash.route(query, f["route"], f["bank"], f["owner"], f["thresholds"], k)
    Wm = np.zeros((TILES, D, f["values"].shape[1]))
    Wm.reshape(TILES * D, -1)[f["columns"]] = f["values"]
    delta = np.zeros((*f["a"].shape[:2], Wm.shape[2]))
    for row in np.flatnonzero(routes.route > 0):
        own = tophash.unpack(f["bank"][routes.route[row] - 1], D)
        tile = f["tile"][routes.route[row] - 1]
        delta[row] = np.where(own, f["a"][row], 0).astype(np.float64) @ Wm[tile]
    return Answer(*routes, delta)


@cache
def both_ops(device: str, dtype: str, *, native: bool, profile: bool = False) -> Any:
    """A graph of Route and the Recall that reads its route."""
    types = {name: np.dtype("float32") for name in (*ROUTE, *RECALL)}
    types |= dict.fromkeys(("span", "route", "k"), np.dtype("int64"))
    types |= dict.fromkeys(("owner", "permutation", "columns", "tile"), np.dtype("int32"))
    types |= {"bank": np.dtype("uint8"), "a": np.dtype(dtype)}
    ranks = {"a": 3, "span": 2, "bank": 2, "values": 2, "delta": 3}
    fed = [name for name in dict.fromkeys((*ROUTE, *RECALL)) if name != "route_out"]

    def declared(name: str, dtype: Any) -> Any:
        sizes = [f"{name}{axis}" for axis in range(ranks.get(name, 1))]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), sizes)

    graph = helper.make_graph(
        [
            helper.make_node("Route", ROUTE, list(OUTPUTS)[:3], domain=ports.DOMAIN),
            helper.make_node("Recall", RECALL, ["delta"], domain=ports.DOMAIN),
        ],
        "both",
        [declared(name, types[name]) for name in fed],
        [declared(name, np.dtype(dtype)) for name, dtype in OUTPUTS.items()],
    )
    opsets = [helper.make_opsetid("", MIN_OPSET), helper.make_opsetid(ports.DOMAIN, VERSION)]
    model = helper.make_model(graph, functions=bodies(), opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "gpu_check")
    if native:
        options.register_custom_ops_library(str(_ops.library(device)))
    return ort.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS[device])


def answer(feeds: Feeds, device: str, *, native: bool) -> Answer:
    """By ONNX Runtime."""
    session = both_ops(device, str(feeds["a"].dtype), native=native)
    return Answer(*session.run(list(OUTPUTS), feeds))


def small(rng: np.random.Generator, dtype: type = np.float32, *, ties: bool = True) -> Feeds:
    """Numbers whose arithmetic is exact: equals, guards, held routes, anything on padding."""
    D = int(rng.choice([rng.integers(1, 41), 128, 160, 501, 512]))
    B, T, R, d = (int(rng.integers(1, most)) for most in (18, 6, 60, 150))
    k, coarse = int(rng.integers(1, D + 1)), int(rng.integers(1, 9))
    a = (rng.integers(-coarse, coarse + 1, (B, T, D)) / 8).astype(dtype)
    span = rng.integers(0, 2, (B, T))
    center = (rng.integers(-2, 3, D) / 8).astype(np.float32)
    scale = rng.choice(np.float32([1, 1, 0.5, 2, -1]), D)
    if not ties:  # a row's features are D different numbers, however many tokens it has
        levels = rng.permuted(np.tile(np.arange(1, D + 1), (B, 1)), axis=1)
        a[:] = (levels * rng.choice([-1, 1], (B, D)) / 8)[:, None]
        span[:, 0], center, scale = 1, np.zeros(D, np.float32), np.ones(D, np.float32)
    permutation = rng.permutation(D).astype(np.int32)
    bits = rng.random((R, D)).argsort(axis=1) < k
    asked = tophash.mask(tophash.feature(a, span), center, scale, permutation, k)
    own = rng.random(R) < 0.4  # keys that are a row's own mask, or copies of one another
    bits[own] = asked[rng.integers(0, B, own.sum())]
    a[(span == 0) & (rng.random((B, T)) < 0.3)] = np.nan
    levels = np.arange(k + 2, dtype=np.float32) / np.float32(k)  # thresholds met exactly
    route = rng.choice([0, 0, 0, -1, 1, R], B)
    route[np.isnan(a).any(axis=(1, 2))] = -1  # Recall multiplies all tokens
    tiles = int(rng.integers(1, TILES + 1))
    columns = rng.permutation(tiles * D)[: rng.integers(1, tiles * D + 1)]
    columns = np.sort(columns).astype(np.int32)
    return {
        "a": a, "span": span, "route": route, "bank": tophash.pack(bits),
        "owner": np.where(rng.random(R) < 0.3, -1, rng.integers(0, R, R)).astype(np.int32),
        "thresholds": rng.choice(levels, R if rng.random() < 0.5 else 1),
        "center": center, "scale": scale, "permutation": permutation, "k": np.array([k]),
        "columns": columns,
        "values": (rng.integers(-8, 9, (len(columns), d)) / 8).astype(np.float32),
        "tile": rng.integers(0, tiles, R).astype(np.int32),
    }  # fmt: skip


def wide(rng: np.random.Generator, dtype: type, B: int) -> Feeds:
    """The paper's width with real numbers; each row has a key of its own, met by half of them."""
    D, k, T, C, d, R = 14336, 4096, 9, 16000, 512, 500
    a = rng.normal(size=(B, T, D)).astype(dtype)
    span = np.tril(np.ones((B, T), np.int64))
    center, permutation = rng.normal(size=D).astype(np.float32), rng.permutation(D).astype(np.int32)
    bank = _masks(rng, R, D, k)
    f = tophash.feature(a, span)
    own = tophash.pack(tophash.mask(f, center, np.ones(D, np.float32), permutation, k))
    bank[rng.permutation(R)[: B // 2 + 1]] = own[: B // 2 + 1]
    return {
        "a": a, "span": span, "route": np.zeros(B, np.int64), "bank": bank,
        "owner": np.arange(R, dtype=np.int32), "thresholds": np.full(R, 0.9, np.float32),
        "center": center, "scale": np.ones(D, np.float32), "permutation": permutation,
        "k": np.array([k]), "columns": np.sort(rng.permutation(2 * D)[:C]).astype(np.int32),
        "values": rng.normal(size=(C, d)).astype(np.float32),
        "tile": rng.integers(0, 2, R).astype(np.int32),
    }  # fmt: skip


def _masks(rng: np.random.Generator, R: int, D: int, k: int) -> np.ndarray:
    """`[R, ceil(D/8)]` packed; of a thousand different ones, as what is in them costs nothing."""
    some = tophash.pack(rng.random((min(R, 1000), D), np.float32).argsort(axis=1) < k)
    return np.ascontiguousarray(some[rng.integers(0, len(some), R)])


def ops(given: argparse.Namespace) -> Iterator[Figures]:
    """Both ops, natively and as function bodies, against the oracle."""
    yield runs_natively(given.device)
    for dtype in (np.float32, np.float16):
        for native in (True, False):
            way = f"{'native' if native else 'bodies'}, {np.dtype(dtype)}"
            rng = np.random.default_rng(1)
            cases = [small(rng, dtype, ties=False) for _ in range(given.cases)]
            yield exact(f"{way}: exact arithmetic", cases, given.device, native)
            cases = [small(rng, dtype) for _ in range(given.cases)]
            row = exact(f"{way}: and equal magnitudes", cases, given.device, native)
            if given.device == "cuda" and not native:
                del row["ok"]  # which of equals TopK takes there is not said
            yield row
            cases = [wide(rng, dtype, B) for B in (1, 7, 8, 9)]
            yield near(f"{way}: the paper's width", cases, given.device, native)
    for native in (True, False):
        case = small(np.random.default_rng(2)) | {"route": np.zeros(1, np.int64)}
        D, d = case["a"].shape[2], case["values"].shape[1]
        empty = {name.split(".")[1]: array for name, array in ports.empty(D, d).items()}
        nothing = {name: array for name, array in empty.items() if name in case}
        case |= {"a": np.nan_to_num(case["a"][:1]), "span": case["span"][:1], **nothing}
        way = "native" if native else "bodies"
        yield exact(f"{way}: the empty memory", [case], given.device, native)
    if given.device == "cuda":  # on a CPU they are refused
        yield harmless()


def runs_natively(device: str) -> Figures:
    """Whether ONNX Runtime takes the library's kernels rather than the bodies, on the device."""
    session = both_ops(device, "float32", native=True, profile=True)
    session.run(list(OUTPUTS), small(np.random.default_rng(0)))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = {e["args"]["op_name"]: e["args"].get("provider", "") for e in events
           if e.get("args", {}).get("op_name")}  # fmt: skip
    wanted = PROVIDERS[device][0]
    elsewhere = not ran.get("Route") == ran.get("Recall") == wanted
    return checked(f"both ops run as nodes on {wanted}", 1, int(elsewhere))


def exact(what: str, cases: Sequence[Feeds], device: str, native: bool) -> Figures:
    """Every number is the oracle's."""
    differ = dict.fromkeys(OUTPUTS, 0)
    for feeds in cases:
        got, truth = answer(feeds, device, native=native), oracle(feeds)
        for name in OUTPUTS:
            differ[name] += not np.array_equal(getattr(got, name), getattr(truth, name))
    where = {name: count for name, count in differ.items() if count}
    return checked(what, len(cases), sum(differ.values()), {"where": where})


def near(what: str, cases: Sequence[Feeds], device: str, native: bool) -> Figures:
    """The same keys and routes; overlaps and products as good as their precision.

    Bodies sum a row's tokens in another order, so that a feature at the edge of the mask may fall
    to the other side; their product may be in TF32.
    """
    differ, overlap, error = 0, 0.0, 0.0
    for feeds in cases:
        got, truth = answer(feeds, device, native=native), oracle(feeds)
        differ += int((got.route_out != truth.route_out).sum())
        met = truth.overlap >= 0.9  # the nearest of strangers may be another
        differ += int((got.candidate != truth.candidate)[met].sum())
        overlap = max(overlap, float(abs(got.overlap - truth.overlap).max()))
        error = max(error, float(np.linalg.norm(got.delta - truth.delta)
                                 / np.linalg.norm(truth.delta)))  # fmt: skip
    k = 4096
    ok = overlap <= (0 if native else 4 / k) and error < (2e-6 if native else 1e-3)
    more = {"overlap apart": overlap, "error of delta": error}
    return checked(what, len(cases), differ, more, ok=ok)


def harmless() -> Figures:
    """Contents that the host does not see end in the base model, and the device goes on."""
    rng = np.random.default_rng(3)
    feeds = small(rng) | {"route": np.zeros(1, np.int64)}
    feeds |= {"a": np.nan_to_num(feeds["a"][:1]), "span": np.ones_like(feeds["span"][:1])}
    feeds["thresholds"] = np.zeros(1, np.float32)  # any key is reached
    D, R, C = feeds["a"].shape[2], len(feeds["bank"]), len(feeds["columns"])
    beyond = (D, -1, 2**31 - 1, -(2**31))
    wrong: list[Mapping[str, np.ndarray]] = [
        *({"permutation": np.full(D, place, np.int32), "thresholds": np.ones(1, np.float32)}
          for place in beyond),
        *({"owner": np.full(R, owner, np.int32)} for owner in (R, 2**31 - 1, -(2**31))),
        *({"route": np.array([route])} for route in (R + 1, 2**62, -(2**62))),
        *({"columns": np.full(C, column, np.int32), "route": np.array([1])}
          for column in (TILES * D, -1, 2**31 - 1, -(2**31))),
        *({"tile": np.full(R, tile, np.int32), "route": np.array([1])}
          for tile in (TILES, -1, 2**31 - 1, -(2**31))),
    ]  # fmt: skip
    differ = 0
    for change in wrong:
        got = answer(feeds | dict(change), "cuda", native=True)
        held = change.get("route", np.array([-1]))
        differ += not (np.array_equal(got.route_out, held) and not got.delta.any())
        good, truth = answer(feeds, "cuda", native=True), oracle(feeds)
        differ += not all(np.array_equal(a, b) for a, b in zip(good, truth, strict=True))
    return checked("native: wrong contents do no harm", len(wrong), differ)


# --- The editor and a session --------------------------------------------------------------------


def graphs(given: argparse.Namespace) -> tuple[Path, Path]:
    """The demo model without and with ports."""
    folder = given.graphs or Path(tempfile.mkdtemp(prefix="gpu_check"))
    plain, ported = folder / "plain", folder / "ports"
    if not ported.exists():
        plain.mkdir(parents=True)
        base_graph(model_dir(), plain, "fp32")
        export(model=model_dir(), onnx_dir=plain, out=ported)
    return plain, ported


def model(given: argparse.Namespace) -> Iterator[Figures]:
    """The demo's edits made on the device, and the memories answered with on both."""
    plain, ported = graphs(given)
    memories: dict[str, Memory] = {}
    for name, device, dtype in (
        (given.device, given.device, torch.float32),
        (f"{given.device}, as saved", given.device, None),
        ("cpu", "cpu", torch.float32),
    ):
        row, memories[name] = edited(name, device, dtype)
        yield row
    for name, memory in memories.items():
        for on in dict.fromkeys(("cpu", given.device)):
            for native in (True, False):
                yield replayed(
                    f"{name}: replayed on {on}, {_way(native)}", ported, memory, on, native
                )
    found = {device: routed(device) for device in dict.fromkeys((given.device, "cpu"))}
    yield from (row for row, _ in found.values())
    (_, Wm), (_, same) = found[given.device], found["cpu"]
    apart = float(np.linalg.norm(Wm - same) / np.linalg.norm(same))
    yield {"what": "and Wm is the CPU's", "error of Wm": apart, "ok": apart < CLOSE}
    memory = memories[given.device]
    yield same_answers(ported, memory, given.device)
    yield swapped(ported, memory, given.device)
    yield base_is_base(plain, ported, memory, given.device)


def _way(native: bool) -> str:
    return "native" if native else "bodies"


def edited(name: str, device: str, dtype: torch.dtype | None) -> tuple[Figures, Memory]:
    """Seconds an edit once warm, and whether the edits took."""
    base = load(str(model_dir()), device=device, dtype=dtype)
    settings = choose(base)
    edits = showcase()
    Editor(base, settings).apply(edits[:1])  # warm
    editor = Editor(base, settings)
    start = time.perf_counter()
    outcomes = editor.apply(edits)
    memory = editor.memory()
    seconds = (time.perf_counter() - start) / len(edits)
    return _took(f"{name}: edited", outcomes, seconds), memory


def _took(what: str, outcomes: Sequence[Outcome], seconds: float, *, ok: bool = True) -> Figures:
    more = {"s an edit": seconds, "steps": sum(each.steps for each in outcomes)}
    failed = sum(not each.took for each in outcomes)
    return checked(what, len(outcomes), failed, more, ok=ok)


class Itself:
    """A router whose codes are drawn by lot: a text reaches the key that was made of it."""

    kind, digest, bits, weight = "encoder", hashlib.sha256(b"itself").hexdigest(), 1024, 512

    def codes(self, texts: Sequence[str]) -> np.ndarray:
        """`[n, 128]` packed."""
        rows = [drawn(text, self.bits, self.weight) for text in texts]
        return np.array(rows, np.uint8).reshape(-1, self.bits // 8)

    def reads_all(self, _text: str) -> bool:
        """No text is cut."""
        return True

    def respelling(self, _texts: Iterable[str]) -> Callable[[str], str]:
        """Texts are read as they are."""
        return str


def routed(device: str) -> tuple[Figures, np.ndarray]:
    """The same edits as a chat model's are made: by Adam, routed by codes, in two tiles.

    Gives Wm, too.
    """
    base = load(str(model_dir()), device=device, dtype=torch.float32)
    settings = replace(choose(base, coded=True), asked=0)
    edits = showcase()
    settings = replace(
        settings, columns_per_edit=2 * base.config["intermediate_size"] // len(edits)
    )
    editor = Editor(base, settings, router=Itself())
    editor.apply(edits[:1])  # warm
    start = time.perf_counter()
    outcomes = editor.apply(edits[1:])
    seconds = (time.perf_counter() - start) / len(outcomes)
    tiles = editor.memory().tiles
    row = _took(f"{device}: routed by codes, {tiles} tiles", outcomes, seconds, ok=tiles == 2)
    return row, editor.live.Wm.cpu().numpy()


def replayed(what: str, ported: Path, memory: Memory, device: str, native: bool) -> Figures:
    """Whether the memory's own prompts give what they must, on ONNX Runtime."""
    session = Session(ported, memory=memory, providers=PROVIDERS[device], native=native)
    asked = recorded(memory)
    held = [o.held for part in replay(session, session.generation, asked) for o in part]
    return checked(what, len(held), held.count(False))


def _prompts() -> list[str]:
    near = [text for e in showcase() for text in (e.prompt, *e.rephrase, *e.hard_negatives)]
    return near + [asked.prompt for e in showcase() for asked in e.locality]


def _said(results: Sequence[Result]) -> list[tuple[Any, ...]]:
    return [(r.ids, r.fired) for r in results]


def same_answers(ported: Path, memory: Memory, device: str) -> Figures:
    """Tokens and edits of many prompts on the device and on the CPU."""
    sessions = (Session(ported, memory=memory, providers=PROVIDERS[on]) for on in (device, "cpu"))
    said = [_said(session.generate(_prompts(), Options(max_new_tokens=8))) for session in sessions]
    pairs = list(zip(*said, strict=True))
    differ = sum(a != b for a, b in pairs)
    where = {"fired": sum(a[1] != b[1] for a, b in pairs)}
    return checked(f"answers on {device} are the CPU's", len(pairs), differ, {"where": where})


def swapped(ported: Path, memory: Memory, device: str) -> Figures:
    """Swaps in and out give the base model's and the memory's answers again."""
    session = Session(ported, providers=PROVIDERS[device])
    prompts = _prompts()
    said = []
    for swapped_in in (None, memory, None, memory):
        session.swap(swapped_in)
        said.append(_said(session.generate(prompts, Options(max_new_tokens=8))))
    differ = sum(a != b for first, again in ((0, 2), (1, 3))
                 for a, b in zip(said[first], said[again], strict=True))  # fmt: skip
    what = f"swaps on {device}, {session.ops}"
    return checked(what, 2 * len(prompts), differ, ok=said[0] != said[1])


def base_is_base(plain: Path, ported: Path, memory: Memory, device: str) -> Figures:
    """With a memory loaded, route -1 gives the base graph's logits, bit for bit."""
    language = Session(ported, providers=[CPU]).language
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(str(_ops.library(device)))
    base, own = (ort.InferenceSession(folder / "model.onnx", options, providers=PROVIDERS[device])
                 for folder in (plain, ported))  # fmt: skip
    held = ports.feeds(memory) | {"memory.route": np.array([tophash.BASE])}
    prompts = _prompts()
    differ = 0
    for prompt in prompts:
        feeds = _first(base, language.tokenizer.encode(prompt))
        [logits], [again] = base.run(["logits"], feeds), own.run(["logits"], feeds | held)
        differ += logits.tobytes() != again.tobytes()
    what = f"route -1 on {device} is the base graph bit for bit"
    return checked(what, len(prompts), differ)


def _first(graph: Any, ids: Sequence[int]) -> Feeds:
    """A prompt without a past."""
    past = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
            for i in graph.get_inputs() if i.name.startswith("past_key_values")}  # fmt: skip
    ones = np.ones((1, len(ids)), np.int64)
    return {"input_ids": np.array([ids]), "attention_mask": ones,
            "position_ids": ones.cumsum(1) - 1, **past}  # fmt: skip


# --- Speed ---------------------------------------------------------------------------------------


def speed(given: argparse.Namespace) -> Iterator[Figures]:
    """The two ops alone, then the demo model with 15,000 edits."""
    sizes = [(15_000, 14336), (100_000, 14336), (1_000_000, 1024)]
    for R, D in sizes if given.device == "cuda" else [(2_000, 1024)]:
        yield from ops_alone(R, D, given)
    yield from demo_model(given)


def ops_alone(R: int, D: int, given: argparse.Namespace) -> Iterator[Figures]:
    """Milliseconds of both ops for one prompt of 128 tokens, and for one token behind it."""
    rng, k, C, d = np.random.default_rng(4), D * 2 // 7, D // 2, 4096
    bank = _masks(rng, R, D, k)
    shared = {
        "bank": bank, "owner": np.arange(R, dtype=np.int32), "center": np.zeros(D, np.float32),
        "scale": np.ones(D, np.float32), "permutation": rng.permutation(D).astype(np.int32),
        "columns": np.sort(rng.permutation(D)[:C]).astype(np.int32),
        "values": rng.normal(size=(C, d)).astype(np.float32), "tile": np.zeros(R, np.int32),
    }  # fmt: skip
    placed = {name: value(array, given.device) for name, array in shared.items()}
    placed |= {"k": value(np.array([k]))}
    never, always = np.full(R, 2, np.float32), np.zeros(R, np.float32)
    cases = {
        "prompt of 128, nothing fires": (128, 0, never),
        "prompt of 128, an edit fires": (128, 0, always),
        "token, base model": (1, -1, never),
        "token, an edit answers": (1, 1, never),
    }
    for what, (T, route, thresholds) in cases.items():
        a = rng.normal(size=(1, T, D)).astype(np.float32)
        run = {"a": a, "span": np.ones((1, T), np.int64), "route": np.array([route]),
               "thresholds": thresholds}  # fmt: skip
        fed = placed | {name: value(array, given.device) for name, array in run.items()}
        sessions = {_way(n): both_ops(given.device, "float32", native=n) for n in (True, False)}
        calls = {way: bound(session, fed, given.device) for way, session in sessions.items()}
        times = timed(calls, given.rounds)
        row = {"what": f"{R:,} keys of {D:,}: {what}", **_figures(times, "native")}
        if "nothing" in what:
            row["bank, GB/s"] = bank.nbytes / 1e6 / row["native, ms"]
        yield row


def bound(session: Any, feeds: Mapping[str, Any], device: str) -> Callable[[], None]:
    """A run whose inputs and outputs stay on the device."""
    binding = session.io_binding()
    for name, placed in feeds.items():
        binding.bind_ortvalue_input(name, placed)
    for name in OUTPUTS:
        binding.bind_output(name, device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def demo_model(given: argparse.Namespace) -> Iterator[Figures]:
    """The demo model as `Session` runs it, with 15,000 edits and without."""
    _, ported = graphs(given)
    calls: dict[str, dict[str, Callable[[], object]]] = {"prompt of 128": {}, "token": {}}
    prompt = [Row(tuple(np.random.default_rng(6).integers(3, 200, 128).tolist()))]
    for native in (True, False):
        session = Session(ported, providers=PROVIDERS[given.device], native=native)
        decoder = session.decoder
        never, always = (session.load(crowd(session, level)) for level in (2, 0))
        ways = {"no memory": session.base} if native else {}
        ways |= {f"{_way(native)}, nothing fires": never, f"{_way(native)}, an edit fires": always}
        for way, generation in ways.items():
            state, _ = decoder.prefill(prompt, generation)
            calls["prompt of 128"][way] = lambda d=decoder, g=generation: d.prefill(prompt, g)
            calls["token"][way] = lambda d=decoder, s=state: d.step(s, [5])
    for what, ways_of in calls.items():
        times = timed(ways_of, given.rounds)
        for way, found in times.items():
            yield {"what": f"demo model, {what}: {way}", "ms": statistics.median(found),
                   "to no memory": ratio(found, times["no memory"])}  # fmt: skip


def crowd(session: Session, threshold: float) -> Memory:
    """15,000 edits of random masks."""
    graph, R, rng = session.sidecar, 15_000, np.random.default_rng(5)
    D, d, k = graph.D, graph.d, graph.D * 2 // 7
    return Memory(
        base=Base(graph.model_id, graph.digest), site=graph.site, feature="last",
        columns=np.arange(D, dtype=np.int32), values=rng.normal(0, 1e-3, (D, d)).astype(np.float32),
        bank=_masks(rng, R, D, k), owner=np.arange(R, dtype=np.int32),
        thresholds=np.full(R, threshold, np.float32), center=np.zeros(D, np.float32),
        scale=np.ones(D, np.float32), permutation=rng.permutation(D).astype(np.int32), k=k,
        edits=tuple(Entry(str(i), i) for i in range(R)),
    )  # fmt: skip


def timed(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each, round after round; the first five warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 5):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= 5:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def _figures(times: Mapping[str, Sequence[float]], first: str) -> Figures:
    own = {f"{name}, ms": statistics.median(found) for name, found in times.items()}
    others = {f"{name} / {first}": ratio(found, times[first])
              for name, found in times.items() if name != first}  # fmt: skip
    return own | others


def llama(given: argparse.Namespace) -> Iterator[Figures]:
    """The paper's own case, in a process of its own."""
    shape = "llama-3-8b" if given.device == "cuda" else "small"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("bench_editor.py")), "--edits", "3",
         "--rounds", "1", "--shape", shape, "--device", given.device],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    yield {"what": f"{shape}, {found['device']}: one edit of {found['steps']} steps",
           "memoir-edge, s": found["seconds_per_edit"]["memoir-edge"],
           "reference, s": found["seconds_per_edit"]["reference"], "speedup": found["speedup"],
           **{f"{way}, GB": peak / 1e9 for way, peak in found["peak_bytes"].items()},
           "loss apart": found["loss_difference"], "shares": found["phases"]}  # fmt: skip


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Figures]]] = {
    part.__name__: part for part in (ops, model, speed, llama)
}

if __name__ == "__main__":
    sys.exit(main())
