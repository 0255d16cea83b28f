"""What traces tell of requests and swaps, kept in memory by OpenTelemetry's own exporter."""

import sys

import pytest

from memoir_edge.errors import InputError, MemoryFormatError
from memoir_edge_runtime.serve import tracing

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra otel is not installed")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ASK = {"max_tokens": 3, "temperature": 0, "model": "base@a"}


@pytest.fixture
def spans(monkeypatch):
    """Those that have ended."""
    provider, kept = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(tracing, "exporting", lambda: provider)
    return kept.get_finished_spans


@pytest.fixture
def running(spans, make_server, files):
    running = make_server(traces=True)
    running.server.memories.load(files[0])
    return running


def named(spans, name):
    return [span for span in spans() if span.name == name]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_trace_below_its_callers(running, spans, prompts, stream):
    body = ASK | {"prompt": prompts[0], "stream": stream}
    with running.client() as client:
        said = client.post("/v1/completions", json=body, headers={"traceparent": PARENT})
    [request] = named(spans, "request")
    assert f"{request.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    told = request.attributes
    assert told["memoir.request_id"] == said.headers["x-request-id"]
    assert (told["http.route"], told["http.response.status_code"]) == ("/v1/completions", 200)
    assert told["memory.fired"] is True
    assert told["memory.edit"] == said.headers["x-memory-edit"]
    assert told["memory.digest"] == said.headers["x-memory-digest"]
    inside = [
        span for span in spans() if span.parent and span.parent.span_id == request.context.span_id
    ]
    assert [span.name for span in inside] == ["route", "prefill", "tokens"]
    route, prefill, tokens = inside
    assert route.attributes["memory.edit"] == told["memory.edit"]
    assert prefill.attributes["gen_ai.usage.input_tokens"] > 1
    assert tokens.attributes["gen_ai.usage.output_tokens"] in (1, 2, 3)
    assert request.start_time <= prefill.start_time <= prefill.end_time == tokens.start_time
    assert tokens.start_time <= tokens.end_time <= request.end_time
    assert not any(prompts[0] in str(span.attributes.values()) for span in spans())


def test_each_answer_has_its_spans_and_not_too_many(running, spans, prompts, monkeypatch):
    monkeypatch.setattr(tracing, "MOST", 3)
    with running.client() as client:
        client.post("/v1/completions", json=ASK | {"prompt": prompts[:2], "n": 2})
    rows = [span.attributes["row"] for span in named(spans, "tokens")]
    assert rows == [0, 1, 2]


def test_where_a_prompt_goes_is_a_trace_without_tokens(running, spans, prompts):
    with running.client() as client:
        client.post("/v1/route", json={"prompt": prompts[0], "model": "base"})
        client.post("/v1/route", json={"prompt": prompts[0], "model": "base@a"})
    base, edited = named(spans, "route")
    assert (base.attributes["memory.fired"], edited.attributes["memory.fired"]) == (False, True)
    [decided, _] = named(spans, "request")
    assert decided.context.trace_id == base.context.trace_id
    assert all(s.context.trace_id != decided.context.trace_id for s in named(spans, "tokens"))


def test_a_refused_request_and_one_that_fails(running, session, spans, prompts, monkeypatch):
    def broken(*_):
        raise RuntimeError("no memory left")

    with running.client() as client:
        client.post("/v1/completions", json=ASK | {"prompt": "a", "model": "other"})
        monkeypatch.setattr(session.decoder, "prefill", broken)
        client.post("/v1/completions", json=ASK | {"prompt": "a"})
    refused, failed = named(spans, "request")
    assert (refused.attributes["http.response.status_code"], refused.status.is_ok) == (404, True)
    assert (failed.attributes["http.response.status_code"], failed.status.is_ok) == (500, False)
    assert failed.status.description == "RuntimeError: no memory left"
    assert named(spans, "tokens") == []


def test_swaps_are_told_and_why_one_failed(running, spans, files):
    memories = running.server.memories
    memories.activate("base")
    files[1].write_bytes(b"no memory")
    with pytest.raises(MemoryFormatError):
        memories.load(files[1])
    load, activate, failed = named(spans, "swap")
    assert [s.attributes["memory.change"] for s in (load, activate)] == ["load", "activate"]
    names = [s.attributes["memory.name"] for s in (load, activate, failed)]
    assert names == ["a", "base", "b"]
    assert load.attributes["memory.digest"] == memories.table.loaded["a"].generation.digest
    assert "memory.digest" not in activate.attributes  # the base model answers
    assert load.end_time > load.start_time
    assert failed.status.description.startswith("NotSafetensorsError: ")


@pytest.mark.parametrize(("flags", "kept"), [("01", True), ("00", False)])
def test_a_fired_edit_leads_to_its_trace(running, prompts, flags, kept):
    trace = PARENT.split("-")[1]
    with running.client() as client:
        body = ASK | {"prompt": prompts[0]}
        client.post("/v1/completions", json=body, headers={"traceparent": PARENT[:-2] + flags})
        plain = client.get("/metrics")
        open_ = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    [fires] = [line for line in open_.text.splitlines() if line.startswith("memoir_fires_total{")]
    assert (f'trace_id="{trace}"' in fires) is kept
    assert open_.headers["content-type"].startswith("application/openmetrics-text")
    assert trace not in plain.text
    assert plain.headers["content-type"].startswith("text/plain")


def test_without_the_wish_nothing_is_imported_or_traced(spans, make_server):
    running = make_server()
    assert running.server.traces is None
    with running.client() as client:
        client.post("/v1/completions", json=ASK | {"prompt": "a", "model": "base"})
    assert spans() == ()


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InputError, match="traces need OpenTelemetry") as caught:
        tracing.exporting()
    assert "otel" in str(caught.value.hint)
