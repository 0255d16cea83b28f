"""What was changed, and whether it is used: over HTTP."""

from dataclasses import replace

import pytest

from memoir_edge import memory as memories
from memoir_edge.history import Audit, begin, path_of
from memoir_edge.history.events import Wrong
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


def test_one_edit_is_told_in_full(running, two):
    with running.client(KEY) as client:
        found = client.get("/v1/memories/told/edits/edit-0").json()
        bare = client.get("/v1/memories/withheld/edits/edit-0").json()
        none = client.get("/v1/memories/told/edits/a%2Fb")
    schema.EditDetail.model_validate(found)
    assert found["record"] == {"prompt": "Prompt 0", "target": "Even"}
    assert found["threshold"] == pytest.approx(0.9)
    assert (bare["record"], bare["keys"], bare["prompt"]) == (None, [], None)
    assert (none.status_code, "no edit 'a/b'" in none.text) == (404, True)


def _detail(running, name, id):
    with running.client(KEY) as client:
        found = client.get(f"/v1/memories/{name}/edits/{id}").json()
        schema.EditDetail.model_validate(found)
        return found


def _journaled(file, wrong=()):
    """Begin a journal from a memory, check its edits, and write it again."""
    with begin(path_of(file), memories.read(file), {}) as journal:
        ids = [entry.id for entry in journal.origin.edits]
        failed = list({one.edit for one in wrong})
        tally = {id: {"prompt": (1, 1)} for id in ids}
        journal.record(Audit(len(ids), failed, [], tally, list(wrong)))
        journal.write(file)


def test_an_edits_history_is_that_of_the_journal_beside_the_memory(running, tmp_path):
    memory = running.server.memories
    for name in ("told", "withheld"):
        ids = [entry.id for entry in memories.read(tmp_path / name).edits]
        wrong = [Wrong(ids[0], "key", "another text", "no", None)]
        _journaled(tmp_path / name, wrong)
        memory.load(tmp_path / name, verify=False)
        [first, last] = _detail(running, name, ids[0])["history"]
        told = {"wrong": [wrong[0]._asdict()]} if name == "told" else {}
        step = {"step": 1, "what": "audit", "held": False, "asked": {"prompt": [1, 1]}}
        assert {n: v for n, v in first.items() if n != "at"} == step | told
        assert last["digest"] == memory.named(name).generation.digest
        assert _detail(running, name, ids[1])["history"][0]["held"]


def test_where_no_journal_tells_it_that_is_said(running, two, tmp_path):
    id = two[0].edits[0].id
    found = _detail(running, "told", id)
    assert (found["history"], found["replayed"], found["probes"]) == (None, 0, 0)
    assert found["history_unknown"] == "no journal lies beside the memory"
    _journaled(tmp_path / "withheld")
    path_of(tmp_path / "withheld").rename(path_of(tmp_path / "told"))
    assert "is not the journal of memory" in _detail(running, "told", id)["history_unknown"]
    path_of(tmp_path / "told").write_bytes(b"no journal")
    assert "is no journal" in _detail(running, "told", id)["history_unknown"]


def test_a_journal_that_leads_elsewhere_is_not_followed(running, two, tmp_path):
    id = two[0].edits[0].id
    _journaled(tmp_path / "told")
    running.server.memories.load(tmp_path / "told", verify=False)
    assert _detail(running, "told", id)["history"]
    (tmp_path / "elsewhere").mkdir()
    journal = path_of(tmp_path / "told")
    moved = journal.rename(tmp_path / "elsewhere" / "journal")
    journal.symlink_to(moved)
    assert _detail(running, "told", id)["history_unknown"] == "no journal lies beside the memory"
    (tmp_path / "linked").mkdir()  # both may be links to where both lie
    for name, target in (("told", tmp_path / "told"), (journal.name, moved)):
        (tmp_path / "linked" / name).symlink_to(target)
    target = moved.rename(tmp_path / "beside")
    (tmp_path / "linked" / journal.name).unlink()
    (tmp_path / "linked" / journal.name).symlink_to(target)
    running.server.memories.load(tmp_path / "linked" / "told", verify=False)
    assert _detail(running, "told", id)["history"]


def test_what_was_replayed_is_told(running, files):
    loaded = running.server.memories.load(files[0])
    probe = loaded.generation.memory.probes[0]
    found = _detail(running, "a", probe.edit)
    assert found["replayed"] == loaded.probes
    assert found["probes"] >= 1
