"""What a reply's headers say."""

from memoir_edge_runtime import Routing
from memoir_edge_runtime.serve.headers import LIMIT, MEMORY, headers


def test_what_is_not_so_has_no_header():
    assert headers("7", Routing()) == {"x-request-id": "7", "x-memory-overlap": "0.0000"}


def test_any_text_can_stand_in_a_header():
    routing = Routing("é\n1", 0.9, 0.8, "é\n1", "d", guard=True, key="what was asked", cut=True)
    found = headers("7", routing, 5)
    assert found == {
        "x-request-id": "7", LIMIT: "5",
        "x-memory-edit": "%C3%A9%0A1", "x-memory-overlap": "0.9000",
        "x-memory-threshold": "0.8000", "x-memory-candidate": "%C3%A9%0A1", "x-memory-digest": "d",
        "x-memory-guard": "true", "x-memory-cut": "true",
    }  # fmt: skip
    assert set(MEMORY) == {name for name in found if name.startswith("x-memory-")}
