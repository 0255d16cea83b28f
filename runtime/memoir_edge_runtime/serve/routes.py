"""What the modules of routes share.

Knows nothing of any one route.
"""

from typing import Any

from fastapi import Request

from memoir_edge_runtime.serve.schema import ErrorReply
from memoir_edge_runtime.serve.server import Server

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply},
    "5XX": {"model": ErrorReply},
}


def server_of(request: Request) -> Server:
    """The server that a request came to."""
    server: Server = request.app.state.server
    return server
