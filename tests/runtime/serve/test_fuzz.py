"""Requests as clients send them with something wrong in each: never a 5xx, never a traceback."""

import itertools
import time

import pytest


@pytest.fixture(scope="session")
def fuzz(tool):
    return tool("fuzz_serve")


def test_no_changed_request_breaks_the_server(session, fuzz):
    found = fuzz.fuzz(session, 400, seed=5)
    assert found["faults"] == []
    assert {200, 400, 404, 405, 415} <= found["statuses"].keys()  # right, wrong, and elsewhere


def test_what_breaks_is_told(session, fuzz, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(session, "completions", broken)
    found = fuzz.fuzz(session, 60, seed=5)
    assert any("ZeroDivisionError" in fault for fault in found["faults"])


def test_a_seed_gives_the_same_requests_at_any_time(fuzz, monkeypatch):
    monkeypatch.setattr(time, "time", itertools.count(1, 5).__next__)
    assert list(fuzz.requests(200, 1)) == list(fuzz.requests(200, 1))
    every = list(fuzz.requests(2000, 2))
    assert len({asked.body for asked in every}) > 1000
    assert all(a is not b for a, b in itertools.pairwise(every))
