"""Every error as OpenAI's API words it: a status, and one document.

Knows nothing of routes. What went wrong inside the server is logged, not told.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from memoir_edge.errors import IncompatibleError, InputError, MemoirEdgeError
from memoir_edge_runtime.serve.memories import (
    ConflictError,
    RootError,
    UnknownModelError,
    VerificationError,
)
from memoir_edge_runtime.serve.scheduler import BusyError, ClosedError, DeadlineError


class Refusal(NamedTuple):
    """What a client is told instead of an answer."""

    status: int
    document: dict[str, Any]
    headers: Mapping[str, str] = {}


class RequestError(InputError):
    """A request that cannot be answered as it stands; `param` is the field."""

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class ModelError(MemoirEdgeError):
    """The graph failed while it ran; the cause is for the log alone."""


# The first that fits: error, status, type.
_KINDS: Sequence[tuple[type[Exception], int, str]] = (
    (BusyError, 429, "rate_limit_error"),
    (ClosedError, 503, "server_error"),
    (DeadlineError, 504, "timeout_error"),
    (UnknownModelError, 404, "invalid_request_error"),
    (RootError, 403, "permission_error"),
    (ConflictError, 409, "invalid_request_error"),
    (VerificationError, 422, "invalid_request_error"),
    (IncompatibleError, 422, "invalid_request_error"),
    (InputError, 400, "invalid_request_error"),
)
_CODES = {
    "BusyError": "queue_full",
    "ClosedError": "stopping",
    "DeadlineError": "deadline_exceeded",
    "UnknownModelError": "model_not_found",
    "VerificationError": "verification_failed",
    "RootError": "path_not_allowed",
    "ConflictError": "conflict",
}


def refusal(error: Exception) -> Refusal:
    """What is told of an error."""
    found = next(((s, t) for kind, s, t in _KINDS if isinstance(error, kind)), None)
    if found is None:
        return said(500, "the server failed to answer this request", "server_error")
    status, kind = found
    hint = error.hint if isinstance(error, MemoirEdgeError) else None
    name = type(error).__name__
    retry = error.retry_after if isinstance(error, BusyError) else 5
    return said(
        status,
        f"{error} ({hint})" if hint else str(error),
        kind,
        param=error.param if isinstance(error, RequestError) else None,
        code=_CODES.get(name, name if isinstance(error, IncompatibleError) else None),
        headers={"retry-after": str(retry)} if status in (429, 503) else {},
    )


def said(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Refusal:
    """An error that has no exception of its own."""
    # A message may quote what came in; no text of it may break the reply's encoding.
    message = message.encode("utf-8", "replace").decode()
    document = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Refusal(status, document, headers or {})


def invalid(problems: Sequence[Mapping[str, Any]]) -> Refusal:
    """A request that does not have the form it must have, by pydantic's list of problems."""
    first: Mapping[str, Any] = problems[0]
    if first.get("type") == "json_invalid":
        return said(400, f"the body is no JSON: {first.get('ctx', {}).get('error', '')}")
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return said(400, f"{where[:200]}: {first['msg']}", param=where[:200])
