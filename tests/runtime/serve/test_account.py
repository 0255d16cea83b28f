"""What is recorded of one request."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest

from memoir_edge_runtime import Generation, Options, Result, Routing, Token
from memoir_edge_runtime.serve.account import Account
from memoir_edge_runtime.serve.errors import ModelError
from memoir_edge_runtime.serve.memories import Loaded, Memories
from memoir_edge_runtime.serve.metrics import Metrics
from memoir_edge_runtime.serve.scheduler import BusyError

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
    asked = [SimpleNamespace(row=row, routing=None) for row in range(rows)]
    account.begin(Loaded("m", Generation(1)), asked, n)  # type: ignore[arg-type]
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


def test_a_request_that_begins_no_answer_counts_as_none(session, account, lines):
    account.begin(Loaded("m", Generation(1)), session.completions(["a", "b"], Options(8)), 1)
    account.end(429, BusyError(256, 1))
    assert lines[0][1]["model"] == "base@m"
    text = account.metrics.text()[0].decode()
    assert 'memoir_requests_total{memory="m"' not in text
    assert 'memoir_responses_total{path="/v1/completions",status="429"} 1.0' in text


def test_routes_tell_nothing_of_how_soon_tokens_come(lines):
    account = Account(Metrics(), "id", "/v1/route", answers=False)
    finish(account, rows=2, n=1)
    text = account.metrics.text()[0].decode()
    assert 'memoir_requests_total{memory="m",path="/v1/route"} 2.0' in text
    assert "token_seconds_count" not in text


def test_answers_that_are_given_up_count_as_far_as_they_came(session, account, lines):
    rows = session.completions(["a", "a", "a b", "a b"], Options(8))
    account.begin(Loaded("m", Generation(1)), rows, 2)
    for row in rows[:3]:  # the last one has waited
        row.routing = ROUTING
        account.see([row.advance(5, None), row.advance(6, None)])
    account.see([replace(rows[1].result(), finish_reason="length")])
    account.end(499)
    [(_, fields)] = lines
    assert {"status": 499, "edit": "a", "overlap": 0.9, "digest": "d"}.items() <= fields.items()
    read = sum(len(rows[i].prompt.row.ids) for i in (0, 2))
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (read, 6)
    assert sorted(fields["finish_reasons"]) == ["cancelled", "cancelled", "length"]
    text = account.metrics.text()[0].decode()
    assert 'memoir_fires_total{edit="a",memory="m"} 3.0' in text
    assert 'memoir_requests_total{memory="m",path="/v1/completions"} 3.0' in text
    assert 'memoir_tokens_total{kind="completion",memory="m"} 6.0' in text
    assert account.metrics.usage.of("m", "a").fires == 3


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
