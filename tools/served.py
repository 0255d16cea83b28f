"""What the server's tools share: the demo model exported, two memories of it, a server process.

Memories A and B hold the same prompts with different targets, so each answer tells whose it is.
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from memoir_edge import memory as memory_file
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import Editor, choose, load, quiet
from memoir_edge.edits import Edit
from memoir_edge_exporter import export

ADMIN_KEY = "the-admin-key"


@dataclass(frozen=True)
class Made:
    """An export directory, two memory files, and what they edit."""

    graph: Path
    a: Path
    b: Path
    edits: Sequence[Edit]


class Served(NamedTuple):
    """A server process that listens."""

    url: str
    pid: int
    log: Path


def make(folder: Path, count: int) -> Made:
    """Export the demo model and edit it twice; what is there already is used again."""
    quiet()
    edits = sample(count)
    made = Made(folder / "onnx", folder / "a.safetensors", folder / "b.safetensors", edits)
    if not made.graph.exists():
        export(model=model_dir(), out=made.graph)
    others = [replace(e, target=str(e.ground_truth)[::-1].lower(), id=f"b-{e.id}") for e in edits]
    for path, wanted in ((made.a, edits), (made.b, others)):
        if not path.exists():
            memory_file.write(_edited(wanted), path)
    return made


def _edited(edits: Sequence[Edit]) -> memory_file.Memory:
    base = load(str(model_dir()), device="cpu")
    editor = Editor(base, choose(base))
    for each in edits:
        list(editor.edit([each]))
    return editor.memory()


@contextmanager
def serving(made: Made, *options: object, threads: int) -> Iterator[Served]:
    """A server process with A and B loaded, A active."""
    words = ["serve", made.graph, "--port", 0, "--threads", threads]
    words += ["--memory", made.a, "--memory", made.b, "--memory-root", made.a.parent, *options]
    with listening(words, made.a.parent) as served:
        yield served


@contextmanager
def listening(words: Sequence[object], folder: Path) -> Iterator[Served]:
    """A command of this project in a process that listens, with its log in that folder."""
    command = list(map(str, [sys.executable, "-m", "memoir_edge", *words]))
    log = folder.resolve() / f"server-{secrets.token_hex(4)}.log"
    keys = {"MEMOIR_EDGE_ADMIN_KEY": ADMIN_KEY}
    with log.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | keys,
            stdout=subprocess.DEVNULL,
            stderr=written,
        )
    try:
        while not (found := logged(log, "listening")):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.05)
        yield Served(f"http://{found[0]['host']}:{found[0]['port']}", process.pid, log)
    finally:
        process.terminate()
        process.wait(60)


async def streamed(url: str, wanted: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """A completion's parts as they come.

    Written on a bare socket: the client shares the machine, and is to take little of it.
    """
    at, body = urlsplit(url), json.dumps({**wanted, "stream": True}).encode()
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        if b" 200 " not in await reader.readline():
            raise RuntimeError((await reader.read()).decode()[-200:])
        async for line in reader:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
            elif line.startswith(b"data: [DONE]"):
                return
    finally:
        writer.close()


def logged(log: Path, event: str) -> list[dict[str, Any]]:
    """The lines of a server's log that tell of one kind of event."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return [each for each in map(json.loads, lines) if each["event"] == event]
