"""Servers on real sockets, and memories with probes that hold, for the tiny model above."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from memoir_edge import memory as memories
from memoir_edge.memory import Memory, Probe
from memoir_edge_runtime import Case, Options, Session, replay
from memoir_edge_runtime.serve.app import create_app
from memoir_edge_runtime.serve.server import Server
from memoir_edge_runtime.serve.settings import Settings

ENDS = frozenset(range(1, 300, 9))  # the tiny model never learned to end a text by itself


@pytest.fixture
def ends(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let texts end now and then."""
    monkeypatch.setattr(session, "language", replace(session.language, eos=ENDS))


@pytest.fixture
def endless(session: Session, ends: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let texts end at their limit only."""
    monkeypatch.setattr(session, "language", replace(session.language, eos=frozenset()))


def probed(session: Session, memory: Memory, prompts: list[str]) -> Memory:
    """The memory with probes that say what it answers."""
    generation = session.load(memory)
    found = session.generate(prompts, Options(max_new_tokens=40), memory=generation)
    cases = [Case(r.fired, r.prompt, r.text.strip()) for r in found]
    held = [o.case for part in replay(session, generation, cases) for o in part if o.held][:8]
    assert len({case.id for case in held}) > 3
    return replace(memory, probes=tuple(Probe(c.prompt, c.target, c.id) for c in held), digest=None)


@pytest.fixture(scope="session")
def two(make_memory, prompts) -> tuple[Memory, Memory]:
    """Two memories with the same keys and different changes."""
    keys = list(dict.fromkeys(prompts[:30:2]))
    return make_memory(keys, seed=1), make_memory(keys, seed=2)


class Running:
    """A server on a socket of its own, in a thread."""

    def __init__(self, session: Session, **settings: Any) -> None:
        self.server = Server(session, Settings(**settings))
        self.app = create_app(self.server)
        config = uvicorn.Config(self.app, port=0, log_config=None, access_log=False)
        self.socket = config.bind_socket()
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, args=([self.socket],))
        self.thread.start()
        while not self.uvicorn.started:
            assert self.thread.is_alive()
            time.sleep(0.005)

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def openai(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(30)
        self.socket.close()
        assert not self.thread.is_alive()


@pytest.fixture
def make_server(session, ends) -> Iterator[Callable[..., Running]]:
    made = []

    def make(**settings: Any) -> Running:
        made.append(Running(session, **({"drain": 5} | settings)))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def files(session, ends, two, prompts, tmp_path) -> tuple[Path, Path]:
    """The two memories as files with probes, in a folder that is a memory root."""
    root = tmp_path / "root"
    root.mkdir()
    out = []
    for name, memory in zip("ab", two, strict=True):
        out.append(root / f"{name}.safetensors")
        memories.write(probed(session, memory, prompts[:30]), out[-1])
    return out[0], out[1]


@pytest.fixture(scope="session")
def slow_steps() -> Callable[..., list[int]]:
    """Makes each step of a session take a while, and counts them."""

    def make(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        counts: list[int] = []
        step = session.decoder.step
        monkeypatch.setattr(
            session.decoder,
            "step",
            lambda s, t: counts.append(len(t)) or time.sleep(0.01) or step(s, t),
        )
        return counts

    return make
