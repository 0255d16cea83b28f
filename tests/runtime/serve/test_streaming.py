"""Streams: what they begin with, what keeps them open, and how they end."""

import asyncio

import pytest

from memoir_edge_runtime.serve import streaming
from memoir_edge_runtime.serve.streaming import alive

ASK = {"prompt": "a", "max_tokens": 2, "temperature": 0}


def test_a_stream_passes_proxies(make_server, session, endless, slow_steps, monkeypatch):
    monkeypatch.setattr(streaming, "_ALIVE", 0.002)
    slow_steps(session, monkeypatch)
    body = ASK | {"stream": True, "max_tokens": 10}
    with make_server().client() as client:
        stream = client.post("/v1/completions", json=body)
        with make_server().openai() as official:
            parts = list(official.completions.create(model="base", **body))
    assert stream.headers["cache-control"] == "no-cache"
    assert stream.headers["x-accel-buffering"] == "no"
    lines = [line for line in stream.text.splitlines() if line]
    assert ": still there" in lines
    assert lines[-1] == "data: [DONE]"
    assert parts[-1].choices[0].finish_reason == "length"  # comments are nothing to a client


def test_items_come_in_order_with_none_between_late_ones():
    async def late():
        try:
            for i in range(3):
                if i == 1:
                    await asyncio.sleep(0.05)
                yield i
            raise ZeroDivisionError
        finally:
            ended.append(True)

    async def collect(most):
        found, items = [], alive(late(), 0.01)
        async for item in items:
            found.append(item)
            if len(found) == most:
                await items.aclose()
                break
        return found

    ended = []
    assert asyncio.run(collect(1)) == [0]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(collect(None))
    assert len(ended) == 2
