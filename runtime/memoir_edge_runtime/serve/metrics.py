"""Prometheus metrics: what was asked, what fired, how fast, and what is loaded.

Knows nothing of HTTP. The number of series is bounded: by the loaded memories, and for each of them
by EDITS. The series of an unloaded memory are removed.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase

from memoir_edge_runtime._results import Result, Routing
from memoir_edge_runtime.serve.memories import Memories
from memoir_edge_runtime.serve.scheduler import Scheduler
from memoir_edge_runtime.serve.usage import NEAR, Usage, near_miss

EDITS = 100  # edits of a memory that are counted under their ids; the rest count as "other"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_OVERLAPS = tuple(i / 20 for i in range(1, 21))


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.usage = Usage()
        self._edits: dict[str, set[str]] = {}
        self._of_memory: list[MetricWrapperBase] = []
        self._memories: Memories | None = None
        self.requests = self._counter("requests", "Answers begun", "path")
        self.fires = self._counter("fires", "Answers that an edit gave", "edit")
        self.bypasses = self._counter("bypasses", "Answers that the base model gave")
        self.near_misses = self._counter("near_misses", f"Bypasses from {NEAR} of the threshold on")
        self.tokens = self._counter("tokens", "Tokens read and written", "kind")
        self.overlap = self._histogram("overlap", "Overlap with the best key", _OVERLAPS)
        self.first_token = self._histogram("first_token_seconds", "Until a first token", _SECONDS)
        self.token_seconds = self._histogram("token_seconds", "Between tokens", _TOKEN_SECONDS)
        self.responses = Counter(
            "memoir_responses", "Responses by status", ["path", "status"], registry=self.registry
        )
        self.changes = Counter(
            "memoir_memory_changes",
            "Loads, activations and unloadings of memories",
            ["what", "result"],
            registry=self.registry,
        )
        self.change_seconds = Histogram(
            "memoir_memory_change_seconds",
            "Their time",
            ["what"],
            buckets=(0.0001, 0.001, *_SECONDS),
            registry=self.registry,
        )

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        made = Counter(f"memoir_{name}", help, ["memory", *labels], registry=self.registry)
        self._of_memory.append(made)
        return made

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
        made = Histogram(
            f"memoir_{name}", help, ["memory"], buckets=buckets, registry=self.registry
        )
        self._of_memory.append(made)
        return made

    def watch(self, scheduler: Scheduler, memories: Memories) -> None:
        """Report what waits, runs and is loaded as well."""
        self._memories = memories
        self.registry.register(_Live(scheduler, memories))

    def routed(self, memory: str, routing: Routing, exemplar: dict[str, str] | None = None) -> None:
        """Count where an answer comes from; `exemplar` leads to its trace."""
        self.usage.note(memory, routing)
        if routing.edit is None:
            self.bypasses.labels(memory).inc()
        else:
            self.fires.labels(memory, self._edit(memory, routing.edit)).inc(1, exemplar)
        if routing.threshold is not None:
            self.overlap.labels(memory).observe(routing.overlap)
        if near_miss(routing) is not None:
            self.near_misses.labels(memory).inc()

    def finished(
        self,
        memory: str,
        result: Result,
        *,
        read: bool,
        exemplar: dict[str, str] | None = None,
    ) -> None:
        """Count a finished answer; `read`: its prompt was not counted with another answer."""
        self.routed(memory, result.routing, exemplar)
        self.tokens.labels(memory, "completion").inc(result.completion_tokens)
        if read:
            self.tokens.labels(memory, "prompt").inc(result.prompt_tokens)

    def changed(self, what: str, seconds: float, error: Exception | None) -> None:
        """Count a change of what is loaded."""
        self.changes.labels(what, "ok" if error is None else "failed").inc()
        self.change_seconds.labels(what).observe(seconds)

    def settle(self, memory: str) -> None:
        """After counting: forget a memory that was unloaded while it wrote the answers."""
        if self._memories is not None and memory not in self._memories.table.loaded:
            self.forget(memory)

    def forget(self, memory: str) -> None:
        """Remove the series of a memory that is not loaded any more."""
        self._edits.pop(memory, None)
        self.usage.forget(memory)
        for metric in self._of_memory:
            metric.remove_by_labels({"memory": memory})

    def _edit(self, memory: str, edit: str) -> str:
        known = self._edits.setdefault(memory, set())
        if len(known) < EDITS:
            known.add(edit)
        return edit if edit in known else "other"

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Everything, and its content type: OpenMetrics, which has exemplars, where it is read."""
        try:
            encode, kind = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that it cannot read
            encode, kind = choose_encoder("")
        return encode(self.registry), kind


class _Live:
    """Gauges that are read when they are collected."""

    def __init__(self, scheduler: Scheduler, memories: Memories) -> None:
        self._scheduler, self._memories = scheduler, memories

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "memoir_queue_depth", "Answers that wait", value=self._scheduler.waiting
        )
        yield GaugeMetricFamily(
            "memoir_running", "Answers that are written", value=self._scheduler.running
        )
        table = self._memories.table
        loaded = GaugeMetricFamily(
            "memoir_memory_active",
            "Loaded memories; 1 answers by default",
            labels=["memory", "digest"],
        )
        for name, each in table.loaded.items():
            loaded.add_metric([name, each.generation.digest or ""], float(name == table.active))
        yield loaded
