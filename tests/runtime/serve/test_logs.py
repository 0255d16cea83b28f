"""One JSON object a line."""

import json
import logging
import sys
from pathlib import Path

import pytest

from memoir_edge_runtime.serve.logs import JsonFormatter, configure, log, logger


@pytest.fixture
def _as_before():
    loggers = [logging.getLogger(name) for name in (logger.name, "uvicorn")]
    before = [(each.handlers, each.propagate, each.level) for each in loggers]
    yield
    for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


@pytest.mark.usefixtures("_as_before")
def test_fields_stand_beside_time_level_and_event(capsys):
    configure()
    log(logging.WARNING, "memory load", file=Path("a"), seconds=0.5, text="ä\n")
    [line] = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "warning", "event": "memory load", "file": "a", "seconds": 0.5, "text": "ä\n"
    }  # fmt: skip
    logging.getLogger("uvicorn.error").info("started")
    assert json.loads(capsys.readouterr().err)["event"] == "started"


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("named", [None, "opentelemetry.exporter.otlp", "a_library"])
def test_what_libraries_warn_of_is_a_line_of_json_too(capsys, monkeypatch, named):
    with monkeypatch.context() as alone:
        alone.setattr(logging.getLogger(), "handlers", [])  # of pytest
        configure()
        logging.getLogger(named).info("nobody asked")
        logging.getLogger(named).warning("Transient error %s", "x")
    assert json.loads(capsys.readouterr().err)["event"] == "Transient error x"


def test_a_traceback_is_one_field():
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    found = JsonFormatter().format(record)
    assert "\n" not in found
    assert "ValueError: why" in json.loads(found)["traceback"]
