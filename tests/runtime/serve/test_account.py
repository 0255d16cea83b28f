"""What is recorded of one request."""

import logging

import pytest

from memoir_edge_runtime import Generation, Result, Routing, Token
from memoir_edge_runtime.serve.account import Account
from memoir_edge_runtime.serve.errors import ModelError
from memoir_edge_runtime.serve.memories import Loaded, Memories
from memoir_edge_runtime.serve.metrics import Metrics

ROUTING = Routing("a", 0.9, 0.8, "a", "d")


@pytest.fixture
def lines(monkeypatch):
    """What the log is told."""
    found = []
    monkeypatch.setattr(
        "memoir_edge_runtime.serve.account.log",
        lambda level, event, **fields: found.append((level, fields)),
    )
    return found


@pytest.fixture
def account():
    return Account(Metrics(), "id", "/v1/completions")


def finish(account: Account, rows: int, n: int) -> None:
    account.begin(Loaded("m", Generation(1)), [None] * rows, n)  # type: ignore[list-item]
    account.see([Token(row, 5, "x") for row in range(rows)])
    account.see([Result(row, "asked", "said", (5,), "stop", 3, ROUTING) for row in range(rows)])
    account.end(200)


def test_a_request_is_one_line_and_counted(account, lines):
    finish(account, rows=4, n=2)
    account.end(500, ValueError())  # it was over
    [(level, fields)] = lines
    assert level == logging.INFO
    assert {"status": 200, "model": "base@m", "edit": "a", "overlap": 0.9}.items() <= fields.items()
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (6, 4)  # two prompts, twice
    text = account.metrics.text()[0].decode()
    assert 'memoir_requests_total{memory="m",path="/v1/completions"} 4.0' in text
    assert 'memoir_responses_total{path="/v1/completions",status="200"} 1.0' in text


def test_what_is_unloaded_before_its_answers_end_leaves_no_counts(account, session):
    account.metrics.watch(None, Memories(session))  # type: ignore[arg-type]
    finish(account, rows=2, n=1)
    assert account.metrics.usage.of("m", "a").fires == 0
    assert 'memory="m"' not in str(
        [sample for metric in account.metrics._of_memory for sample in metric.collect()]
    )


@pytest.mark.parametrize("told", [False, True])
def test_texts_are_logged_only_where_that_is_wanted(account, lines, told):
    account.prompts = told
    finish(account, rows=1, n=1)
    [(_, fields)] = lines
    assert ("asked" in str(fields)) is told


def test_an_error_is_logged_by_its_cause(account, lines):
    error = ModelError("the graph failed")
    error.__cause__ = RuntimeError("no memory")
    account.end(500, error)
    [(level, fields)] = lines
    assert (level, fields["error"]) == (logging.WARNING, "RuntimeError: no memory")
    assert "model" not in fields  # it never began
