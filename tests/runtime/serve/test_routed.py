"""Over HTTP, a memory whose keys are codes: what replies, headers and the log say of it."""

import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memoir_edge import memory as memories
from memoir_edge.memory import UNREACHABLE, Codes
from memoir_edge.memory import Router as Bound
from memoir_edge.router.encoder import Encoder
from memoir_edge_exporter import export
from memoir_edge_runtime import Session
from memoir_edge_runtime.serve import schema
from memoir_edge_runtime.serve.headers import MEMORY

KEYS = ["the capital of France is", "the capital of Japan is"]  # an edit and a guard


@pytest.fixture(scope="module")
def memory_file(make_memory, encoder_dir: Path, tmp_path_factory) -> Path:
    encoder = Encoder(str(encoder_dir))
    codes = Codes(
        router=Bound(encoder.kind, encoder.digest, encoder.bits, encoder.weight),
        keys=encoder.codes(KEYS),
        owner=np.array([0, -1], np.int32),
        thresholds=np.full(2, 0.97, np.float32),
        texts=tuple(KEYS),
    )
    made = replace(
        make_memory(["any"]), thresholds=np.full(1, UNREACHABLE, np.float32), codes=codes
    )
    path = tmp_path_factory.mktemp("root") / "coded.safetensors"
    memories.write(made, path)
    return path


@pytest.fixture(scope="module")
def session(model_dir: Path, encoder_dir: Path, tmp_path_factory) -> Session:
    out = tmp_path_factory.mktemp("routed") / "onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while tracing
        export(model=model_dir, out=out, site="model.layers.1.mlp.down_proj",
               encoder=str(encoder_dir), precision="fp32")  # fmt: skip
    return Session(out, threads=1)


@pytest.fixture
def running(make_server, memory_file: Path) -> Iterator:
    running = make_server()
    running.server.memories.load(memory_file, verify=False)
    return running


def test_the_route_names_key_and_guard(running) -> None:
    asked = [*KEYS, "where is it?"]
    with running.client() as client:
        said = client.post("/v1/route", json={"prompt": asked})
    reached, guarded, near = schema.RouteReply.model_validate(said.json()).routes
    assert (reached.memory.edit, reached.memory.key) == ("edit-0", KEYS[0])
    assert (guarded.memory.edit, guarded.memory.guard, guarded.memory.key) == (None, True, KEYS[1])
    assert near.memory.edit is None
    assert repr(KEYS[0]) in reached.explanation
    assert f"a guard ({KEYS[1]!r}) is the best" in guarded.explanation


def test_a_chat_is_routed_by_its_last_user_message(running) -> None:
    chat = [{"role": "user", "content": KEYS[1]}, {"role": "assistant", "content": "Paris"}]
    body = {"messages": [*chat, {"role": "user", "content": KEYS[0]}], "max_tokens": 3}
    with running.client() as client:
        said = client.post("/v1/chat/completions", json=body)
        guarded = client.post("/v1/completions", json={"prompt": KEYS[1], "max_tokens": 1})
    assert said.json()["memory"]["edit"] == "edit-0"
    assert said.headers["x-memory-edit"] == "edit-0"
    assert "x-memory-guard" not in said.headers
    assert guarded.headers["x-memory-guard"] == "true"
    assert "x-memory-key" not in guarded.headers


def test_a_long_prompt_says_that_it_was_cut(running) -> None:
    long = "x " * 30 + KEYS[0]
    with running.client() as client:
        [route] = client.post("/v1/route", json={"prompt": long}).json()["routes"]
    assert route["memory"]["cut"]
    assert "the last part of a prompt" in route["explanation"]


def test_headers_of_a_stream_tell_of_the_first_choice(make_server, memory_file: Path) -> None:
    """Also where its prompt is read in parts, and another's token comes before its own."""
    running = make_server(prefill_tokens=8)
    running.server.memories.load(memory_file, verify=False)
    prompts = [f"{'x ' * 20}. {KEYS[0]}", "what river"]
    body = {"prompt": prompts, "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    with running.client() as client:
        stream = client.post("/v1/completions", json=body | {"stream": True, "logprobs": 0})
        whole = client.post("/v1/completions", json=body)
    told = [[(n, v) for n, v in each.headers.items() if n in MEMORY] for each in (stream, whole)]
    assert told[0] == told[1]
    assert stream.headers["x-memory-edit"] == "edit-0"
    begun = json.loads(stream.text.splitlines()[0].removeprefix("data: "))
    assert begun["choices"][0]["index"] == 1


def test_an_empty_prompt_is_refused(running) -> None:
    with running.client() as client:
        said = client.post("/v1/completions", json={"prompt": " "})
    assert said.status_code == 400
    assert "the prompt is empty" in said.json()["error"]["message"]


@pytest.mark.parametrize("shown", [False, True])
def test_the_log_tells_a_keys_text_only_where_it_may_tell_prompts(
    make_server, memory_file: Path, caplog: pytest.LogCaptureFixture, shown: bool
) -> None:
    running = make_server(log_prompts=shown)
    running.server.memories.load(memory_file, verify=False)
    with caplog.at_level(logging.INFO), running.client() as client:
        client.post("/v1/completions", json={"prompt": KEYS[0], "max_tokens": 1})
        running.stop()
    assert any("edit-0" in str(vars(record)) for record in caplog.records)
    assert any(KEYS[0] in str(vars(record)) for record in caplog.records) == shown
