"""What a client is told of an error."""

import json
import threading

import openai
import pytest

from memoir_edge.errors import GraphError, InputError, MemoirEdgeError
from memoir_edge_runtime._tokens import ContextError
from memoir_edge_runtime.serve.errors import RequestError, refusal
from memoir_edge_runtime.serve.memories import ConflictError, RootError, UnknownModelError
from memoir_edge_runtime.serve.scheduler import BusyError, ClosedError


class _RenamedError(ContextError):
    """Called otherwise, and the same to programs."""


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BusyError(1, 2), 429, "queue_full"),
        (ClosedError("a"), 503, "stopping"),
        (UnknownModelError("a"), 404, "model_not_found"),
        (RootError("a"), 403, "path_not_allowed"),
        (ConflictError("a"), 409, "conflict"),
        (GraphError("a"), 422, "GraphError"),
        (ContextError("a"), 400, "context_length_exceeded"),
        (_RenamedError("a"), 400, "context_length_exceeded"),
        (InputError("a"), 400, None),
        (RequestError("a", code="own"), 400, "own"),
        (MemoirEdgeError("a"), 500, None),
        (KeyError("a"), 500, None),
    ],
    ids=lambda each: type(each).__name__,
)
def test_programs_know_an_error_by_status_and_code(error, status, code):
    told = refusal(error)
    assert (told.status, told.document["error"]["code"]) == (status, code)
    assert ("retry-after" in told.headers) == (status in (429, 503))


def test_a_full_queue_is_429_with_retry_after(make_server, session, endless, monkeypatch):
    running, hold = make_server(max_rows=1, max_queue=1), threading.Event()
    step = session.decoder.step
    monkeypatch.setattr(session.decoder, "step", lambda s, t: hold.wait(60) and step(s, t))
    answers = []

    def ask():
        with running.client() as client:
            answers.append(client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3}))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    scheduler = running.server.scheduler
    for thread, full in zip(
        threads, (lambda: scheduler.running, lambda: scheduler.waiting), strict=True
    ):
        thread.start()
        while not full():
            pass
    with running.client() as client, running.openai() as official:
        refused = client.post("/v1/completions", json={"prompt": "a"})
        with pytest.raises(openai.RateLimitError):
            official.completions.create(model="base", prompt="a")
        ready = client.get("/ready").status_code
        metrics = client.get("/metrics").text
    hold.set()
    for thread in threads:
        thread.join()
    assert (refused.status_code, ready) == (429, 200)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"
    assert "memoir_queue_depth 1.0" in metrics
    assert [a.status_code for a in answers] == [200, 200]


def test_a_deadline_is_504_and_an_error_in_a_stream(make_server, session, endless, monkeypatch):
    running, step = make_server(), session.decoder.step
    slow = threading.Event()
    monkeypatch.setattr(session.decoder, "step", lambda s, t: slow.wait(0.02) or step(s, t))
    wanted = {"prompt": "a", "max_tokens": 90, "deadline": 0.1, "seed": 1}
    with running.client() as client:
        late = client.post("/v1/completions", json=wanted)
        stream = client.post("/v1/completions", json=wanted | {"stream": True})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert stream.status_code == 200
    *_, last = [line for line in stream.text.splitlines() if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    with running.openai() as client, pytest.raises(openai.APIError, match="not finished"):
        for _ in client.completions.create(
            model="base", prompt="a", max_tokens=90, stream=True, extra_body={"deadline": 0.1}
        ):
            pass


def test_an_error_inside_is_not_told(make_server, session, endless, monkeypatch):
    running = make_server()

    def broken(state, tokens):
        raise RuntimeError("secret path /srv/x")

    monkeypatch.setattr(session.decoder, "step", broken)
    with running.client() as client:
        found = client.post("/v1/completions", json={"prompt": "a"})
        assert client.get("/health").status_code == 200
    assert found.status_code == 500
    assert "secret" not in found.text
    assert found.json()["error"]["type"] == "server_error"


def test_an_echo_keeps_to_its_deadline_and_delays_nobody(make_server, session, monkeypatch):
    running, read, hold = make_server(), session.decoder.read, threading.Event()
    begun = []
    monkeypatch.setattr(
        session.decoder, "read", lambda *a: (begun.append(1) and None) or hold.wait(0.2) or read(*a)
    )
    wanted = {"prompt": ["a"] * 20, "max_tokens": 0, "echo": True, "logprobs": 1, "deadline": 0.5}
    late = []

    def ask():
        with running.client() as client:
            late.append(client.post("/v1/completions", json=wanted))

    threads = [threading.Thread(target=ask) for _ in range(40)]  # more than a pool has threads
    for thread in threads:
        thread.start()
    while not begun:
        pass
    with running.client() as client:
        assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).is_success
    for thread in threads:
        thread.join()
    assert {each.json()["error"]["code"] for each in late} == {"deadline_exceeded"}
    assert len(begun) < 10  # of 800: what is late, or nobody waits for, is not begun
