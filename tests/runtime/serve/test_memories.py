"""Named memories: what is loaded, checked and refused."""

import pytest

from memoir_edge.errors import InputError
from memoir_edge_runtime.serve.memories import Memories, RootError


def test_without_roots_nothing_is_loaded(session, files):
    with pytest.raises(RootError):
        Memories(session).allowed(str(files[0]))
    with pytest.raises(InputError, match="is no folder"):
        Memories(session, roots=[files[0]])
