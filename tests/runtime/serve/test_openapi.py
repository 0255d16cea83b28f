"""Requests made from the OpenAPI document: no 5xx, and every reply as the document says."""

import contextlib
import re

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from memoir_edge_runtime.serve.app import create_app
from memoir_edge_runtime.serve.server import Server
from memoir_edge_runtime.serve.settings import Settings

ADMIN = "the-admin-key"
load_all_checks()
SAID = CHECKS.get_by_names(
    ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)


@pytest.fixture
def document(session, tmp_path):
    server = Server(session, Settings(admin_key=ADMIN, memory_roots=(tmp_path,), max_new_tokens=8))
    app = create_app(server)
    asked = schemathesis.openapi.from_dict(_bounded(app.openapi()))
    asked.app = app
    yield asked
    server.close()


def _bounded(document):
    """The document with small limits.

    Requests that break a limit are generated, too, and many texts of more than a million characters
    in one request fill the memory. `test_what_is_above_a_limit_is_refused` asks at the true ones.
    """
    if isinstance(document, list):
        return [_bounded(part) for part in document]
    if not isinstance(document, dict):
        return document
    small = {"maxLength": 1000, "maxItems": 16, "maxProperties": 16}
    return {
        name: min(part, small[name]) if name in small and isinstance(part, int) else _bounded(part)
        for name, part in document.items()
    }


def test_no_request_breaks_the_server(document):
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:
        for mode in GenerationMode:  # as the document asks, and not so
            with contextlib.suppress(Unsatisfiable):  # some can only be asked rightly
                _ask(operation, mode)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a" * 1_000_001}),
        ("/v1/completions", {"prompt": ["a"] * 4097}),
        ("/v1/completions", {"prompt": [[1]] * 4097}),
        ("/v1/completions", {"prompt": "a", "stop": "a" * 201}),
        ("/v1/completions", {"prompt": "a", "stop": ["a"] * 17}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 4097}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 1_000_001}]}),
        ("/v1/route", {"conversations": [[{"role": "user", "content": "a"}]] * 4097}),
    ],
    ids=["text", "texts", "ids", "stop", "stops", "messages", "content", "conversations"],
)
def test_what_is_above_a_limit_is_refused(make_server, path, body):
    """By the limits of the document: no body is too large here."""
    with make_server(max_body=10_000_000).client() as client:
        found = client.post(path, json={"model": "base"} | body)
    assert found.status_code == 400, found.text
    assert re.search("at most|too long", found.json()["error"]["message"]), found.text


def _ask(operation, mode):
    @settings(max_examples=20, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case):
        if isinstance(case.body, dict):
            case.body.pop("deadline", None)  # whoever asks for an answer in no time gets a 504
        response = case.call(headers={"authorization": f"Bearer {ADMIN}"})
        assert response.status_code < 500, (operation.label, response.text)
        case.validate_response(response, checks=SAID)

    ask()
