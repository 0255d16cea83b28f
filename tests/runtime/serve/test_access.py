"""Keys, limits, and what a stranger, a slow client or one that leaves can do: nothing."""

import json
import socket
import time

import openai
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from memoir_edge_runtime.serve import access

ADMIN, API = "the-admin-key", "the-api-key-of-all"
ANSWERS = {"/v1/completions", "/v1/chat/completions", "/v1/route"}  # POST, but they change nothing


@pytest.fixture
def running(make_server, files):
    return make_server(admin_key=ADMIN, api_key=API, memory_roots=(files[0].parent,))


def _routes(app):
    """Every method and path that the app answers."""
    return sorted(
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    )


def test_every_route_that_changes_something_refuses_without_the_admin_key(running):
    found = _routes(running.app)
    changing = [r for r in found if r[0] not in ("GET", "HEAD") and r[1] not in ANSWERS]
    assert len(changing) >= 3
    table = running.server.memories.table
    for method, path in [*changing, ("GET", "/admin/memories")]:
        for key in (None, API, "wrong", "", ADMIN + "x", ADMIN[:-1], "ä"):
            given = f"Bearer {key}".strip().encode()
            headers = [] if key is None else [("authorization", given)]
            with running.client() as client:
                said = client.request(method, path.format(name="base"), headers=headers)
            assert said.status_code == 401, (method, path, key)
            assert said.headers["www-authenticate"] == "Bearer"
            assert said.json()["error"]["code"] == "invalid_api_key"
    assert running.server.memories.table is table
    assert all(path.startswith("/admin/") for _, path in changing)


def test_every_other_route_asks_for_the_api_key_where_there_is_one(running):
    others = [(m, p) for m, p in _routes(running.app) if not p.startswith("/admin")]
    assert len(others) > 8
    with running.client() as client, running.client(API) as known, running.client(ADMIN) as admin:
        for method, path in others:
            expected = 200 if path in ("/health", "/ready") else 401
            assert client.request(method, path).status_code == expected, path
            assert known.request(method, path).status_code != 401
            assert admin.request(method, path).status_code == expected
    with running.openai(API) as good, running.openai("wrong") as bad:
        assert good.completions.create(model="base", prompt="a", max_tokens=1).choices
        with pytest.raises(openai.AuthenticationError):
            bad.models.list()


def test_without_an_admin_key_there_are_no_admin_routes(make_server):
    running = make_server()
    assert not [p for _, p in _routes(running.app) if p.startswith("/admin")]
    with running.client("anything") as client:
        for method, path in (
            ("GET", "/admin/memories"), ("POST", "/admin/memories"), ("GET", "/admin"),
            ("POST", "/admin/memories/a/activate"), ("DELETE", "/admin/memories/a"),
        ):  # fmt: skip
            assert client.request(method, path).status_code == 404


def test_large_bodies(running):
    large = b'{"prompt": "' + b"a" * 10_000_000 + b'"}'
    with running.client(API) as client:
        said = client.post("/v1/completions", content=large)
        assert (said.status_code, said.json()["error"]["code"]) == (413, "body_too_large")

        def chunks():
            for _ in range(100):
                yield large[:100_000]

        said = client.post("/v1/completions", content=chunks())
        assert (said.status_code, said.json()["error"]["code"]) == (413, "body_too_large")
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200


def test_batches_and_prompts_have_limits(make_server):
    running = make_server(max_choices=3, max_prompt_tokens=5, max_new_tokens=7)
    with running.client() as client:
        for asked in ({"n": 4}, {"prompt": ["a"] * 4}, {"prompt": "a" * 9}):
            said = client.post("/v1/completions", json={"prompt": "a"} | asked)
            assert said.status_code == 400
            assert "at most" in said.json()["error"]["message"]
        assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 7}).is_success


def _post(body):
    return (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_not_worked_for(
    make_server, session, endless, monkeypatch, stream, slow_steps
):
    running, counts = make_server(), slow_steps(session, monkeypatch)
    body = {"prompt": "a", "max_tokens": 90, "stream": stream}
    with socket.create_connection(("127.0.0.1", running.socket.getsockname()[1])) as raw:
        raw.sendall(_post(json.dumps(body).encode()))
        if stream:
            assert b"200 OK" in raw.recv(100)
        while not counts:
            time.sleep(0.001)
    scheduler = running.server.scheduler
    while scheduler.running:
        time.sleep(0.001)
    assert len(counts) < 80
    with running.client() as client:
        text = client.get("/metrics").text
    assert 'memoir_responses_total{path="/v1/completions",status="499"} 1.0' in text


def test_a_slow_reader_delays_nobody(make_server, session, endless):
    running = make_server()
    port = running.socket.getsockname()[1]
    slow = []
    for _ in range(4):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.connect(("127.0.0.1", port))
        body = b'{"prompt": "a", "max_tokens": 90, "n": 8, "stream": true, "logprobs": 20}'
        raw.sendall(_post(body))
        slow.append(raw)
    with running.client() as client:  # answered while nobody reads the others
        said = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 4})
    assert said.status_code == 200
    while running.server.scheduler.running:
        time.sleep(0.001)  # the slow ones' answers are finished, too
    for raw in slow:
        raw.close()


def test_keys_are_asked_for_below_a_prefix_too(make_server):
    running = make_server(admin_key="the-admin-key", api_key="the-api-key")
    outer = FastAPI()
    outer.mount("/facts", running.app)
    client = TestClient(outer)
    assert client.get("/facts/ready").status_code == 200
    assert client.get("/facts/v1/models").status_code == 401
    api = {"authorization": "Bearer the-api-key"}
    assert client.get("/facts/v1/models", headers=api).status_code == 200
    assert client.get("/facts/admin/memories", headers=api).status_code in (401, 403)


def test_a_body_that_never_comes_is_told_so(make_server, monkeypatch):
    monkeypatch.setattr(access, "_SLACK", 0.05)
    running = make_server(deadline=0.1)
    host, port = running.socket.getsockname()[:2]
    with socket.create_connection((host, port), timeout=30) as raw:
        raw.sendall(_post(b"x" * 1000)[:-999])
        got = b""
        while more := raw.recv(1000):  # the connection is closed
            got += more
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in got
    assert b"x-request-id" in got


def test_what_is_refused_is_logged_and_counted(running, caplog):
    caplog.set_level("INFO", "memoir_edge.serve")
    asked = [
        ("POST", "/v1/completions", API, 400), ("POST", "/v1/completions", None, 401),
        ("GET", "/v1/none", API, 404), ("POST", "/admin/memories", ADMIN, 400),
        ("GET", "/v1/models", API, 200),
    ]  # fmt: skip
    with running.client() as client:
        for i, (method, path, key, status) in enumerate(asked):
            headers = {"x-request-id": f"r{i}"} | (
                {"authorization": f"Bearer {key}"} if key else {}
            )
            assert client.request(method, path, headers=headers, json={}).status_code == status
        client.get("/ready")
        metrics = client.get("/metrics", headers={"authorization": f"Bearer {API}"}).text
    told = [r.fields for r in caplog.records if r.message == "request"]
    assert [(f["id"], f["path"], f["status"]) for f in told] == [
        (f"r{i}", path, status) for i, (_, path, _, status) in enumerate(asked) if status >= 400
    ]
    for path, status in (("/v1/completions", 400), ("/v1/completions", 401), ("other", 404)):
        assert f'memoir_responses_total{{path="{path}",status="{status}"}} 1.0' in metrics
