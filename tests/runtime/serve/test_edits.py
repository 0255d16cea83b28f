"""What was changed, and whether it is used: over HTTP."""

from dataclasses import replace

import pytest

from memoir_edge import memory as memories
from memoir_edge_runtime.serve import schema

KEY = "the-api-key"


@pytest.fixture
def running(make_server, two, prompts, tmp_path):
    """Two memories: one with records but of its last edit, one without any."""
    memory = two[0]
    told = [
        e._replace(record={"prompt": f"Prompt {i}", "target": ("Even", "Odd")[i % 2]})
        for i, e in enumerate(memory.edits[:-1])
    ]
    memories.write(replace(memory, edits=(*told, memory.edits[-1]), digest=None), tmp_path / "told")
    memories.write(replace(two[1], digest=None), tmp_path / "withheld")
    running = make_server(api_key=KEY)
    for name in ("withheld", "told"):
        running.server.memories.load(tmp_path / name, verify=False)
    return running


@pytest.fixture
def edits(running):
    with running.client(KEY) as client:

        def ask(name="told", **query):
            found = client.get(f"/v1/memories/{name}/edits", params=query)
            assert found.status_code == 200, found.text
            schema.EditList.model_validate(found.json())
            return found.json()

        yield ask


def test_what_was_changed_is_found_by_its_words(edits, two):
    count = len(two[0].edits)
    whole = edits()
    assert (whole["total"], whole["model"], len(whole["data"])) == (count, "base@told", count)
    assert whole["data"][0] | {"prompt": "Prompt 0", "target": "Even"} == whole["data"][0]
    assert whole["data"][-1]["prompt"] is None
    found = edits(query="odd PROMPT")
    assert found["total"] == (count - 1) // 2
    assert all(each["target"] == "Odd" for each in found["data"])
    [one] = edits(query=two[0].edits[-1].id)["data"]
    assert one["id"] == two[0].edits[-1].id
    assert edits(query="nowhere")["data"] == []
    part = edits(offset=1, limit=2)
    assert (part["data"], part["total"]) == (whole["data"][1:3], count)
    assert edits("withheld")["data"][0]["target"] is None
    assert edits("base")["data"] == []
    assert edits("default")["model"] == "base@told"


def test_its_use_is_counted_from_answers_alone(running, edits, prompts):
    with running.client(KEY) as client:
        client.post("/v1/route", json={"prompt": prompts[:1]})
        assert all(each["fires"] == 0 for each in edits()["data"])
        asked = {"prompt": prompts[0], "max_tokens": 1, "n": 2}
        said = client.post("/v1/completions", json=asked).json()
    best, *rest = edits(sort="fires")["data"]
    assert best["id"] == said["memory"]["edit"]
    assert best["fires"] == 2
    assert best["last_fired"] is not None
    assert all(each["fires"] == 0 for each in rest)
    assert all(each["fires"] == 0 for each in edits("withheld")["data"])


@pytest.mark.parametrize(
    ("path", "key", "status", "param"),
    [
        ("none/edits", KEY, 404, None), ("told/edits", None, 401, None),
        ("told/edits?limit=0", KEY, 400, "limit"), ("told/edits?sort=up", KEY, 400, "sort"),
        ("told/edits?offset=a", KEY, 400, "offset"),
    ],
)  # fmt: skip
def test_what_is_refused(running, path, key, status, param):
    with running.client(key) as client:
        found = client.get(f"/v1/memories/{path}")
    assert (found.status_code, found.json()["error"]["param"]) == (status, param)


def test_without_a_key_nobody_is_told(make_server):
    with make_server().client() as client:
        found = client.get("/v1/memories/base/edits")
    assert found.status_code == 404
    assert "API key" in found.json()["error"]["message"]
