"""What a reply's headers say of its request, beside what its body says."""

from dataclasses import asdict, fields
from urllib.parse import quote

from memoir_edge_runtime._results import Routing
from memoir_edge_runtime.serve.http import REQUEST_ID

LIMIT = "x-max-tokens"  # the limit that an answer's length was cut to
MEMORY = tuple(f"x-memory-{f.name}" for f in fields(Routing) if f.name != "key")


def headers(id: str, routing: Routing, capped: int | None = None) -> dict[str, str]:
    """The request's id, and what was decided for its first answer; a key's text is in the body.

    Also the limit that an answer's length was cut to, if it was.
    """
    said = asdict(routing)
    del said["key"]
    told = {k: _header(v) for k, v in said.items() if v is not None and v is not False}
    limit = {} if capped is None else {LIMIT: str(capped)}
    return {REQUEST_ID: id} | limit | {f"x-memory-{k}": v for k, v in told.items()}


def _header(value: str | float | bool) -> str:
    if value is True:
        return "true"
    # Ids of edits may be any text, headers may not.
    return quote(value) if isinstance(value, str) else f"{value:.4f}"
