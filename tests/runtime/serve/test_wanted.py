"""The memory that a configuration wants: fetched, checked, answering; and nothing else."""

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from memoir_edge.errors import InputError, MismatchError
from memoir_edge.memory import LimitError, NotSafetensorsError
from memoir_edge_runtime.serve.wanted import Wanted, fetch, follow, parse

DIGEST = "0" * 64


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _config(path, **rest):
    return {"memory": {"uri": str(path), "digest": _sha256(path)} | rest}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fetched").mkdir()
    return tmp_path / "fetched"


@pytest.fixture
def running(make_server):
    return make_server()


@pytest.fixture
def ready(running):
    """What `/ready` answers: status and document."""

    def ask():
        with running.client() as client:
            found = client.get("/ready")
        return found.status_code, found.json()

    return ask


def test_what_a_configuration_wants():
    assert parse({"memory": None}) is None
    plain = {"uri": "s3://bucket/by/day/facts.v2.safetensors?versionId=3", "digest": DIGEST}
    assert parse({"memory": plain}) == Wanted(plain["uri"], DIGEST, "facts")
    assert parse({"memory": plain | {"name": "today"}}).name == "today"


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        "s3://bucket/facts",
        {"memory": "s3://bucket/facts"},
        {"memory": {"uri": "a"}},
        {"memory": {"uri": "a", "digest": DIGEST, "path": "b"}},
        {"memory": {"uri": "a", "digest": 0}},
        {"memory": {"uri": "a", "digest": DIGEST[1:]}},
        {"memory": {"uri": "a", "digest": "A" * 64}},
        {"memory": None, "other": 1},
    ],
)
def test_what_it_cannot_want(config):
    with pytest.raises(InputError) as caught:
        parse(config)
    assert caught.value.hint


def test_secrets_of_a_uri_are_not_shown():
    shown = Wanted("https://me:secret@host/a.safetensors?X-Amz-Signature=12", DIGEST, "a").shown
    assert shown == "https://host/a.safetensors"


@pytest.fixture
def web(tmp_path):
    """A web server on a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_any_file_system_of_fsspec(tmp_path, folder, web):
    (tmp_path / "a").write_bytes(b"content" * 400_000)
    digest = _sha256(tmp_path / "a")
    with fsspec.open("memory://bucket/a", "wb") as out:
        out.write((tmp_path / "a").read_bytes())
    for uri in (tmp_path / "a", f"file://{tmp_path}/a", f"{web}/a", "memory://bucket/a"):
        found = fetch(Wanted(str(uri), digest, "a"), folder)
        assert _sha256(found) == digest
        found.unlink()


def test_what_cannot_be_fetched_leaves_nothing(tmp_path, folder, web):
    (tmp_path / "a").write_bytes(b"content")
    digest = _sha256(tmp_path / "a")
    for uri in (f"{tmp_path}/none", f"{web}/none", "nothing://a", "http://127.0.0.1:1/a"):
        with pytest.raises(InputError, match="cannot fetch"):
            fetch(Wanted(uri, digest, "a"), folder)
    with pytest.raises(MismatchError, match=digest):
        fetch(Wanted(f"{tmp_path}/a", DIGEST, "a"), folder)
    with pytest.raises(LimitError, match="more than 6 bytes"):
        fetch(Wanted(f"{tmp_path}/a", digest, "a"), folder, most=6)
    assert not list(folder.iterdir())
    assert fetch(Wanted(f"{tmp_path}/a", digest, "a"), folder, most=7).read_bytes() == b"content"


def test_forward_back_and_to_the_base_model(running, ready, files, folder):
    a, b = map(_config, files)
    for config in (a, b, a):
        follow(running.server, config, folder)
        name, digest = config["memory"]["uri"][-13], config["memory"]["digest"]
        expected = {"status": "ready", "model": f"base@{name}", "digest": digest}
        assert ready() == (200, expected)
        assert set(running.server.memories.table.loaded) == {"base", name}
        assert [each.stem for each in folder.iterdir()] == [digest]
    follow(running.server, {"memory": None}, folder)
    assert ready() == (200, {"status": "ready", "model": "base", "digest": None})
    assert set(running.server.memories.table.loaded) == {"base"}
    assert not list(folder.iterdir())


def test_nothing_is_counted_of_what_was_wanted_before(running, files, folder, prompts):
    follow(running.server, _config(files[0]), folder)
    with running.client() as client:
        client.post("/v1/completions", json={"prompt": prompts[:4]})
        counted = client.get("/metrics").text
        follow(running.server, _config(files[1]), folder)
        left = client.get("/metrics").text
    assert running.server.metrics.usage.of("a", "edit-0").fires == 0
    assert ('memory="a"' in counted, 'memory="a"' in left) == (True, False)


def test_the_same_file_under_another_name(running, files, folder):
    for name in ("one", "two"):
        follow(running.server, _config(files[0], name=name), folder)
        assert set(running.server.memories.table.loaded) == {"base", name}
        assert running.server.memories.table.default.file.exists()


def test_not_ready_until_the_wanted_memory_answers(running, ready, files, folder, monkeypatch):
    follow(running.server, _config(files[0]), folder)
    before, seen = ready()[1], []
    load = running.server.memories.load
    monkeypatch.setattr(
        running.server.memories, "load", lambda *a, **k: seen.append(ready()) or load(*a, **k)
    )
    follow(running.server, _config(files[1]), folder)
    assert seen == [(503, before | {"status": f"loading {_sha256(files[1])}"})]
    assert ready()[0] == 200


def test_what_fails_leaves_the_former_answering_and_says_why(running, ready, files, folder):
    follow(running.server, _config(files[0]), folder)
    digest = _sha256(files[0])
    files[1].write_bytes(files[1].read_bytes()[:-9])
    wrong = {"memory": {"uri": str(files[0]), "digest": DIGEST}}
    for config, error in (
        ({}, InputError),
        (wrong, MismatchError),
        (_config(files[1]), NotSafetensorsError),
        (_config(files[0], name="base"), InputError),
    ):
        with pytest.raises(error):
            follow(running.server, config, folder)
        status, document = ready()
        assert (status, document["digest"]) == (503, digest)
        assert document["status"] == running.server.unready
    follow(running.server, _config(files[0]), folder)
    assert ready()[0] == 200
