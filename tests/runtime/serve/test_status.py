"""Routes that look."""

import openai
import pytest


@pytest.fixture
def running(make_server, files):
    running = make_server()
    running.server.memories.load(files[0])
    running.server.memories.load(files[1], activate=False)
    return running


@pytest.fixture
def client(running):
    with running.openai() as client:
        yield client


def _generation(running, name):
    return running.server.memories.table.loaded[name].generation


def test_models(running, client):
    found = {m.id: m for m in client.models.list()}
    assert sorted(found) == ["base", "base@a", "base@b"]
    assert [m.id for m in found.values() if m.active] == ["base@a"]
    assert client.models.retrieve("default").id == "base@a"
    assert found["base@b"].digest == _generation(running, "b").digest
    with pytest.raises(openai.NotFoundError, match="base@zzz"):
        client.models.retrieve("base@zzz")
