"""Memories loaded, exchanged and taken out of a server that answers."""

import json
import shutil
import threading
from dataclasses import replace

import pytest

from memoir_edge import memory as memories
from memoir_edge.memory import Probe
from memoir_edge_runtime import Options

ADMIN = "the-admin-key"


@pytest.fixture
def running(make_server, files):
    return make_server(admin_key=ADMIN, memory_roots=(files[0].parent,))


@pytest.fixture
def admin(running):
    with running.client(ADMIN) as client:
        yield client


def _load(admin, file, **rest):
    return admin.post("/admin/memories", json={"path": str(file)} | rest)


def _digest(client, **wanted):
    asked = {"prompt": "a", "max_tokens": 1} | wanted
    return client.post("/v1/completions", json=asked).json()["memory"]["digest"]


def test_load_activate_unload(admin, files):
    a, b = (_load(admin, file.name).json() for file in files)
    assert (a["name"], a["active"], b["name"], b["active"]) == ("a", True, "b", True)
    assert a["probes"] == 8
    assert _digest(admin) == b["digest"] == memories.read(files[1]).digest
    assert _digest(admin, model="base@a") == a["digest"]
    assert admin.post("/admin/memories/a/activate").json()["active"]
    assert _digest(admin) == a["digest"]
    assert admin.post("/admin/memories/base/activate").status_code == 200
    assert _digest(admin) is None
    assert admin.delete("/admin/memories/a").status_code == 200
    assert [m["name"] for m in admin.get("/admin/memories").json()["memories"]] == ["base", "b"]
    assert admin.post("/v1/completions", json={"prompt": "a", "model": "base@a"}).status_code == 404
    assert admin.get("/ready").json()["digest"] is None


def test_activating_is_gated_on_probes_if_asked(admin, files):
    memory = memories.read(files[1])
    bad = (Probe("a", "never said", memory.edits[0].id),)
    memories.write(replace(memory, probes=bad, digest=None), files[1])
    good = _load(admin, files[0], activate=False, verify=False).json()
    _load(admin, files[1], activate=False, verify=False)
    assert good["probes"] == 0
    refused = admin.post("/admin/memories/b/activate?verify=true")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "verification_failed")
    assert _digest(admin) is None
    held = admin.post("/admin/memories/a/activate?verify=true").json()
    assert (held["active"], held["probes"]) == (True, 8)
    assert _digest(admin) == good["digest"]
    assert admin.post("/admin/memories/base/activate?verify=true").json()["probes"] == 0
    assert admin.post("/admin/memories/none/activate?verify=true").status_code == 404
    assert admin.post("/admin/memories/b/activate").json()["active"]  # it was not asked for


def test_what_is_active_is_not_unloaded(admin, files):
    _load(admin, files[0])
    for name, status in (("a", 409), ("base", 409), ("none", 404)):
        assert admin.delete(f"/admin/memories/{name}").status_code == status
    assert admin.post("/admin/memories/none/activate").status_code == 404


def test_what_is_loaded_meanwhile_is_unloaded(running, admin, files, monkeypatch):
    memories = running.server.memories
    unload = memories.unload
    monkeypatch.setattr(
        memories,
        "unload",
        lambda name: memories.load(files[0], activate=False, verify=False) and unload(name),
    )
    assert admin.delete("/admin/memories/a").json()["file"] == str(files[0])


def test_the_log_names_what_was_changed_beside_what_answers(admin, files, caplog):
    with caplog.at_level("INFO", "memoir_edge.serve"):
        _load(admin, files[0])
        _load(admin, files[1], activate=False)
        _load(admin, files[1], name="c", digest="0" * 64)
        admin.post("/admin/memories/none/activate")
        admin.delete("/admin/memories/b")
    told = [(r.message, r.fields) for r in caplog.records if r.message.startswith("memory ")]
    assert [(what, f["memory"], f["active"], "error" in f) for what, f in told] == [
        ("memory load", "a", "a", False),
        ("memory load", "b", "a", False),
        ("memory load", "c", "a", True),
        ("memory activate", "none", "a", True),
        ("memory unload", "b", "a", False),
    ]


def test_loading_beside_without_activating(admin, files):
    found = _load(admin, files[0], activate=False, name="my-facts.2").json()
    assert (found["name"], found["active"]) == ("my-facts.2", False)
    assert _digest(admin) is None
    assert _digest(admin, model="base@my-facts.2") == found["digest"]


def test_another_file_under_the_same_name_is_used_at_once(admin, files):
    old = _load(admin, files[0]).json()
    shutil.copy(files[1], files[0])
    new = _load(admin, files[0]).json()
    assert old["digest"] != new["digest"] == _digest(admin) == _digest(admin, model="base@a")
    assert len(admin.get("/admin/memories").json()["memories"]) == 2


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), 422, "NotSafetensorsError"),
        (lambda path: path.write_bytes(b""), 422, "NotSafetensorsError"),
        (lambda path: path.unlink(), 403, "path_not_allowed"),
        (lambda path: path.unlink() or path.mkdir(), 400, None),
    ],
)
def test_a_load_that_fails_leaves_all_as_it_was(admin, files, spoil, status, code):
    before = _load(admin, files[0]).json()
    listed = admin.get("/admin/memories").json()
    spoil(files[1])
    found = _load(admin, files[1])
    error = found.json()["error"]
    assert (found.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert admin.get("/admin/memories").json() == listed
    assert _digest(admin) == before["digest"]


def test_every_flipped_byte_is_refused(admin, files):
    _load(admin, files[0])
    listed, data = admin.get("/admin/memories").json(), files[1].read_bytes()
    for at in range(0, len(data), 1000):
        files[1].write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        found = _load(admin, files[1])
        assert found.status_code == 422, at
    assert admin.get("/admin/memories").json() == listed


def test_a_memory_of_another_model(admin, files, make_memory):
    memories.write(make_memory([], digest="0" * 64), files[1])
    found = _load(admin, files[1])
    assert (found.status_code, found.json()["error"]["code"]) == (422, "MismatchError")
    assert "base model" in found.json()["error"]["message"]


def test_a_probe_that_does_not_hold(admin, files):
    memory = memories.read(files[1])
    wrong = replace(memory, probes=(*memory.probes, Probe("the", "never this", None)))
    memories.write(wrong, files[1])
    found = _load(admin, files[1])
    assert (found.status_code, found.json()["error"]["code"]) == (422, "verification_failed")
    assert "'never this'" in found.json()["error"]["message"]
    assert len(admin.get("/admin/memories").json()["memories"]) == 1
    assert _load(admin, files[1], verify=False).status_code == 200
    assert _load(admin, files[1]).status_code == 422  # not taken for verified since


def test_the_wanted_digest_is_checked(admin, files):
    digest = memories.read(files[0]).digest
    assert _load(admin, files[0], digest="0" * 64).status_code == 422
    assert _load(admin, files[0], digest=digest).json()["digest"] == digest


@pytest.mark.parametrize("link", ["now.safetensors", "sub/now.v1.safetensors", "sub/../now"])
def test_a_link_is_called_by_its_own_name(admin, files, link):
    (files[0].parent / "sub").mkdir()
    place = files[0].parent / link
    for file in files:  # as when the link is led elsewhere
        place.unlink(missing_ok=True)
        place.symlink_to(file)
        found = _load(admin, link).json()
        assert (found["name"], found["file"]) == ("now", str(file))
        assert _digest(admin, model="base@now") == memories.read(file).digest
    assert [m["name"] for m in admin.get("/admin/memories").json()["memories"]] == ["base", "now"]


@pytest.mark.parametrize("name", ["base", "default", "a/b", "", "x" * 65, "ä", "-"])
def test_names_that_cannot_be(admin, files, name):
    assert _load(admin, files[0], name=name).status_code == 400


def test_only_so_many_are_loaded(make_server, files):
    running = make_server(admin_key=ADMIN, memory_roots=(files[0].parent,), max_memories=1)
    with running.client(ADMIN) as admin:
        assert _load(admin, files[0]).status_code == 200
        assert _load(admin, files[1]).status_code == 409
        assert _load(admin, files[1], name="a").status_code == 200


def test_paths_outside_the_roots(admin, files, tmp_path):
    outside = tmp_path / "outside.safetensors"
    shutil.copy(files[0], outside)
    root = files[0].parent
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "up").symlink_to(tmp_path)
    for path in (outside, root / ".." / outside.name, "../outside.safetensors", root / "link",
                 "up/outside.safetensors", "/etc/passwd", "loop", "a\0b", "x" * 4000):  # fmt: skip
        found = _load(admin, path)
        assert (found.status_code, found.json()["error"]["code"]) == (403, "path_not_allowed"), path
    (root / "inside").symlink_to(files[0])
    assert _load(admin, "inside").status_code == 200


def test_streams_finish_on_the_memory_they_began_with(running, admin, session, files, prompts):
    a, b = (_load(admin, file).json()["digest"] for file in files)
    held, step = threading.Event(), session.decoder.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.decoder, "step", lambda s, t: held.wait(60) and step(s, t))
        asked = {"prompt": prompts[0], "max_tokens": 9, "temperature": 0, "stream": True}
        with admin.stream("POST", "/v1/completions", json=asked | {"model": "base@a"}) as stream:
            assert stream.headers["x-memory-digest"] == a
            assert admin.post("/admin/memories/b/activate").status_code == 200
            assert admin.delete("/admin/memories/a").status_code == 200
            held.set()
            parts = [
                json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")
            ]
    assert parts[-1]["memory"]["digest"] == a
    assert 'memory="a"' not in admin.get("/metrics").text
    generation = session.load(files[0])
    [alone] = session.generate(prompts[0], Options(max_new_tokens=9), memory=generation)
    assert "".join(p["choices"][0]["text"] for p in parts) == alone.text
    assert _digest(admin) == b


def test_swaps_under_load_mix_nothing(running, admin, session, files, prompts):
    loaded = {_load(admin, file).json()["name"]: session.load(file) for file in files}
    expected = {
        (g.digest, p): session.generate(p, Options(max_new_tokens=8), memory=g)[0].text
        for g in (session.base, *loaded.values())
        for p in prompts[:6]
    }
    seen, wrong = set(), []

    def ask(n):
        with running.client() as client:
            for i in range(12):
                prompt = prompts[(n + i) % 6]
                wanted = {"prompt": prompt, "max_tokens": 8, "temperature": 0}
                found = client.post("/v1/completions", json=wanted).json()
                digest = found["memory"]["digest"]
                seen.add(digest)
                if found["choices"][0]["text"] != expected[digest, prompt]:
                    wrong.append(found)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    names = ["a", "b", "base"]
    while any(thread.is_alive() for thread in threads):
        names.append(names.pop(0))
        assert admin.post(f"/admin/memories/{names[0]}/activate").status_code == 200
    assert not wrong
    assert len(seen) == 3


def test_unloaded_memories_leave_no_series_behind(running, admin, files, prompts):
    for file in files:
        _load(admin, file)
    for model in ("base@a", "base@b", "base"):
        admin.post("/v1/completions", json={"prompt": prompts[:4], "model": model})
    text = admin.get("/metrics").text
    assert 'memoir_fires_total{edit="edit-0",memory="a"} 1.0' in text
    assert 'memoir_bypasses_total{memory="base"} 4.0' in text
    assert 'memoir_memory_changes_total{result="ok",what="load"} 2.0' in text
    admin.delete("/admin/memories/a")
    text = admin.get("/metrics").text
    assert 'memory="a"' not in text
    assert 'memory="b"' in text
