"""Streams: what they begin with, what keeps them open, and how they end."""

import asyncio
import logging
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from memoir_edge_runtime import Result, Routing, Token
from memoir_edge_runtime.serve import exchange
from memoir_edge_runtime.serve.errors import ModelError
from memoir_edge_runtime.serve.scheduler import Failed, Ticket
from memoir_edge_runtime.serve.settings import Settings

ASK = {"prompt": "a", "max_tokens": 2, "temperature": 0}


def test_a_stream_passes_proxies(make_server, session, endless, slow_steps, monkeypatch):
    monkeypatch.setattr(exchange, "_ALIVE", 0.002)
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


@pytest.mark.parametrize("end", ["left", "late"])
def test_a_stream_that_ends_early_counts_as_far_as_it_came(
    make_server, session, files, prompts, slow_steps, monkeypatch, caplog, end
):
    slow_steps(session, monkeypatch)
    running = make_server()
    running.server.memories.load(files[0])
    body = ASK | {"prompt": prompts[0], "stream": True, "max_tokens": 80, "ignore_eos": True}
    if end == "late":
        body["deadline"] = 0.3
    with caplog.at_level(logging.INFO), running.client() as client:
        with client.stream("POST", "/v1/completions", json=body) as stream:
            edit, lines = stream.headers["x-memory-edit"], stream.iter_lines()
            next(lines)
            if end == "late":
                assert "deadline_exceeded" in "".join(lines)
        while not (found := [r.fields for r in caplog.records if r.message == "request"]):
            time.sleep(0.01)
        text = client.get("/metrics").text
    [told] = found
    assert f'memoir_fires_total{{edit="{edit}",memory="a"}} 1.0' in text
    assert 'memoir_tokens_total{kind="completion",memory="a"}' in text
    assert running.server.metrics.usage.of("a", edit).fires == 1
    assert (told["status"], told["edit"]) == ({"left": 499, "late": 504}[end], edit)
    assert 0 < told["completion_tokens"] < 80


class Slow:
    """A scheduler that delivers what it is given, each event a while after the last."""

    def __init__(self, *events):
        self.events, self.tickets = events, []

    def submit(self, rows, generation, deliver, *, seconds):
        async def tell():
            for event in self.events:
                await asyncio.sleep(0.05)
                deliver([event])

        self.task = asyncio.ensure_future(tell())
        self.tickets.append(Ticket(rows, generation, deliver))
        return self.tickets[-1]


def told(scheduler, most=None, **how):
    """What `written` gives of one row, up to so many."""

    async def collect():
        server = SimpleNamespace(scheduler=scheduler, settings=Settings())
        loaded, found = SimpleNamespace(generation=None), []
        events = exchange.written(server, [None], loaded, math.inf, **how)
        async for some in events:
            found.append(list(some))
            if len(found) == most:
                break
        await events.aclose()
        return found

    return asyncio.run(collect())


def test_events_come_in_order_with_none_between_late_ones(monkeypatch):
    monkeypatch.setattr(exchange, "_ALIVE", 0.01)
    tokens = [Token(0, 5, "a"), Token(0, 6, "b")]
    end = Result(0, "", "ab", (5, 6), "length", 1, Routing())
    found = told(Slow(*tokens, end), stream=True)
    assert [event for some in found for event in some] == [*tokens, end]
    assert found[0] == tokens[:1]  # nothing before the first
    assert [] in found[1:]
    assert found[-1] == [end]
    assert told(Slow(*tokens, end)) == [[event] for event in (*tokens, end)]  # no stream
    assert told(Slow(*tokens, end), bare=True) == [[replace(end, text="", ids=())]]


def test_a_failure_ends_what_is_told_and_leaving_cancels(monkeypatch):
    monkeypatch.setattr(exchange, "_ALIVE", 0.01)
    scheduler = Slow(Token(0, 5, "a"), Failed(ZeroDivisionError("of the model")))
    with pytest.raises(ModelError) as failed:
        told(scheduler, stream=True)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    scheduler = Slow(Token(0, 5, "a"), Token(0, 6, "b"))
    assert told(scheduler, 2, stream=True) == [[Token(0, 5, "a")], []]
    assert [ticket.cancelled for ticket in scheduler.tickets] == [True]
