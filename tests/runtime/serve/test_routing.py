"""Where prompts would go."""

import pytest

from memoir_edge_runtime.serve import schema


@pytest.fixture
def running(make_server, files):
    running = make_server()
    running.server.memories.load(files[0])
    running.server.memories.load(files[1], activate=False)
    return running


def test_a_route_is_explained_without_an_answer(session, running, prompts):
    expected = session.route(
        prompts[:2], memory=running.server.memories.table.loaded["a"].generation
    )
    with running.client() as client:
        found = client.post("/v1/route", json={"prompt": prompts[:2]}).json()
        chat = client.post(
            "/v1/route", json={"messages": [{"role": "user", "content": "a"}], "model": "base"}
        ).json()
        neither = client.post("/v1/route", json={})
    assert [r["memory"]["edit"] for r in found["routes"]] == [r.edit for r in expected]
    assert "reaches its threshold" in found["routes"][0]["explanation"]
    assert "no memory is asked" in chat["routes"][0]["explanation"]
    assert neither.status_code == 400
    schema.RouteReply.model_validate(found)


def test_many_prompts_and_conversations_are_routed_at_once(session, running, prompts):
    memory, asked = running.server.memories.table.loaded["a"].generation, prompts * 3
    expected = session.route(asked, memory=memory)
    chats = [[{"role": "user", "content": text}] for text in asked]
    wanted = session.route([session.chat_prompt(chat) for chat in chats], memory=memory)
    with running.client() as client:
        found = client.post("/v1/route", json={"prompt": asked}).json()["routes"]
        said = client.post("/v1/route", json={"conversations": chats}).json()["routes"]
        base = client.post("/v1/route", json={"prompt": asked, "model": "base"}).json()["routes"]
        both = client.post("/v1/route", json={"prompt": "a", "messages": chats[0]}).json()
    assert len(asked) > 64
    assert [r["memory"]["edit"] for r in found] == [r.edit for r in expected]
    assert [r["memory"]["edit"] for r in said] == [r.edit for r in wanted]
    assert [r["index"] for r in base] == list(range(len(asked)))
    assert both["error"]["param"] == "messages"
