"""What is counted, and that no traffic can make the series grow without bound."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from memoir_edge_runtime import Routing
from memoir_edge_runtime.serve.memories import Table
from memoir_edge_runtime.serve.metrics import EDITS, Metrics

ROOT = Path(__file__).parents[3]


@pytest.fixture
def metrics():
    return Metrics()


def _series(metrics, name):
    """Samples of one metric by their labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


def test_edits_beyond_the_bound_are_counted_together(metrics):
    for i in range(3 * EDITS):
        metrics.routed("a", Routing(f"edit-{i}", 0.9, 0.8, f"edit-{i}", "d"))
    metrics.routed("a", Routing("edit-0", 0.9, 0.8, "edit-0", "d"))
    fires = _series(metrics, "memoir_fires_total")
    assert len(fires) == EDITS + 1
    assert fires[("edit", "edit-0"), ("memory", "a")] == 2
    assert fires[("edit", "other"), ("memory", "a")] == 2 * EDITS
    assert sum(fires.values()) == 3 * EDITS + 1


@pytest.mark.parametrize(
    ("routing", "bypasses", "near", "overlaps"),
    [
        (Routing("e", 0.9, 0.8, "e", "d"), 0, 0, 1),
        (Routing(None, 0.79, 0.8, "e", "d"), 1, 1, 1),
        (Routing(None, 0.5, 0.8, "e", "d"), 1, 0, 1),
        (Routing(None, 0.9, 0.8, None, "d"), 1, 0, 1),  # a guard is no near miss
        (Routing(None, digest="d"), 1, 0, 0),  # a memory without edits
        (Routing(), 1, 0, 0),
    ],
)
def test_a_routing_is_counted_as_what_it_is(metrics, routing, bypasses, near, overlaps):
    metrics.routed("a", routing)
    for name, expected in (
        ("memoir_bypasses_total", bypasses),
        ("memoir_near_misses_total", near),
        ("memoir_overlap_count", overlaps),
        ("memoir_fires_total", 1 - bypasses),
    ):
        assert sum(_series(metrics, name).values()) == expected, name


def test_the_dashboard_asks_for_what_is_there():
    """By name, and by labels that the series have."""
    made = Metrics()
    made.watch(_Idle(), _Idle())
    labels = {"memoir_running": set(), "memoir_queue_depth": set(),
              "memoir_memory_active": {"memory", "digest"}}  # fmt: skip
    for metric in vars(made).values():
        if isinstance(metric, MetricWrapperBase):
            end = "_total" if metric._type == "counter" else "_bucket"
            labels[metric._name + end] = {*metric._labelnames, "le"}
    board = json.loads((ROOT / "docs/grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert {name for expr in asked for name in re.findall(r"memoir_\w+", expr)} == labels.keys()
    for expr in asked:
        [*names] = set(re.findall(r"memoir_\w+", expr))
        for label in re.findall(r"by \(([^)]*)\)", expr):
            assert all(set(label.split(", ")) <= labels[name] for name in names), expr


class _Idle:
    """A scheduler and memories that do nothing."""

    waiting = running = 0
    table = Table({}, "base")


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["abc", "1.", "1..0", "1=2", "\u00b2", "9" * 5000])
def test_who_reads_a_version_that_is_none_gets_plain_text(metrics, kind, version):
    metrics.routed("a", Routing("e", 0.9, 0.8, "e", "d"))
    assert metrics.text(f"{kind};version={version}") == metrics.text()


def test_every_name_that_the_docs_promise_is_there(make_server, files, prompts):
    running = make_server()
    running.server.memories.load(files[0])
    with running.client() as client:
        client.post("/v1/completions", json={"prompt": prompts[:8], "max_tokens": 3})
        text = client.get("/metrics").text
    for name in (
        "requests_total", "fires_total", "bypasses_total", "near_misses_total", "tokens_total",
        "overlap_bucket", "first_token_seconds_bucket", "token_seconds_bucket", "responses_total",
        "memory_changes_total", "memory_change_seconds_bucket", "queue_depth", "running",
        "memory_active",
    ):  # fmt: skip
        assert f"memoir_{name}" in text, name
