"""Every error as OpenAI's API words it: a status, and one document.

Knows nothing of routes. What went wrong inside the server is logged, not told.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from memoir_edge.errors import IncompatibleError, InputError, MemoirEdgeError
from memoir_edge_runtime._tokens import ContextError
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

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.param, self.code = param, code


class ModelError(MemoirEdgeError):
    """The graph failed while it ran; the cause is for the log alone."""


class _Kind(NamedTuple):
    """What is told of a sort of error."""

    error: type[Exception]
    status: int
    type: str = "invalid_request_error"
    code: str | None = None


# The first that fits.
_KINDS = (
    _Kind(BusyError, 429, "rate_limit_error", "queue_full"),
    _Kind(ClosedError, 503, "server_error", "stopping"),
    _Kind(DeadlineError, 504, "timeout_error", "deadline_exceeded"),
    _Kind(UnknownModelError, 404, code="model_not_found"),
    _Kind(RootError, 403, "permission_error", "path_not_allowed"),
    _Kind(ConflictError, 409, code="conflict"),
    _Kind(VerificationError, 422, code="verification_failed"),
    _Kind(IncompatibleError, 422),  # its code is its own name
    _Kind(ContextError, 400, code="context_length_exceeded"),
    _Kind(InputError, 400),
)
_CODES_OF_HTTP = {408: "request_timeout", 413: "body_too_large"}


def refusal(error: Exception) -> Refusal:
    """What is told of an error."""
    kind = _kind(error)
    if kind is None:
        return said(500, "the server failed to answer this request", "server_error")
    hint = error.hint if isinstance(error, MemoirEdgeError) else None
    retry = error.retry_after if isinstance(error, BusyError) else 5
    return said(
        kind.status,
        f"{error} ({hint})" if hint else str(error),
        kind.type,
        param=error.param if isinstance(error, RequestError) else None,
        code=code(error),
        headers={"retry-after": str(retry)} if kind.status in (429, 503) else {},
    )


def code(error: Exception) -> str | None:
    """What programs know an error by."""
    if isinstance(error, RequestError):
        return error.code
    if isinstance(error, IncompatibleError):
        return type(error).__name__
    kind = _kind(error)
    return None if kind is None else kind.code


def _kind(error: Exception) -> _Kind | None:
    return next((kind for kind in _KINDS if isinstance(error, kind.error)), None)


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
    code = code or _CODES_OF_HTTP.get(status)
    document = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Refusal(status, document, headers or {})


def invalid(problems: Sequence[Mapping[str, Any]], body: object) -> Refusal:
    """A request that does not have the form it must have.

    Args:
        problems: As pydantic lists them.
        body: What was sent; bytes where it was not declared to be JSON.
    """
    first, problems = problems[0], problems[:_MOST]
    if body in (None, b"") and tuple(first["loc"]) == ("body",):
        return said(400, "the body is empty, expected a JSON object")
    if first.get("type") == "json_invalid":
        return said(400, f"the body is no JSON: {first.get('ctx', {}).get('error', '')}")
    if isinstance(body, bytes):
        return said(400, "the body is not declared as JSON: send 'content-type: application/json'")
    path, wrong = _meant([(_path(problem, body), problem) for problem in problems])
    where = ".".join(map(str, path))[:200]
    what = " or ".join(dict.fromkeys(map(_wrong, wrong)))
    return said(400, f"{where or 'the body'}: {what}", param=where or None)


Location = tuple[str | int, ...]
_MOST = 256  # problems that are looked at, of bodies that hold thousands
_TOO_LONG = ("too_long", "string_too_long")  # pydantic looks no further into such a value


def _meant(
    problems: Sequence[tuple[Location, Mapping[str, Any]]],
) -> tuple[Location, list[Mapping[str, Any]]]:
    """The problem to tell of, and what it is.

    Where a field may have several forms, each has problems of its own. The form that was meant is
    right as far as possible: its problem is size alone, or lies deepest or farthest into a list,
    and it has the fewest.
    """
    forms = [(tuple(p for p in problem["loc"] if p not in path)) for path, problem in problems]
    times = Counter(forms)
    rank = [
        (problem["type"] in _TOO_LONG, len(path), _places(path), -times[form])
        for (path, problem), form in zip(problems, forms, strict=True)
    ]
    first = rank.index(max(rank))
    like = [own for own, place in zip(problems, rank, strict=True) if place == rank[first]]
    return problems[first][0], [p for path, p in like if path == problems[first][0]]


def _places(path: Location) -> list[int]:
    return [part for part in path if isinstance(part, int)]


def _path(problem: Mapping[str, Any], body: Any) -> Location:
    """Where a problem is, in the client's own words: without names of the validator's forms."""
    where, *loc = problem["loc"]
    if where != "body":  # of the path or the query, which have no forms
        return tuple(loc)
    path: list[str | int] = []
    for part in loc:
        if _has(body, part):
            body = body[part]
        elif problem["type"] != "missing" or part != loc[-1]:
            continue
        path.append(part)
    return tuple(path)


def _has(body: Any, part: str | int) -> bool:
    if isinstance(body, list):
        return isinstance(part, int) and part < len(body)
    return isinstance(body, dict) and part in body


def _wrong(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "this server does not have it"
    return str(problem["msg"])
