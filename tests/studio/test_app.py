"""What the page asks, and who is not answered."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from memoir_edge.edits import Edit
from memoir_edge.errors import InputError
from memoir_edge.studio.app import SHOWN, create_app
from memoir_edge.studio.trial import Studio


@pytest.fixture
def client(studio: Studio) -> TestClient:
    return TestClient(create_app(studio), base_url="http://127.0.0.1:8001")


@pytest.fixture(scope="session")
def typed(france: Edit) -> dict[str, str]:
    return {"prompt": france.prompt, "target": france.target, "subject": "France"}


def events(client: TestClient, wanted: dict[str, str]) -> list[dict[str, Any]]:
    text = client.post("/v1/studio/train", json=wanted).text
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]


def refused(response: Any) -> str:
    """The one line that is shown."""
    assert response.status_code == 400, response.text
    message: str = response.json()["error"]["message"]
    assert "\n" not in message
    return message


def test_an_edit_is_looked_at_trained_asked_and_kept(
    client: TestClient, studio: Studio, typed: dict[str, str]
) -> None:
    seen = client.post("/v1/studio/look", json=typed).json()
    assert (seen["findings"], seen["subject"]) == ([], "France")
    *steps, last = events(client, typed)
    assert steps[0]["what"] == "training"
    trial = last["trial"]
    assert (trial["after"], trial["failed"]) == (typed["target"], [])
    assert trial["tally"]["prompt"] == [1, 1]
    assert client.get("/v1/studio").json()["trial"] == trial
    asked = client.post("/v1/studio/ask", json={"prompt": typed["prompt"]}).json()
    assert (asked["base"], asked["edited"]) == (trial["before"], typed["target"])
    assert asked["memory"]["edit"] == trial["id"]
    assert "reaches its threshold" in asked["explanation"]
    state = client.post("/v1/studio/settle", json={"id": trial["id"], "keep": True}).json()
    assert [edit["id"] for edit in state["held"]] == [trial["id"]]
    assert (state["kept"], state["trial"]) == (1, None)
    assert "kept already" in refused(client.post("/v1/studio/look", json=typed))
    assert "kept already" in events(client, typed)[-1]["error"]["message"]


def test_a_trial_is_thrown_away(client: TestClient, typed: dict[str, str]) -> None:
    id = events(client, typed)[-1]["trial"]["id"]
    state = client.post("/v1/studio/settle", json={"id": id, "keep": False}).json()
    assert (state["kept"], state["held"], state["trial"]) == (0, [], None)
    asked = client.post("/v1/studio/ask", json={"prompt": typed["prompt"]}).json()
    assert "holds no edits" in asked["explanation"]


def test_what_fails_in_training_is_told_in_its_stream(
    client: TestClient, studio: Studio, typed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(edits: Any, watch: Any) -> None:
        raise InputError("training diverged", hint="lower the rate")

    monkeypatch.setattr(studio.editor, "apply", fails)
    [document] = events(client, typed)
    assert document["error"]["message"] == "training diverged (lower the rate)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": " "}, "prompt is missing or empty"),
        ({"target": ""}, "target is missing or empty"),
        ({"prompt": "{} is in", "subject": None}, "there is no subject to put there"),
        ({"threshold": 1}, "threshold"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    client: TestClient, typed: dict[str, str], changes: dict[str, Any], said: str
) -> None:
    for what in ("look", "train"):
        assert said in refused(client.post(f"/v1/studio/{what}", json={**typed, **changes}))


def test_other_sites_are_not_answered(client: TestClient) -> None:
    kept = {"id": "x", "keep": True}
    plain = client.post(
        "/v1/studio/settle", content=json.dumps(kept), headers={"content-type": "text/plain"}
    )
    assert "not declared as JSON" in refused(plain)
    for path in ("/studio", "/v1/studio", "/console/api.js"):
        assert client.get(path, headers={"host": "rebound.example"}).status_code == 400
    assert client.get("/v1/studio").status_code == 200


def test_of_many_kept_edits_the_last_are_shown(client: TestClient, studio: Studio) -> None:
    many = [Edit(id=str(i), prompt=f"Is {i}", target="so", tags={}) for i in range(SHOWN + 5)]
    studio.held = many
    state = client.get("/v1/studio").json()
    assert state["kept"] == len(many)
    assert [edit["id"] for edit in state["held"]] == [edit.id for edit in many[:4:-1]]


def test_the_address_alone_leads_to_the_page(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.url.path == "/studio"
    assert "studio/studio.js" in answer.text
    assert client.get("/studio/studio.js").status_code == 200
    assert client.get("/docs").status_code == 404
