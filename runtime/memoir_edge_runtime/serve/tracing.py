"""Traces of OpenTelemetry: a span for each request, and in it where its answers went and how fast.

Knows nothing of HTTP beyond headers, a path and a status. Its packages are an extra, imported where
traces are wanted. Spans of answers are made when a request is over, from times that its rows noted
meanwhile: between two tokens nothing is traced.

    request            the caller's `traceparent` is its parent
      route            which edit a prompt goes to
      prefill          the prompt is read, up to the first token
      tokens           the others
    swap               a memory is loaded, activated or unloaded
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memoir_edge import __version__
from memoir_edge.errors import InputError, install
from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._results import Result, Routing

MOST = 32  # answers of one request that have spans of their own
_CARRIED = ("traceparent", "tracestate")


def exporting() -> Any:
    """The process's provider of traces; where none was set up, one that sends them by OTLP.

    The environment says where to: OTEL_EXPORTER_OTLP_ENDPOINT and the other variables of
    OpenTelemetry, OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER among them.

    Raises:
        InputError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        given = trace.get_tracer_provider()
        if isinstance(given, TracerProvider):
            return given
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InputError(
            f"traces need OpenTelemetry ({error.name} is missing)", hint=install("run,serve,otel")
        ) from error
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "memoir-edge"}
    made = TracerProvider(resource=Resource.create(named))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


class Traces:
    """Where spans go.

    Args:
        provider: OpenTelemetry's TracerProvider.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("memoir_edge", __version__)
        self._carrier = TraceContextTextMapPropagator()

    def request(self, path: str, headers: Mapping[str, str]) -> "Trace":
        """Begin a request's."""
        from opentelemetry.trace import SpanKind

        carried = {name: headers[name] for name in _CARRIED if name in headers}
        context = self._carrier.extract(carried)
        attributes = {"http.route": path}
        return Trace(
            self._tracer,
            self._tracer.start_span(
                "request", context=context, kind=SpanKind.SERVER, attributes=attributes
            ),
        )

    def swap(self, what: str, seconds: float, attributes: Mapping[str, str | None]) -> None:
        """Tell of a change of what is loaded, which has just ended; None is left out."""
        now = time.time_ns()
        told = {"memory.change": what} | _said(attributes)
        begun = self._tracer.start_span(
            "swap", start_time=now - int(seconds * 1e9), attributes=told
        )
        if "error" in told:
            _fail(begun, told["error"])
        begun.end(now)

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.force_flush()


class Trace:
    """One request's spans, the outermost of which is open."""

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer, self._span = tracer, span

    @property
    def exemplar(self) -> dict[str, str] | None:
        """What leads from a metric to this trace, if the trace is kept."""
        context = self._span.get_span_context()
        if not context.trace_flags.sampled:
            return None
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    def end(
        self,
        fields: Mapping[str, Any],
        rows: Sequence[Completion],
        results: Sequence[Result],
    ) -> None:
        """Tell of the request's rows, and end.

        Args:
            fields: What the log says of the request.
            rows: Its rows, however far they have come.
            results: Of those that are finished.
        """
        if not self._span.is_recording():
            return
        self._span.set_attribute("http.response.status_code", fields["status"])
        told = {"memoir.request_id": fields["id"], "gen_ai.request.model": fields.get("model")}
        self._span.set_attributes(_said(told))
        if results:
            self._span.set_attributes(_routed(min(results, key=lambda r: r.row).routing))
        if fields["status"] >= 500:
            _fail(self._span, str(fields.get("error", "")))
        finished = {result.row: result for result in results}
        for row in rows[:MOST]:
            self._tell(row, finished.get(row.row))
        self._span.end()

    def _tell(self, row: Completion, result: Result | None) -> None:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        for name, begin, end, attributes in _steps(row, result):
            span = self._tracer.start_span(
                name, context=context, start_time=begin, attributes={"row": row.row} | attributes
            )
            span.end(end)


def _steps(
    row: Completion, result: Result | None
) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """What a row went through, as far as it came: a name, from when, till when, and what of it."""
    times, routing = row.times, row.routing
    if times.routed:
        yield "route", times.joined, times.routed, {} if routing is None else _routed(routing)
    if times.read:
        read = {"gen_ai.usage.input_tokens": len(row.prompt.row.prompt)}
        # Where the graph decides, the route is known when the prompt is read.
        yield (
            "prefill",
            times.routed if times.routed < times.read else times.joined,
            times.read,
            read,
        )
        written: dict[str, Any] = {"gen_ai.usage.output_tokens": len(row.ids)}
        if result is not None:
            written["gen_ai.response.finish_reasons"] = [result.finish_reason]
        yield "tokens", times.read, times.ended or time.time_ns(), written


def _routed(routing: Routing) -> dict[str, Any]:
    """A decision as attributes; a key's text, which may say what was asked, is none of them."""
    told = _said(
        {
            "memory.digest": routing.digest,
            "memory.edit": routing.edit,
            "memory.candidate": routing.candidate,
            "memory.threshold": routing.threshold,
        }
    )
    fired = routing.edit is not None
    return {"memory.fired": fired, "memory.overlap": float(routing.overlap)} | told


def _said(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _fail(span: Any, why: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, why))
