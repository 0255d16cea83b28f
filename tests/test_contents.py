"""What is in a memory, and what differs between two; the commands show the same."""

from dataclasses import replace

import numpy as np
import pytest

from memoir_edge.contents import changes, contents, costs, nearest_edits, same_model, sizes
from memoir_edge.memory import Base, Entry, from_dense
from memoir_edge.tophash import pack

D, d, k = 8, 2, 4


@pytest.fixture
def memory():
    """Two edits that share two columns, with a record each."""
    masks = np.array([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]], bool)
    return from_dense(
        np.ones((d, D), np.float32), bank=pack(masks), site="layer", feature="mean", k=k,
        base=Base("demo", "ab" * 32), owner=np.arange(2, dtype=np.int32),
        thresholds=np.full(2, 0.7, np.float32), center=np.zeros(D, np.float32),
        scale=np.ones(D, np.float32), permutation=np.arange(D, dtype=np.int32),
        edits=(Entry("a", 0, {"prompt": "p", "target": "t"}), Entry("b", 1)),
    )  # fmt: skip


def test_each_edit_has_its_nearest_other(memory):
    assert nearest_edits(memory) == {
        "a": {"id": "b", "overlap": 0.5}, "b": {"id": "a", "overlap": 0.5},
    }  # fmt: skip
    assert [edit["prompt"] for edit in contents(memory)["edits"]] == ["p", None]


def test_columns_that_two_edits_read_are_no_edit_s_own(memory):
    column, key = d * 4 + 4, 1 + 4 + 4
    document = len('{"id":"b","row":1,"record":null}')
    assert costs(memory)["b"] == 2 * column + key + document
    assert sizes(memory)["columns"] == 6 * column


def test_what_came_went_and_changed(memory):
    other = (Entry("a", 0, {"prompt": "p", "target": "u"}), Entry("c", 1))
    after = replace(memory, edits=other)
    assert [(c.what, c.id, c.target, c.was) for c in changes(memory, after)] == [
        ("came", "c", None, None), ("went", "b", None, None), ("changed", "a", "u", "t"),
    ]  # fmt: skip
    assert changes(memory, memory) == []


def test_another_model_is_another_model(memory):
    assert same_model(memory, memory)
    assert not same_model(memory, replace(memory, base=Base("demo", "00" * 32)))
    assert not same_model(memory, replace(memory, base=Base("demo")))
