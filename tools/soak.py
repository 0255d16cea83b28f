"""A day of ordinary traffic in ten minutes, and whether the server's memory stays what it was.

    python tools/soak.py [--seconds 600] [--clients 8] [--seed 0] [--folder DIR]

A server process on the demo model, with two memories of the same prompts, is asked by so many
clients without a pause: completions and chats, whole and streamed, drawn and greedy; streams whose
client goes away; prompts to be routed; requests that are refused; and what dashboards ask for.
Meanwhile memories are activated, unloaded and loaded again. Prompts do not repeat, so that what is
kept of them is filled and dropped all the time. The last line is one JSON document:

    requests     answered, by kind
    failed       answers that are not what they should be, the first of them printed
    rss_mb       resident memory of the server in each tenth of the run
    rss_ratio    the last tenth to the third, when what is kept of prompts has its full size

The exit code is 1 if an answer failed or the memory grew by more than 3 %.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from served import ADMIN_KEY, Made, Served, make, serving, streamed

MOST = 1.03  # of what the memory was
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
SYSTEM = "You answer in one sentence, and only what you know."
MODELS = ("default", "base", "base@a")  # b comes and goes
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0}, {"temperature": 0.8, "top_p": 0.9}, {"temperature": 1, "top_k": 20},
    {"temperature": 0.5, "n": 3, "seed": 7}, {"temperature": 0, "stop": ["\n", " the"]},
]  # fmt: skip
WRONG: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/completions", {"prompt": "a", "model": "none"}, 404),
    ("/v1/completions", {"prompt": "a", "temperature": -1}, 400),
    ("/v1/completions", {"prompt": "a " * 600}, 400),
    ("/v1/chat/completions", {"messages": "hello"}, 400),
    ("/v1/chat/completions", {"messages": [], "logit_bias": {"5": 1}}, 400),
    ("/admin/memories", {"path": "../none.safetensors"}, 403),
    ("/nowhere", {}, 404),
]


@dataclass
class Soak:
    """The traffic, and what came of it."""

    made: Made
    served: Served
    http: httpx.AsyncClient
    draw: random.Random
    requests: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)

    def prompt(self) -> str:
        """One of the edits' prompts or of their neighbours', behind others' words in any order.

        No words are new: the tokenizer keeps those that it has seen, too, up to 10,000.
        """
        edit = self.draw.choice(self.made.edits)
        words = " ".join(e.prompt for e in self.made.edits).split()
        before = " ".join(self.draw.choices(words, k=self.draw.randrange(24)))
        return f"{before} {self.draw.choice([edit.prompt, edit.locality[0].prompt])}".strip()

    def wanted(self) -> dict[str, Any]:
        """A request's options."""
        tokens = {"max_tokens": self.draw.randint(1, 24), "model": self.draw.choice(MODELS)}
        return tokens | self.draw.choice(OPTIONS)

    async def post(self, path: str, body: dict[str, Any], status: int = 200) -> None:
        """Ask, and look at the status."""
        found = await self.http.post(path, json=body, headers=ADMIN)
        if found.status_code != status:
            self.failed.append(f"{found.status_code} for {path} {str(body)[:100]}: {found.text}")

    async def completion(self) -> None:
        """A whole answer, sometimes with log-probabilities or its prompt."""
        more = self.draw.choice([{}, {"logprobs": 3}, {"echo": True}])
        await self.post("/v1/completions", self.wanted() | {"prompt": self.prompt()} | more)

    async def chat(self) -> None:
        """A turn behind a system prompt that many share."""
        said = {"role": "user", "content": self.prompt()}
        messages = [{"role": "system", "content": SYSTEM}, said]
        await self.post("/v1/chat/completions", self.wanted() | {"messages": messages})

    async def stream(self) -> None:
        """An answer as it is written; one client in three leaves before its end."""
        leaves = self.draw.randint(1, 5) if self.draw.random() < 1 / 3 else None
        parts, wanted = 0, self.wanted() | {"prompt": self.prompt(), "ignore_eos": True}
        events = streamed(self.served.url, wanted)
        async for _ in events:
            parts += 1
            if parts == leaves:
                await events.aclose()
                break
        if not parts:
            self.failed.append(f"an empty stream for {wanted}")

    async def routed(self) -> None:
        """Where prompts would go."""
        await self.post("/v1/route", {"prompt": [self.prompt() for _ in range(8)]})

    async def wrong(self) -> None:
        """A request that is refused."""
        await self.post(*self.draw.choice(WRONG))

    async def looked(self) -> None:
        """What a dashboard asks for."""
        path = self.draw.choice(["/metrics", "/ready", "/health", "/v1/models", "/openapi.json"])
        if (found := await self.http.get(path)).status_code != 200:
            self.failed.append(f"{found.status_code} for {path}")

    async def swap(self) -> None:
        """One memory answers by default, or the other, or none."""
        await self.post(f"/admin/memories/{self.draw.choice(['a', 'base'])}/activate", {})

    async def load(self) -> None:
        """A memory is unloaded and loaded again; only one client does so."""
        await self.http.delete("/admin/memories/b", headers=ADMIN)
        path = str(self.made.b.resolve())
        await self.post("/admin/memories", {"path": path, "name": "b", "activate": False})

    async def client(self, until: float) -> None:
        """Ask one thing after the other."""
        kinds: dict[Callable[[], Awaitable[None]], int] = {
            self.completion: 30, self.chat: 20, self.stream: 30, self.routed: 5, self.wrong: 10,
            self.looked: 4, self.swap: 3,
        }  # fmt: skip
        while time.monotonic() < until:
            [kind] = self.draw.choices(list(kinds), list(kinds.values()))
            await self.counted(kind)

    async def counted(self, kind: Callable[[], Awaitable[None]]) -> None:
        """Ask, and count it."""
        name = getattr(kind, "__name__", "")
        try:
            await kind()
        except (OSError, RuntimeError, httpx.HTTPError) as error:
            self.failed.append(f"{name}: {type(error).__name__}: {error}")
        self.requests[name] += 1

    async def loads(self, until: float) -> None:
        """A load every few seconds."""
        while time.monotonic() < until:
            await self.counted(self.load)
            await asyncio.sleep(2)

    async def follow(self, until: float) -> None:
        """The server's resident memory."""
        process = psutil.Process(self.served.pid)
        while time.monotonic() < until:
            self.rss.append(process.memory_info().rss)
            await asyncio.sleep(0.5)


def main() -> None:
    """Ask, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep graph and memories there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made = make(given.folder or Path(name), 8)
        # As little is kept of prompts as fills soon.
        with serving(made, "--prefix-mb", 4, "--drain", 5, threads=1) as served:
            soak = asyncio.run(run(made, served, given))
    figures = summary(soak)
    table = Table("what", "figure", title="soak")
    for what, figure in figures.items():
        table.add_row(what, str(figure))
    Console().print(table)
    print(json.dumps(figures))
    sys.exit(bool(soak.failed) or figures["rss_ratio"] > MOST)


async def run(made: Made, served: Served, given: argparse.Namespace) -> Soak:
    """All clients, as long as is wanted."""
    until = time.monotonic() + given.seconds
    async with httpx.AsyncClient(base_url=served.url, timeout=120) as http:
        soak = Soak(made, served, http, random.Random(given.seed))
        clients = [soak.client(until) for _ in range(given.clients)]
        await asyncio.gather(*clients, soak.loads(until), soak.follow(until))
    return soak


def summary(soak: Soak) -> dict[str, Any]:
    """All figures."""
    for each in soak.failed[:5]:
        print(each)
    tenths = [float(part.mean()) / 1e6 for part in np.array_split(soak.rss, 10)]
    return {
        "requests": dict(soak.requests),
        "all": soak.requests.total(),
        "failed": len(soak.failed),
        "rss_mb": [round(each, 1) for each in tenths],
        "rss_ratio": round(tenths[-1] / tenths[2], 4),
    }


if __name__ == "__main__":
    main()
