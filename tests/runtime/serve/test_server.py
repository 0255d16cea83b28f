"""A server's parts put together: when it is ready, and how it ends."""

import threading
import time

import httpx
import pytest


def test_stopping_finishes_what_runs_and_refuses_what_comes(
    make_server, session, endless, monkeypatch, slow_steps
):
    running, counts = make_server(), slow_steps(session, monkeypatch)
    answers = []

    def ask():
        with running.client() as client:
            answers.append(client.post("/v1/completions", json={"prompt": "a", "max_tokens": 30}))

    thread = threading.Thread(target=ask)
    thread.start()
    while not counts:
        time.sleep(0.001)
    running.uvicorn.should_exit = True
    thread.join()
    running.thread.join(30)
    assert answers[0].json()["usage"]["completion_tokens"] == 30
    assert not running.server.scheduler.alive
    with pytest.raises(httpx.ConnectError), running.client() as client:
        client.get("/ready")


def test_it_is_not_ready_while_it_stops(make_server):
    running = make_server()
    running.server.close()
    with running.client() as client:
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
        said = client.post("/v1/completions", json={"prompt": "a"})
    assert (said.status_code, said.json()["error"]["code"]) == (503, "stopping")
    assert said.headers["retry-after"]
