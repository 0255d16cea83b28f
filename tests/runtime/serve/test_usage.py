"""What an edit's use is counted from."""

import pytest

from memoir_edge_runtime import Routing
from memoir_edge_runtime.serve.usage import Usage, near_miss


@pytest.mark.parametrize(
    ("routing", "near"),
    [
        (Routing("e", 0.9, 0.8, "e", "d"), None),
        (Routing(None, 0.79, 0.8, "e", "d"), "e"),
        (Routing(None, 0.5, 0.8, "e", "d"), None),
        (Routing(None, 0.79, 0.8, None, "d"), None),  # a guard
        (Routing(), None),
    ],
)
def test_a_near_miss_names_the_edit(routing, near):
    assert near_miss(routing) == near


def test_counts_are_of_a_memory_and_end_with_it():
    usage = Usage()
    for memory, edit, overlap in (
        ("a", "e", 0.9),
        ("a", "e", 0.9),
        ("b", "e", 0.9),
        ("a", None, 0.79),
    ):
        usage.note(memory, Routing(edit, overlap, 0.8, "e", "d"))
    used = usage.of("a", "e")
    assert (used.fires, used.near_misses, usage.of("b", "e").fires) == (2, 1, 1)
    assert used.last_fired is not None
    assert used.last_near_miss >= used.last_fired
    assert usage.of("a", "f").fires == 0
    usage.forget("a")
    assert (usage.of("a", "e").fires, usage.of("b", "e").fires) == (0, 1)
