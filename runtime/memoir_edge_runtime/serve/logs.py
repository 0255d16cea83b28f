"""Structured logs: one JSON object a line on standard error.

Knows nothing of what is logged. A record's `fields` become keys beside time, level and event.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("memoir_edge.serve")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log(level: int, event: str, **fields: Any) -> None:
    """Write one line."""
    logger.log(level, event, extra={"fields": fields})


def configure() -> None:
    """Send this server's and uvicorn's lines to standard error as JSON, and warnings of others.

    A program that has set up its own logging keeps it for these.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler])
    for name in (logger.name, "uvicorn"):
        each = logging.getLogger(name)
        each.handlers, each.propagate = [handler], False
        each.setLevel(logging.INFO)
