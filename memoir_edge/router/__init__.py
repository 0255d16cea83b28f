"""The router: which edit a prompt asks for, read by a sentence encoder beside the graph."""

from memoir_edge.router.asks import Asked, asks
from memoir_edge.router.coder import check_router, identity
from memoir_edge.router.encoder import Encoder, Router
from memoir_edge.router.table import Table, tabulate

__all__ = [
    "Asked",
    "Encoder",
    "Router",
    "Table",
    "asks",
    "check_router",
    "identity",
    "tabulate",
]
