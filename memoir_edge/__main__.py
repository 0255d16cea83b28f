"""`python -m memoir_edge` is the same program as `memoir-edge`."""

from memoir_edge.cli import run

run()
