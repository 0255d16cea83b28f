"""Swap memories under a server that answers, a thousand times, and see whether anybody notices.

    python tools/load_swap.py [--swaps 1000] [--rounds 10] [--streams 32] [--seconds 120]

A server process on the demo model, with two memories of the same prompts and different targets, is
asked by so many streams at once, each beginning anew when it ends. Quiet rounds, rounds of swaps
and rounds of loads take turns, so that the machine's drift hits all alike. A swap activates what is
loaded; a load reads the file again, checks it, asks all of its edits and activates it. Every answer
is compared with what the session answers alone with the memory that the answer names. The last line
is one JSON document:

    failed       requests without a whole answer
    mixed        answers that are not exactly those of the memory they name
    p99_ratio    of the time between two tokens of a stream: swapping to quiet
    p99_ratio_loading    the same while memories are loaded
    pause_ms     longest activation, as the server's log tells
    rss_mb       resident memory of the server in each tenth of the run
    rss_ratio    the last tenth to the second
"""

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from served import ADMIN_KEY, Made, Served, logged, make, serving, streamed

from memoir_edge_runtime import Options, Result, Session, complete

TOKENS = 24  # of an answer
LOADS = 3  # of a round of loads
BASE_EVERY = 8  # requests: one asks for the base model, the others for the active memory


@dataclass
class Seen:
    """What the clients saw."""

    phase: str = "warm"
    gaps: dict[str, list[float]] = field(default_factory=dict)  # seconds between tokens, by round
    firsts: dict[str, list[float]] = field(default_factory=dict)  # seconds until the first
    answers: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    digests: set[str | None] = field(default_factory=set)
    rss: list[int] = field(default_factory=list)
    stop: bool = False


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10, help="of each kind")
    parser.add_argument("--seconds", type=float, default=120, help="of the whole run")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime")
    parser.add_argument("--folder", type=Path, help="keep graph and memories there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made = make(given.folder or Path(name), given.edits)
        expected = answers(made)
        with serving(made, "--drain", 5, threads=given.threads) as served:
            seen = asyncio.run(measure(made, served, expected, given))
            activations = logged(served.log, "memory activate")
            loads = logged(served.log, "memory load")
    figures = summary(seen, given, activations, loads)
    show(figures)
    print(json.dumps(figures))


def answers(made: Made) -> dict[tuple[str | None, str], str]:
    """What the session answers alone, by the memory's digest and the prompt."""
    session = Session(made.graph, threads=1)
    prompts = [text for e in made.edits for text in (e.prompt, e.locality[0].prompt)]
    options = Options(max_new_tokens=TOKENS, ignore_eos=True)
    found = {}
    for generation in (session.base, session.load(made.a), session.load(made.b)):
        for prompt in prompts:
            [row] = session.completions(prompt, options)
            *_, result = complete(session.decoder, generation, [row])
            assert isinstance(result, Result)
            found[generation.digest, prompt] = result.text
    return found


async def measure(
    made: Made,
    served: Served,
    expected: Mapping[tuple[str | None, str], str],
    given: argparse.Namespace,
) -> Seen:
    """Streams on one side, swaps on the other."""
    seen = Seen()
    prompts = list(dict.fromkeys(prompt for _, prompt in expected))
    turns = itertools.count()
    streams = [
        asyncio.create_task(stream(served.url, prompts, expected, turns, seen))
        for _ in range(given.streams)
    ]
    watch = asyncio.create_task(follow(served.pid, seen))
    each = given.seconds / (3 * given.rounds + 1)
    names: Iterator[str] = itertools.cycle(["b", "a"])
    count = -(-given.swaps // given.rounds)
    await load(served.url, names, each, made)  # warms up
    for round_ in range(given.rounds):
        seen.phase = f"quiet {round_}"
        await asyncio.sleep(each)
        seen.phase = f"swap {round_}"
        await swap(served.url, names, count, each)
        seen.phase = f"load {round_}"
        await load(served.url, names, each, made)
    seen.phase, seen.stop = "end", True
    await asyncio.gather(*streams)
    watch.cancel()
    return seen


async def stream(
    url: str,
    prompts: Sequence[str],
    expected: Mapping[tuple[str | None, str], str],
    turns: Iterator[int],
    seen: Seen,
) -> None:
    """One client that asks again and again."""
    while not seen.stop:
        turn = next(turns)
        prompt = prompts[turn % len(prompts)]
        model = "default" if turn % BASE_EVERY else "base"
        try:
            text, digest = await ask(url, prompt, model, seen)
        except Exception as error:
            seen.failed.append(f"{type(error).__name__}: {error}")
            continue
        seen.answers += 1
        seen.digests.add(digest)
        if expected[digest, prompt] != text:
            seen.mixed.append(
                f"{digest}: {prompt!r} gave {text!r}, not {expected[digest, prompt]!r}"
            )


async def ask(url: str, prompt: str, model: str, seen: Seen) -> tuple[str, str | None]:
    """One streamed answer, and the digest of the memory that it names."""
    wanted = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    began = last = time.perf_counter()
    parts: list[Any] = []
    async for part in streamed(url, wanted | {"ignore_eos": True}):
        now = time.perf_counter()
        times = seen.gaps if parts else seen.firsts
        times.setdefault(seen.phase, []).append(now - (last if parts else began))
        last = now
        parts.append(part)
    if not parts or parts[-1]["choices"][0]["finish_reason"] != "length":
        raise RuntimeError(f"ended early: {parts[-1:]}")
    return "".join(p["choices"][0]["text"] for p in parts), parts[-1]["memory"]["digest"]


async def swap(url: str, names: Iterator[str], count: int, seconds: float) -> None:
    """So many swaps of what is loaded, in about so many seconds."""
    async with administrator(url) as admin:
        async for name in paced(names, count, seconds):
            (await admin.post(f"/memories/{name}/activate")).raise_for_status()


async def load(url: str, names: Iterator[str], seconds: float, made: Made) -> None:
    """So many swaps that read the file first, check it and ask its edits."""
    async with administrator(url) as admin:
        async for name in paced(names, LOADS, seconds):
            (await admin.delete(f"/memories/{name}")).raise_for_status()
            path = {"a": made.a, "b": made.b}[name]
            loaded = await admin.post("/memories", json={"path": str(path.resolve())})
            loaded.raise_for_status()


def administrator(url: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    return httpx.AsyncClient(base_url=f"{url}/admin", headers=headers, timeout=60)


async def paced(names: Iterator[str], count: int, seconds: float) -> AsyncIterator[str]:
    """So many names, spread over so many seconds."""
    began = time.perf_counter()
    for i, name in enumerate(itertools.islice(names, count)):
        yield name
        await asyncio.sleep(max(0, began + (i + 1) * seconds / count - time.perf_counter()))


async def follow(pid: int, seen: Seen) -> None:
    """The server's resident memory, twice a second."""
    process = psutil.Process(pid)
    while True:
        if seen.phase != "warm":
            seen.rss.append(process.memory_info().rss)
        await asyncio.sleep(0.5)


def summary(
    seen: Seen, given: argparse.Namespace, activations: list[Any], loads: list[Any]
) -> dict[str, Any]:
    """All figures."""

    def pooled(kind: str, times: Mapping[str, list[float]]) -> list[float]:
        return [1000 * t for phase, found in times.items() if phase.startswith(kind) for t in found]

    def p99(kind: str, round_: int) -> float:
        return float(np.percentile(seen.gaps[f"{kind} {round_}"], 99))

    kinds = {"quiet": "quiet", "swap": "swapping", "load": "loading"}
    gaps = {name: pooled(kind, seen.gaps) for kind, name in kinds.items()}
    p99s = {name: float(np.percentile(its, 99)) for name, its in gaps.items()}
    rounds = [p99("swap", i) / p99("quiet", i) for i in range(given.rounds)]
    tenths = [statistics.mean(part) / 1e6 for part in np.array_split(seen.rss, 10)]
    for each in (*seen.failed[:3], *seen.mixed[:3]):
        print(each)
    return {
        "streams": given.streams,
        "threads": given.threads,
        "answers": seen.answers,
        "failed": len(seen.failed),
        "mixed": len(seen.mixed),
        "memories_seen": len(seen.digests),
        "swaps": len(activations),
        "loads": len(loads) - 2,  # those of the start
        **{f"p50_ms_{name}": statistics.median(its) for name, its in gaps.items()},
        **{f"p99_ms_{name}": its for name, its in p99s.items()},
        **{f"max_ms_{name}": max(its) for name, its in gaps.items()},
        "p99_ratio": p99s["swapping"] / p99s["quiet"],
        "p99_ratio_median_of_rounds": statistics.median(rounds),
        "p99_ratio_loading": p99s["loading"] / p99s["quiet"],
        **{
            f"first_token_ms_{name}": statistics.median(pooled(kind, seen.firsts))
            for kind, name in kinds.items()
        },
        "pause_ms": max(each["seconds"] for each in activations) * 1000,
        "pause_ms_median": statistics.median(each["seconds"] for each in activations) * 1000,
        "load_ms_median": statistics.median(each["seconds"] for each in loads) * 1000,
        "rss_mb": [round(each, 1) for each in tenths],
        "rss_ratio": tenths[-1] / tenths[1],
    }


def show(figures: Mapping[str, Any]) -> None:
    """A table for people."""
    table = Table("what", "figure", title="swaps under load")
    for name, figure in figures.items():
        table.add_row(name, f"{figure:,.3f}" if isinstance(figure, float) else str(figure))
    Console().print(table)


if __name__ == "__main__":
    main()
