"""The command as operators run it: a process of its own, its log, its signals, its worst days."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from memoir_edge import memory as memories
from memoir_edge_runtime.serve import process

ADMIN = "the-admin-key"
HEAVY = ("torch", "transformers", "onnx", "onnxscript", "optimum")


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class Process:
    """`memoir-edge serve` with a log in a file."""

    def __init__(self, export_dir, log, *options, limit=None):
        self.log, self.port = log, _free_port()
        command = [sys.executable, "-m", "memoir_edge", "serve", export_dir, "--threads", 1]
        with log.open("wb", buffering=0) as written:
            self.process = subprocess.Popen(
                [str(word) for word in (*command, "--port", self.port, *options)],
                env=os.environ | {"MEMOIR_EDGE_ADMIN_KEY": ADMIN},
                stdout=subprocess.DEVNULL,
                stderr=written,
                preexec_fn=limit,
            )
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"authorization": f"Bearer {ADMIN}"},
            timeout=60,
        )
        self.until(lambda: self.ready() is not None)

    def ready(self):
        """What /ready says; None where nobody answers."""
        try:
            return self.client.get("/ready").json()
        except httpx.TransportError:
            assert self.process.poll() is None, self.log.read_text()
            return None

    def until(self, true):
        while not true():
            time.sleep(0.01)

    def lines(self, event):
        lines = map(json.loads, self.log.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line["event"] == event]

    def end(self, how=signal.SIGTERM):
        self.client.close()
        self.process.send_signal(how)
        return self.process.wait(60)


@pytest.fixture
def start(export_dir, tmp_path):
    """Start servers, each on a port of its own; what still runs at the end is killed."""
    started = []

    def make(*options, log=None, **rest):
        log = log or tmp_path / f"log-{len(started)}"
        started.append(Process(export_dir, log, *options, **rest))
        return started[-1]

    yield make
    for each in started:
        each.client.close()
        each.process.kill()
        each.process.wait()


@pytest.fixture
def pair(two, tmp_path) -> tuple[Path, Path]:
    """Two memory files in a folder of their own."""
    (tmp_path / "root").mkdir()
    files = tmp_path / "root" / "a.safetensors", tmp_path / "root" / "b.safetensors"
    for memory, file in zip(two, files, strict=True):
        memories.write(memory, file)
    return files


def _digest(file):
    return memories.read(file).digest


def test_it_listens_on_loopback_logs_json_and_ends_gently(start, pair, prompts):
    server = start("--memory", pair[0], "--memory", pair[1])
    asked = {"prompt": prompts[0], "max_tokens": 60, "ignore_eos": True, "stream": True}
    with server.client.stream("POST", "/v1/completions", json=asked) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert server.end() == 0
    [listening] = server.lines("listening")
    assert [line["device"] for line in server.lines("model")] == ["cpu"]
    assert (listening["host"], listening["port"]) == ("127.0.0.1", server.port)
    [request] = [line for line in server.lines("request") if line["path"] == "/v1/completions"]
    assert (request["status"], request["model"]) == (200, "base@a")
    assert (request["digest"], request["completion_tokens"]) == (_digest(pair[0]), 60)
    assert len(server.lines("memory load")) == 2
    assert prompts[0] not in server.log.read_text(encoding="utf-8")


def test_a_signal_at_the_moment_of_listening_ends_it(monkeypatch):
    lost, drained, before = [], [], signal.getsignal(signal.SIGTERM)

    async def goes_on(self):
        lost.append(True)

    def started(level, event, **fields):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(process._Listener, "main_loop", goes_on)
    monkeypatch.setattr(process, "log", started)
    try:
        process.listen(FastAPI(), "127.0.0.1", 0, grace=1, drain=lambda: drained.append(True))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (lost, drained) == ([], [True])


def test_a_second_ctrl_c_waits_for_nothing(start, prompts):
    server = start("--drain", 100, "--max-rows", 1)
    asked = {"prompt": [prompts[0]] * 64, "max_tokens": 1000, "ignore_eos": True, "stream": True}
    began = time.monotonic()
    with server.client.stream("POST", "/v1/completions", json=asked) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGINT)
        server.until(lambda: "CTRL+C to force quit" in server.log.read_text(encoding="utf-8"))
        server.process.send_signal(signal.SIGINT)
        last = [line for line in lines if line][-1]
    assert server.process.wait(60) == 130
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert "Traceback" not in server.log.read_text(encoding="utf-8")
    assert time.monotonic() - began < 30


def test_prompts_are_logged_where_they_are_asked_for(start, prompts):
    server = start("--log-prompts")
    asked = {"prompt": prompts[0], "max_tokens": 2}
    text = server.client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    assert server.end() == 0
    assert server.lines("request")[0]["answers"] == [{"prompt": prompts[0], "text": text}]


def test_a_file_that_is_followed(start, pair):
    file, other = pair
    server = start("--watch", file)
    assert server.ready()["digest"] == _digest(file)
    wanted = _digest(other)
    other.replace(file)
    server.until(lambda: server.ready()["digest"] == wanted)
    damaged = file.with_suffix(".tmp")
    damaged.write_bytes(file.read_bytes()[:-100])
    damaged.replace(file)
    server.until(lambda: any("error" in line for line in server.lines("memory load")))
    assert server.ready()["digest"] == wanted


@pytest.mark.parametrize(
    "touch",
    [
        lambda file: os.utime(file),
        lambda file: file.chmod(0o600),
        lambda file: file.write_bytes(file.read_bytes()),
        lambda file: Path(shutil.copy(file, file.with_suffix(".tmp"))).replace(file),
    ],
    ids=["touched", "other rights", "written again", "replaced by a copy"],
)
def test_a_followed_file_that_stays_the_same_undoes_no_rollback(start, pair, touch):
    file, other = pair
    server = start("--watch", file)
    server.client.post("/admin/memories/base/activate").raise_for_status()
    loads = len(server.lines("memory load"))
    touch(file)
    server.until(lambda: len(server.lines("memory load")) > loads)
    assert server.ready()["model"] == "base"
    other.replace(file)
    server.until(lambda: server.ready()["model"] == "base@a")  # another one answers


def test_memories_of_one_stem_are_given_two_names(start, pair, tmp_path):
    files = [tmp_path / "v1" / "facts.1.safetensors", tmp_path / "v2" / "facts.2.safetensors"]
    for file, source in zip(files, pair, strict=True):
        file.parent.mkdir()
        source.rename(file)
    named = ("--memory", f"other={files[1]}", "--memory", f"facts.1={files[0]}")
    server = start("--memory", files[1], *named)
    assert server.ready()["digest"] == _digest(files[1])
    found = {m["id"]: m["digest"] for m in server.client.get("/v1/models").json()["data"]}
    second = _digest(files[1])
    assert found == {
        "base": None, "base@facts": second, "base@other": second,
        "base@facts.1": _digest(files[0]),
    }  # fmt: skip


def test_a_followed_file_whose_folder_comes_later(start, pair, tmp_path):
    file = tmp_path / "later" / "a b.safetensors"
    server = start("--watch", f"facts={file}")
    assert server.ready()["status"] == "ready"
    assert (server.ready()["model"], server.ready()["waiting_for"]) == ("base", "base@facts")
    file.parent.mkdir()
    pair[0].rename(file)
    server.until(lambda: "waiting_for" not in server.ready())
    assert (server.ready()["model"], server.ready()["digest"]) == ("base@facts", _digest(file))
    server.client.post("/admin/memories/base/activate").raise_for_status()
    server.client.delete("/admin/memories/facts").raise_for_status()
    assert "waiting_for" not in server.ready()  # it has been there


def test_kill_9_under_load_leaves_files_that_the_next_start_takes(start, pair, prompts):
    before = [file.read_bytes() for file in pair]
    server = start("--memory", pair[0], "--memory-root", pair[0].parent)
    killed = threading.Event()

    def ask(*request):
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            client.headers = server.client.headers
            while not killed.is_set():
                try:
                    client.post(request[0], json=request[1])
                except httpx.TransportError:
                    return

    requests = [("/v1/completions", {"prompt": prompts[0], "max_tokens": 40})] * 4
    requests += [("/admin/memories", {"path": pair[1].name, "name": f"n{i}"}) for i in range(2)]
    threads = [threading.Thread(target=ask, args=request) for request in requests]
    for thread in threads:
        thread.start()
    server.until(lambda: len(server.lines("memory load")) > 4)
    server.process.kill()
    for thread in threads:
        thread.join()
    killed.set()
    assert [file.read_bytes() for file in pair] == before
    assert sorted(pair[0].parent.iterdir()) == sorted(pair)
    again = start("--memory", pair[0])
    assert again.ready()["digest"] == _digest(pair[0])


def test_a_full_disk(start, pair, tmp_path):
    """No file may grow and the log takes nothing: answers and loads need neither."""

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    options = ("--memory", pair[0], "--memory-root", pair[0].parent)
    server = start(*options, log=Path("/dev/full"), limit=no_room)
    loaded = server.client.post("/admin/memories", json={"path": pair[1].name})
    assert loaded.json()["digest"] == server.ready()["digest"] == _digest(pair[1])
    done = server.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
    assert done.json()["memory"]["digest"] == _digest(pair[1])
    # A copy that the full disk cut short is refused.
    cut = pair[0].parent / "cut.safetensors"
    cut.write_bytes(pair[0].read_bytes()[:4096])
    assert server.client.post("/admin/memories", json={"path": cut.name}).status_code == 422
    assert server.ready()["digest"] == _digest(pair[1])
    assert server.end() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory-root", "nowhere"], "memory root nowhere is no folder"),
        (["--memory", "nowhere"], "nowhere"),
        (["--memory", "a/m.safetensors", "--memory", "b/m.safetensors"], "both be called m"),
        (["--memory", "a/m.safetensors", "--watch", "b/m.safetensors"], "both be called m"),
        (["--watch", "base.safetensors"], "cannot be called 'base'"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
        (["--port", "65536"], "cannot listen on 127.0.0.1 port 65536"),
        (["--port", "-1"], "cannot listen on 127.0.0.1 port -1"),
    ],
)
def test_what_cannot_start_says_so_and_ends(export_dir, options, said):
    options = options if "--port" in options else ["--port", "0", *options]
    command = [sys.executable, "-m", "memoir_edge", "serve", export_dir, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_imports_nothing_heavy():
    script = (
        "import sys, memoir_edge_runtime.serve.process as p; p.create_app; "
        f"print([n for n in {HEAVY} if n in sys.modules])"
    )
    found = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert found.strip() == "[]"


def test_what_is_not_written_when_draining_ends_is_told_so(start, prompts):
    server = start("--drain", 0.1, "--max-rows", 1)  # the answers take seconds, by turns
    asked = {"prompt": [prompts[0]] * 16, "max_tokens": 1000, "ignore_eos": True, "temperature": 1}
    whole = []

    def ask():
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            whole.append(client.post("/v1/completions", json=asked))

    thread = threading.Thread(target=ask)
    with server.client.stream("POST", "/v1/completions", json=asked | {"stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        thread.start()
        server.until(lambda: "memoir_queue_depth 3" in server.client.get("/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1]
    thread.join()
    assert server.end() == 0
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert (whole[0].status_code, whole[0].json()["error"]["code"]) == (503, "stopping")
    asked = [line["status"] for line in server.lines("request")]
    assert asked == [503, 503]
    assert "Traceback" not in server.log.read_text(encoding="utf-8")


def test_a_request_that_would_rather_upgrade_is_answered(start, prompts):
    server = start()
    body = json.dumps({"prompt": prompts[0], "max_tokens": 2}).encode()
    head = (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__"
        b"\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    for parts in ([head + body], [head, body], [head[:90], head[90:] + body[:9], body[9:]]):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            for part in parts:
                raw.sendall(part)
                time.sleep(0.02)
            assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
