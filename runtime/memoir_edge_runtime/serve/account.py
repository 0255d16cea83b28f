"""What is recorded of one request: its metrics, its trace, and one line in the log.

Knows nothing of HTTP beyond a path and a status.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._results import Result, Token
from memoir_edge_runtime.serve.logs import log
from memoir_edge_runtime.serve.memories import Loaded
from memoir_edge_runtime.serve.metrics import Metrics
from memoir_edge_runtime.serve.tracing import Trace

ANSWERING = frozenset({"/v1/completions", "/v1/chat/completions", "/v1/route"})


def refused(metrics: Metrics, id: str, path: str, status: int, seconds: float) -> None:
    """Record a request that failed before it had an account."""
    metrics.responses.labels(path if path in ANSWERING else "other", str(status)).inc()
    level = logging.WARNING if status >= 500 else logging.INFO
    log(level, "request", id=id, path=path[:200], status=status, seconds=round(seconds, 4))


@dataclass
class Account:
    """One request from its arrival to its end.

    Args:
        metrics: Where it is counted.
        id: The request's.
        path: The route's.
        prompts: Whether the log may say what was asked and answered.
        answers: Whether it is answered, and not only told where it would go.
        trace: Its spans, where there are traces.
    """

    metrics: Metrics
    id: str
    path: str
    prompts: bool = False
    answers: bool = True
    trace: Trace | None = None
    loaded: Loaded | None = None
    results: list[Result] = field(default_factory=list)
    _rows: Sequence[Completion] = ()
    _seen: set[int] = field(default_factory=set)
    _n: int = 1
    _began: float = field(default_factory=time.monotonic)
    _last: float | None = None
    _closed: bool = False

    def begin(self, loaded: Loaded, rows: Sequence[Completion], n: int) -> None:
        """Take what is asked for: `n` answers of each prompt, by a known memory."""
        self.loaded, self._rows, self._n = loaded, rows, n

    def see(self, events: Sequence[Token | Result]) -> None:
        """Record events that arrived together."""
        assert self.loaded is not None
        if self.answers:
            self._time(self.loaded.name)
        for event in events:
            self._begins(event.row)
            if isinstance(event, Result):
                self._ended(event)
        self.metrics.settle(self.loaded.name)

    def end(self, status: int, error: Exception | None = None) -> None:
        """End the trace and write the line in the log; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._give_up()
        self.metrics.responses.labels(self.path, str(status)).inc()
        fields: dict[str, object] = {
            "id": self.id,
            "path": self.path,
            "status": status,
            "seconds": round(time.monotonic() - self._began, 4),
        }
        if self.loaded is not None:
            fields["model"] = self.loaded.model
        if self.results:
            first = min(self.results, key=lambda r: r.row)
            fields |= asdict(first.routing)
            if not self.prompts:
                del fields["key"]  # it may say nearly what was asked
            fields["prompt_tokens"] = sum(
                r.prompt_tokens for r in self.results if r.row % self._n == 0
            )
            fields["completion_tokens"] = sum(r.completion_tokens for r in self.results)
            fields["finish_reasons"] = [r.finish_reason for r in self.results]
            if self.prompts:
                fields["answers"] = [{"prompt": r.prompt, "text": r.text} for r in self.results]
        if error is not None:
            cause = error.__cause__ or error
            fields["error"] = f"{type(cause).__name__}: {cause}"
        if self.trace is not None:
            self.trace.end(fields, self._rows, self.results)
        log(logging.WARNING if status >= 500 else logging.INFO, "request", **fields)

    def _time(self, name: str) -> None:
        now = time.monotonic()
        if self._last is None:
            self.metrics.first_token.labels(name).observe(now - self._began, self._exemplar)
        else:
            self.metrics.token_seconds.labels(name).observe(now - self._last)
        self._last = now

    def _begins(self, row: int) -> None:
        if self.loaded is not None and row not in self._seen:
            self._seen.add(row)
            self.metrics.requests.labels(self.loaded.name, self.path).inc()

    def _ended(self, result: Result) -> None:
        self.results.append(result)
        if self.answers and self.loaded is not None:
            read = result.row % self._n == 0
            self.metrics.finished(self.loaded.name, result, read=read, exemplar=self._exemplar)

    def _give_up(self) -> None:
        """Record the answers that are not waited for as far as they have come."""
        ended = {result.row for result in self.results}
        for row in self._rows:
            if row.row not in ended and row.routing is not None:
                self._begins(row.row)
                self._ended(row.result())
        if self.loaded is not None:
            self.metrics.settle(self.loaded.name)

    @property
    def _exemplar(self) -> dict[str, str] | None:
        return None if self.trace is None else self.trace.exemplar
