"""What is taken, what is refused, and what the OpenAPI page says of replies."""

import pytest

from memoir_edge_runtime.serve import errors, schema


@pytest.fixture
def running(make_server, files):
    running = make_server()
    running.server.memories.load(files[0])
    running.server.memories.load(files[1], activate=False)
    return running


def test_replies_are_what_the_openapi_page_says(running, prompts):
    with running.client() as client:
        done = client.post("/v1/completions", json={"prompt": prompts[:2], "logprobs": 1})
        chat = client.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
        )
        schema.CompletionReply.model_validate(done.json())
        schema.ChatReply.model_validate(chat.json())
        schema.ModelList.model_validate(client.get("/v1/models").json())
        schema.ErrorReply.model_validate(client.post("/v1/completions", json={}).json())
        assert client.get("/docs").status_code == 200
        document = client.get("/openapi.json").json()
    assert "/v1/completions" in document["paths"]
    assert not [path for path in document["paths"] if path.startswith("/admin")]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": ""}, None),
        ({"prompt": "a" * 200}, "context"),
        ({"prompt": [[1, "a"]]}, "prompt.0.1"),
        ({"prompt": [[1], []]}, "prompt.1"),
        ({"prompt": [1, 2, "a"]}, "prompt.2: Input should be a valid integer"),
        ({"prompt": ["a", "b", 1]}, "prompt.2: Input should be a valid string"),
        ({"prompt": [[1, 2], [3, -1]]}, "prompt.1.1"),
        ({"prompt": [10**6]}, "token id 1000000"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 1000}, "at most"),
        ({"stop": ["a" * 201]}, "stop"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"tools": [{}]}, "tools"),
        ({"deadline": 0}, "deadline"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"add_special_tokens": False}, "add_special_tokens"),
        ({"detokenize": False}, "detokenize"),
        ({"model": "gpt-4"}, "no model 'gpt-4'"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_shape(running, wrong, said):
    with running.client() as client:
        found = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1} | wrong)
    if said is None:  # the tokenizer begins every text
        assert found.status_code == 200
        return
    assert found.status_code == (404 if "model" in wrong else 400)
    error = found.json()["error"]
    assert said in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 100_000,
        b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "\\ud800": 1}', b'{"prompt": "a", "deadline": Infinity}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_requests(running, body):
    with running.client() as client:
        found = client.post(
            "/v1/completions", content=body, headers={"content-type": "application/json"}
        )
    assert found.status_code == 400
    assert found.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "sent", "said"),
    [
        ("completions", {"prompt": [[]] * 200_000}, "prompt"),
        ("completions", {"prompt": [-1] * 200_000}, "prompt.0"),
        ("completions", {"prompt": "a"} | {str(i): 1 for i in range(50_000)}, "0: this server"),
        ("chat/completions", {"messages": [{"role": "user", "content": [5] * 200_000}]}, "content"),
        ("chat/completions", {"messages": [5] * 200_000}, "messages"),
        ("route", {"conversations": [["5"] * 50] * 4000}, "conversations.0.0"),
    ],
)
def test_thousands_of_faults_are_told_as_the_first(running, monkeypatch, path, sent, said):
    looked, meant = [], errors._meant
    monkeypatch.setattr(errors, "_meant", lambda p: looked.append(len(p)) or meant(p))
    with running.client() as client:
        found = client.post(f"/v1/{path}", json=sent)
    assert found.status_code == 400
    assert said in found.json()["error"]["message"]
    assert looked[0] <= 256


@pytest.mark.parametrize("depth", [2, 40, 900])
@pytest.mark.parametrize("inside", [{}, {"stream_options": {}}])
def test_what_is_unknown_may_be_deep(running, depth, inside):
    nothing = None
    for _ in range(depth):
        nothing = {"a": nothing}
    name, *_ = inside or ("x",)
    body = {"prompt": "a", "max_tokens": 1, name: {"x": nothing} if inside else nothing}
    with running.client() as client:
        found = client.post("/v1/completions", json=body)
    if depth == 2:
        assert found.status_code == 200
    else:
        assert (found.status_code, "x" in found.json()["error"]["param"]) == (400, True)
