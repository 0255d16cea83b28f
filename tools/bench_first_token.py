"""How long a first token takes while a long prompt is read, and behind a prompt that begins alike.

    python tools/bench_first_token.py [--rounds 12] [--long 2000] [--shared 500] [--genai PYTHON]
                                      [--folder DIR]

`memoir-edge serve` on SmolLM2-135M in int4 as onnxruntime-genai's builder makes it (that of
bench_hosts.py), one thread, no memory, over HTTP:

    quiet        eight streams of short prompts at once, 16 tokens each
    long prompt  the same, a tenth of a second after a prompt of --long tokens came
    new          one prompt at a time, of --shared tokens that nobody sent before, and a question
    shared       the same tokens once more, and another question

Seconds to the first token: median and 95th percentile, and ratios of these. The last line is one
JSON document.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_hosts import ROOT, make, prompts
from rich.console import Console
from rich.table import Table
from served import listening, streamed

STREAMS, TOKENS, LEAD = 8, 16, 0.1  # at once, of each answer, seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--long", type=int, default=2000, help="tokens")
    parser.add_argument("--shared", type=int, default=500, help="tokens")
    parser.add_argument("--genai", type=Path, default=ROOT / ".venv-transformers5/bin/python")
    parser.add_argument("--folder", type=Path, help="as of bench_hosts.py")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (given.folder or Path(name)).resolve()
        make(folder, given.genai)
        words = ["serve", folder / "onnx", "--port", 0, "--threads", 1, "--max-new-tokens", 64]
        with listening(words, folder) as served:
            found = asyncio.run(measure(served.url, given))
    show(found)
    print(json.dumps(found))


async def measure(url: str, given: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds to the first token, by case."""
    found: dict[str, list[float]] = {n: [] for n in ("quiet", "long prompt", "new", "shared")}
    dice = random.Random(0)
    await together(url)  # warms up
    for _ in range(given.rounds):
        found["quiet"] += await together(url)
        long = asyncio.create_task(first(url, text(dice, given.long), tokens=1))
        await asyncio.sleep(LEAD)
        found["long prompt"] += await together(url)
        await long
        system = text(dice, given.shared)
        found["new"].append(await first(url, f"{system}\nWhat is it about?"))
        found["shared"].append(await first(url, f"{system}\nWho wrote this?"))
    return found


async def together(url: str) -> Sequence[float]:
    """Eight streams."""
    return await asyncio.gather(*(first(url, prompt) for prompt in prompts(STREAMS)))


async def first(url: str, prompt: str, tokens: int = TOKENS) -> float:
    """Seconds to a stream's first token; the stream is read to its end."""
    wanted = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    began, came = time.perf_counter(), 0.0
    async for _ in streamed(url, wanted):
        came = came or time.perf_counter() - began
    return came


def text(dice: random.Random, tokens: int) -> str:
    """A text of about so many tokens that no other begins like."""
    return " ".join(str(dice.randrange(10)) for _ in range(tokens // 2))


def show(found: dict[str, list[float]]) -> None:
    """The table for people."""
    table = Table("prompts", "first tokens", "median, s", "95 %, s", "to quiet", "to new")
    told: dict[str, Any] = {n: (np.median(x), np.quantile(x, 0.95)) for n, x in found.items()}
    for name, (middle, most) in told.items():
        beside = [f"{middle / told[n][0]:.2f}, {most / told[n][1]:.2f}" for n in ("quiet", "new")]
        table.add_row(name, str(len(found[name])), f"{middle:.3f}", f"{most:.3f}", *beside)
    Console().print(table)


if __name__ == "__main__":
    main()
