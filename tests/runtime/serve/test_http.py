"""What HTTP asks of every route: origins, HEAD, ids, compressed bodies, pipelines."""

import gzip
import json
import re
import socket
import zlib

import pytest

from memoir_edge.errors import InputError
from memoir_edge_runtime.serve.metrics import Metrics
from memoir_edge_runtime.serve.settings import Settings

PAGE = "http://localhost:5173"
ASK = {"prompt": "a", "max_tokens": 2, "temperature": 0}
KEY = "the-api-key"


def preflight(client, origin, path="/v1/chat/completions"):
    return client.options(
        path,
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-os",
        },
    )


@pytest.mark.parametrize("allowed", [(PAGE, "https://b.example"), ("*",)])
@pytest.mark.parametrize("key", [None, KEY])
def test_pages_of_named_origins_may_ask_and_read(make_server, allowed, key):
    running = make_server(origins=allowed, api_key=key)
    with running.client() as stranger, running.client(key) as client:
        asked = preflight(stranger, PAGE)
        assert asked.status_code == 200  # browsers send no key with it
        assert asked.headers["access-control-allow-origin"] in (PAGE, "*")
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()
        done = client.post("/v1/completions", json=ASK, headers={"origin": PAGE})
        shown = done.headers["access-control-expose-headers"]
        assert {"x-request-id", "x-memory-edit", "x-max-tokens"} <= set(shown.split(", "))
        wrong = stranger.post("/v1/completions", json={}, headers={"origin": PAGE})
        for each in (done, wrong):  # also what a refusal says
            assert each.headers["access-control-allow-origin"] in (PAGE, "*")
        assert (done.status_code, wrong.status_code) == (200, 401 if key else 400)


def test_other_origins_may_not(make_server):
    with make_server(origins=(PAGE,)).client() as client:
        for origin in ("http://localhost:5174", "https://localhost:5173", "null", PAGE + ".evil"):
            refused = preflight(client, origin)
            assert (refused.status_code, "x-request-id" in refused.headers) == (400, True)
            done = client.post("/v1/completions", json=ASK, headers={"origin": origin})
            assert "access-control-allow-origin" not in done.headers
    with make_server().client() as client:
        assert preflight(client, PAGE).status_code == 405


@pytest.mark.parametrize(
    "origin",
    [
        "localhost", "http://", "http://a/b", "", "http://a b", "http://localhost:*",
        "https://*.example.com", "http://LOCALHOST:5173", "https://a.b:443", "http://a.b:80",
        "http://h?x#y", "http://user@host", "http://host:port",
    ],
)  # fmt: skip
def test_what_is_no_origin(origin):
    with pytest.raises(InputError, match="is no origin"):
        Settings(origins=(origin,))


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "https://a-b.example", "http://[::1]:80800", "app://x_y"]
)
def test_what_is_an_origin(origin):
    assert Settings(origins=(origin,)).origins == (origin,)


def test_head_is_get_without_its_body(make_server):
    with make_server(api_key=KEY).client() as client:
        for path in ("/health", "/ready", "/v1/models", "/metrics", "/openapi.json", "/none"):
            seen, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (seen.status_code, b"")
            assert head.headers["content-type"] == seen.headers["content-type"]
        assert client.head("/health").status_code == 200


@pytest.mark.parametrize("key", [None, KEY])
def test_every_answer_has_the_requests_id(make_server, key):
    requests = [
        ("GET", "/health", None), ("GET", "/none", None), ("POST", "/v1/completions", ASK),
        ("POST", "/v1/completions", ASK | {"stream": True}), ("POST", "/v1/completions", {}),
        ("HEAD", "/ready", None), ("PUT", "/v1/models", None),
    ]  # fmt: skip
    with make_server(api_key=key).client() as client:
        for method, path, body in requests:
            own = client.request(method, path, json=body, headers={"x-request-id": "a-1._B"})
            assert own.headers.get_list("x-request-id") == ["a-1._B"]
            for bad in ("", "a b", "é", "x" * 65):
                made = client.request(
                    method, path, json=body, headers=[(b"x-request-id", bad.encode())]
                )
                assert re.fullmatch("[0-9a-f]{24}", made.headers["x-request-id"])


@pytest.mark.parametrize("key", [None, KEY])
def test_an_answer_that_fails_unforeseen_has_an_id_and_an_origin(make_server, monkeypatch, key):
    running = make_server(origins=(PAGE,), api_key=key)
    monkeypatch.delattr(Metrics, "text")
    with running.client(key) as client:
        found = client.get("/metrics", headers={"origin": PAGE, "x-request-id": "mine"})
    assert (found.status_code, found.json()["error"]["type"]) == (500, "server_error")
    assert found.headers["x-request-id"] == "mine"
    assert found.headers["access-control-allow-origin"] == PAGE


def test_compressed_bodies_are_read_as_what_they_hold(make_server):
    plain = json.dumps(ASK | {"prompt": "a" * 40}).encode()
    with make_server(max_body=200).client() as client:

        def post(body, encoding):
            headers = {"content-type": "application/json", "content-encoding": encoding}
            return client.post("/v1/completions", content=body, headers=headers)

        expected = client.post("/v1/completions", json=json.loads(plain)).json()["choices"]
        for pack, name in ((gzip.compress, "gzip"), (zlib.compress, "deflate")):
            whole = pack(plain)
            for body in (whole, iter([whole[:9], whole[9:]])):
                assert post(body, name).json()["choices"] == expected
            for large in (pack(b" " * 201), pack(b" " * 10**7)[:150]):
                for body in (large, iter([large])):
                    said = post(body, name)
                    assert (said.status_code, said.json()["error"]["code"]) == (
                        413,
                        "body_too_large",
                    )
            for spoiled in (plain, whole[:-1], whole + b"x", b""):
                found = post(spoiled, name)
                assert found.status_code == 400
                assert "cannot be inflated" in found.json()["error"]["message"]
        assert post(plain, "identity").json()["choices"] == expected
        assert post(plain, "br").status_code == 415
        assert "br" in post(plain, "br").json()["error"]["message"]


def test_a_body_that_is_inflated_for_nobody(make_server):
    """Who has no key is refused before any work is done for it."""
    with make_server(api_key=KEY, max_body=100).client() as client:
        headers = {"content-encoding": "gzip"}
        bomb = gzip.compress(b" " * 10**6)[:90]
        assert client.post("/v1/completions", content=bomb, headers=headers).status_code == 401


def test_pipelined_requests_are_answered_in_their_order(make_server):
    running = make_server()
    host, port = running.socket.getsockname()[:2]
    bodies = [json.dumps(ASK | {"max_tokens": n}).encode() for n in (9, 1, 4)]
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sent = b"".join(
        head + b"X-Request-Id: r%d\r\nContent-Length: %d\r\n" % (i, len(body))
        + (b"Connection: close\r\n" if i == 2 else b"") + b"\r\n" + body
        for i, body in enumerate(bodies)
    )  # fmt: skip
    with socket.create_connection((host, port), timeout=30) as client:
        client.sendall(sent)
        got = b""
        while more := client.recv(65536):
            got += more
    assert got.count(b"HTTP/1.1 200") == 3
    assert re.findall(rb"x-request-id: (r\d)", got) == [b"r0", b"r1", b"r2"]
