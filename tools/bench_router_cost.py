"""What it costs to route by an encoder: a prompt, beside the model's own reading of it, and a key.

    python tools/bench_router_cost.py [--encoder ENCODER] [--model MODEL] [--keys N]

One thread, in CPU milliseconds, so that busy neighbours count less: the least and the median of
many rounds. The prompt has 12 tokens, another one in each round. The router is measured alone, in
int8 and in float32, and in turn with the model, whose weights drive the router's out of the caches;
the model reads the prompt without a memory. The keys are random codes. Encoder and model are by
default those of `make models`. The last line is one JSON document.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from memoir_edge.base import locate
from memoir_edge.demo.models import path
from memoir_edge.memory import Codes
from memoir_edge.memory import Router as Bound
from memoir_edge_exporter import export, export_router
from memoir_edge_runtime import Router, Session

TOKENS, ROUNDS = 12, 40
WORDS = ["the", "a", "city", "river", "king", "price", "day", "rule", "war", "book", "song", "law"]
BARS = {"router, ms": 5.0, "router, share of prefill": 0.03, "keys, ms": 15.0, "key, bytes": 128.0}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--encoder", default=None)
    parser.add_argument("--model", default=None)
    parser.add_argument("--keys", type=int, default=1_000_000)
    given = parser.parse_args()
    encoder = given.encoder or str(path("minilm"))
    model = given.model or str(path("smollm2"))
    with tempfile.TemporaryDirectory() as place:
        figures = measure(encoder, model, given.keys, Path(place))
    table = Table("what", "least", "median", title=f"{TOKENS} tokens, {given.keys:,} keys")
    for name, times in figures["ms"].items():
        table.add_row(name, f"{times['least']:.2f} ms", f"{times['median']:.2f} ms")
    Console().print(table)
    for name, bar in BARS.items():
        Console().print(f"{name}: {figures[name]:.3g} (bar {bar:g})")
    print(json.dumps(figures))


def measure(encoder: str, model: str, keys: int, place: Path) -> dict[str, object]:
    """All figures; exports go to a folder."""
    bound = export_router(encoder, place / "int8").codes
    export_router(encoder, place / "fp32", precision="fp32")
    routers = {name: Router(place / name / "router", threads=1) for name in ("int8", "fp32")}
    export(model=locate(model), out=place / "onnx")
    session = Session(place / "onnx", threads=1)
    few, many = (routers["int8"].place(random_codes(bound, n)) for n in (200, keys))
    texts = iter(prompts(routers["int8"], 6 * (ROUNDS + 1)))

    def prefill() -> None:
        session.decoder.prefill([session.prompt(next(texts)).row], session.base)

    def search() -> None:
        routers["int8"].decide(["the same prompt"], many)

    def route(name: str) -> Callable[[], object]:
        return lambda: routers[name].decide([next(texts)], few)

    found = timed({"router, int8": route("int8")}) | timed({"router, fp32": route("fp32")})
    found |= timed({"the model's prefill": prefill, "router, int8, after it": route("int8")})
    found |= timed({"search of the keys": search})
    router = found["router, int8"]["least"]
    return {
        "ms": found,
        "router, ms": router,
        "router, share of prefill": router / found["the model's prefill"]["least"],
        "keys, ms": found["search of the keys"]["least"],
        "key, bytes": float(-(-bound.bits // 8)),
    }


def timed(work: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each, in turn."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(ROUNDS + 1):
        for name, do in work.items():
            begin = time.process_time()
            do()
            if round_:  # the first warms up
                times[name].append((time.process_time() - begin) * 1000)
    return {
        name: {"least": min(found), "median": statistics.median(found)}
        for name, found in times.items()
    }


def prompts(router: Router, count: int) -> list[str]:
    """Texts of common words, each of `TOKENS` tokens with the encoder's special ones."""
    random = np.random.default_rng(0)
    drawn = (" ".join(random.choice(WORDS, TOKENS - 2)) for _ in range(count))
    return [text for text in drawn if router.tokens(text) == TOKENS]


def random_codes(bound: Bound, count: int) -> Codes:
    """Keys that lie anywhere: each projection's sign is drawn."""
    signs = np.random.default_rng(1).integers(0, 256, (count, bound.weight // 8), np.uint8)
    return Codes(
        router=bound,
        keys=np.hstack([signs, ~signs]),
        owner=np.arange(count, dtype=np.int32),
        thresholds=np.full(count, 0.9, np.float32),
    )


if __name__ == "__main__":
    main()
