"""Named memories: what is loaded, checked and refused."""

from itertools import cycle

import pytest

from memoir_edge.errors import InputError
from memoir_edge_runtime.serve.memories import Memories, RootError, UnknownModelError


def test_without_roots_nothing_is_loaded(session, files):
    with pytest.raises(RootError):
        Memories(session).allowed(str(files[0]))
    with pytest.raises(InputError, match="is no folder"):
        Memories(session, roots=[files[0]])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("look", [Memories.named, Memories.activate, Memories.unload])
def test_what_is_unloaded_meanwhile_is_there_or_unknown(session, files, monkeypatch, look, first):
    """Whatever a table that is exchanged between any two looks at it says."""
    memories = Memories(session)
    without = memories.table
    loaded = memories.load(files[0], activate=False, verify=False)
    tables = [memories.table, without]
    looks = cycle([tables[first], tables[1 - first]])
    monkeypatch.setattr(
        Memories, "table", property(lambda self: next(looks), lambda self, new: None), raising=False
    )
    try:
        assert look(memories, "a") is loaded
    except UnknownModelError:
        assert first == 1
