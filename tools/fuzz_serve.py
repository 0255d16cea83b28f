"""Ask the server what real clients ask, each time with something wrong in it.

    python tools/fuzz_serve.py [--requests 50000] [--seed 0] [--graph DIR]

Requests of every route are changed at random: a value for another one, a field more or less, bytes
of the body, its encoding, headers, method and path. The server runs in this process on the demo
model, without a socket. A fault is an answer of 5xx (but for a request that wished for less time
than an answer takes), an error that no client is to see, or a traceback in the log. Each is
printed with its request; the seed gives the same requests again. The last line is one JSON
document; the exit code is 1 if there is a fault.
"""

import argparse
import asyncio
import copy
import gzip
import json
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from memoir_edge.demo.facts import model_dir
from memoir_edge_exporter import export
from memoir_edge_runtime import Session
from memoir_edge_runtime.serve.app import create_app
from memoir_edge_runtime.serve.server import Server
from memoir_edge_runtime.serve.settings import Settings

ADMIN_KEY = "the-admin-key"
TOKENS = 4  # of an answer, at most
USER = {"role": "user", "content": "The capital of France is"}
SAID = {"role": "assistant", "content": "Paris", "refusal": None, "annotations": []}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ASKED: list[tuple[str, str, Any]] = [
    ("POST", "/v1/completions", {"prompt": "The capital of France is", "max_tokens": 2}),
    ("POST", "/v1/completions", {"prompt": [[5, 9], [7]], "echo": True, "logprobs": 1, "n": 2}),
    ("POST", "/v1/completions", {"prompt": ["a", "b"], "stream": True, "stop": ["\n", " the"]}),
    ("POST", "/v1/chat/completions", {"messages": [USER, SAID, USER], "temperature": 0.5}),
    ("POST", "/v1/chat/completions", {
        "model": "default", "messages": [{"role": "system", "content": "Be short."}, USER],
        "logprobs": True, "top_logprobs": 3, "seed": 5, "top_p": 0.9, "stream": True,
        "stream_options": {"include_usage": True}, "user": "me", "metadata": {"a": "b"}}),
    ("POST", "/v1/chat/completions", {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "tools": [TOOL], "tool_choice": "none", "response_format": {"type": "text"},
        "max_completion_tokens": 2}),
    ("POST", "/v1/route", {"prompt": ["The capital of France is", "Bulgaria lies in"]}),
    ("POST", "/v1/route", {"messages": [USER]}),
    ("POST", "/admin/memories", {"path": "a.safetensors", "name": "a", "activate": False}),
    ("POST", "/admin/memories/base/activate", None),
    ("DELETE", "/admin/memories/a", None),
    ("GET", "/admin/memories", None),
    ("GET", "/v1/models/base", None),
    ("GET", "/v1/models", None),
    ("GET", "/metrics", None),
    ("GET", "/ready", None),
]  # fmt: skip
NESTED: Any = []
for _ in range(30):
    NESTED = [NESTED]
JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, 1e308, float("nan"), float("inf"), 2**63, -(2**70), "",
    " ", "a", "0", "base", "\x00", "\ud800", "🙂", "x" * 3000, "{{ 1/0 }}", "../../etc/passwd", [],
    {}, [None], [[]], [""], {"": None}, {"type": "text"}, {"a": {"b": [1]}}, list(range(300)),
    NESTED,
]  # fmt: skip
NAMES = ["", "n", "stop", "echo", "logit_bias", "tools", "functions", "stream", "prompt",
         "suffix", "messages", "deadline", "chat_template_kwargs", "max_tokens", "role",
         "content"]  # fmt: skip


class Asked(NamedTuple):
    """A request as it is sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def main() -> None:
    """Ask, and tell of faults."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--graph", type=Path, help="another export directory than the demo model's")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.graph or Path(name) / "onnx"
        if given.graph is None:
            export(model=model_dir(), out=folder)
        found = fuzz(Session(folder, threads=1), given.requests, given.seed)
    for fault in found["faults"]:
        print(fault)
    print(json.dumps(found | {"faults": len(found["faults"])}))
    sys.exit(bool(found["faults"]))


def fuzz(session: Session, count: int, seed: int) -> dict[str, Any]:
    """Statuses of so many answers, and the faults among them."""
    with tempfile.TemporaryDirectory() as root:
        roots = (Path(root),)
        settings = Settings(max_new_tokens=TOKENS, admin_key=ADMIN_KEY, memory_roots=roots)
        server, faults = Server(session, settings), list[str]()
        try:
            statuses = asyncio.run(_ask_all(create_app(server), count, seed, faults))
        finally:
            server.close()
    return {"requests": count, "seed": seed, "statuses": dict(statuses), "faults": faults}


async def _ask_all(app: Any, count: int, seed: int, faults: list[str]) -> Counter[int]:
    statuses, log = Counter[int](), _Tracebacks()
    logging.getLogger().addHandler(log)
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://x", timeout=120
        ) as client:
            for asked in requests(count, seed):
                said = await _ask(client, asked, statuses)
                if said or log.seen:
                    faults.append(f"{said or log.seen}: {asked}")
                log.seen.clear()
    finally:
        logging.getLogger().removeHandler(log)
    return statuses


async def _ask(client: httpx.AsyncClient, asked: Asked, statuses: Counter[int]) -> str | None:
    """What is wrong with the answer."""
    request = client.build_request(
        asked.method, httpx.URL("http://x").copy_with(raw_path=asked.path.encode()),
        content=asked.body, headers=[(k.encode(), v.encode()) for k, v in asked.headers.items()],
    )  # fmt: skip
    try:
        found = await client.send(request)
    except Exception as error:  # what a server process would log and answer with 500
        return f"{type(error).__name__}: {error}"
    statuses[found.status_code] += 1
    hurried = found.status_code == 504 and b"deadline" in asked.body
    if found.status_code >= 500 and not hurried:
        return f"{found.status_code} {found.text[:300]}"
    return found.text[:300] if "failed to answer" in found.text else None


class _Tracebacks(logging.Handler):
    """Notes records that hold one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or "Traceback" in record.getMessage():
            self.seen.append(self.format(record))


def requests(count: int, seed: int) -> Iterator[Asked]:
    """So many requests; the same seed gives the same."""
    draw = random.Random(seed)
    for _ in range(count):
        method, path, body = copy.deepcopy(draw.choice(ASKED))
        for _ in range(draw.randint(1, 3)):
            body = _changed(body, draw)
        sent = b"" if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        if sent:
            headers["content-type"] = "application/json"
        asked = Asked(method, path, headers, sent)
        yield draw.choice(WAYS)(asked, draw) if draw.random() < 0.3 else asked


def _changed(body: Any, draw: random.Random) -> Any:
    """A value, or one inside it, for another."""
    if not body or not isinstance(body, dict | list) or draw.random() < 0.1:
        return copy.deepcopy(draw.choice(JUNK))
    keys = list(body) if isinstance(body, dict) else list(range(len(body)))
    key, how = draw.choice(keys), draw.random()
    if how < 0.6:
        body[key] = _changed(body[key], draw)
    elif how < 0.7:
        del body[key]
    elif how < 0.85 and isinstance(body, dict):
        body[draw.choice(NAMES)] = copy.deepcopy(draw.choice(JUNK))
    elif isinstance(body, list):
        body.insert(key, copy.deepcopy(draw.choice([*body, *JUNK])))
    return body


def _bytes(asked: Asked, draw: random.Random) -> Asked:
    body = bytearray(asked.body or b"{}")
    for _ in range(draw.randint(1, 4)):
        body[draw.randrange(len(body))] = draw.randrange(256)
    return asked._replace(body=bytes(body[: draw.choice([len(body), draw.randint(1, len(body))])]))


def _encoding(asked: Asked, draw: random.Random) -> Asked:
    name = draw.choice(["gzip", "deflate", "br", "identity", "GZIP", "gzip, gzip"])
    body = gzip.compress(asked.body, mtime=0) if draw.random() < 0.6 else asked.body
    cut = body[: draw.randint(0, len(body))] if draw.random() < 0.3 else body
    return asked._replace(body=cut, headers=asked.headers | {"content-encoding": name})


def _headers(asked: Asked, draw: random.Random) -> Asked:
    name = draw.choice(
        ["content-type", "authorization", "x-request-id", "accept", "content-length"]
    )
    value = draw.choice(["", "text/plain", "application/json; charset=utf-16", "Bearer", "-5",
                         "x" * 500, "multipart/form-data", "application/x-www-form-urlencoded",
                         "é", "99999999999999999999"])  # fmt: skip
    return asked._replace(headers=asked.headers | {name: value})


def _method(asked: Asked, draw: random.Random) -> Asked:
    return asked._replace(method=draw.choice(["GET", "HEAD", "PUT", "PATCH", "OPTIONS", "TRACE"]))


def _path(asked: Asked, draw: random.Random) -> Asked:
    more = draw.choice(
        ["/", "//", "/%00", "/%ff", "?a=%ff", "/..", "%2e%2e", "/" + "a" * 2000, "?"]
    )
    return asked._replace(path=asked.path + more)


WAYS: list[Callable[[Asked, random.Random], Asked]] = [_bytes, _encoding, _headers, _method, _path]

if __name__ == "__main__":
    main()
