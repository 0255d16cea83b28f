"""The journal: the memory that its frames amount to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_edge import tophash
from memoir_edge.errors import InputError
from memoir_edge.history import Change, JournalError, Made, begin, load, path_of
from memoir_edge.memory import Entry, to_bytes, to_dense, write

D, d = 20, 3


def columns(mask: tophash.Bytes) -> tophash.Bits:
    return tophash.unpack(mask, D)


def test_the_memory_is_the_sum_of_the_changes(fresh: Any, made: Any, change: Any) -> None:
    a, b = made("a", keys=1), made("b", guards=1)
    more = change(np.random.default_rng(9))
    with fresh() as journal:
        journal.made([a])
        journal.made([b])
        journal.again("a", more)
        memory = journal.compile()
    Wm = np.zeros((d, D), np.float32)
    for primary, c in ((a.primary, a.change), (b.primary, b.change), (a.primary, more)):
        Wm[:, columns(primary)] += (c.V @ c.U).T
    assert np.array_equal(to_dense(memory), Wm)
    assert memory.owner.tolist() == [0, 0, 2, -1]
    assert memory.edits == (Entry("a", 0, a.record), Entry("b", 2, b.record))
    assert memory.thresholds.tolist() == [0.5] * 4


def test_keys_get_thresholds_of_their_own(fresh: Any, made: Any) -> None:
    with fresh() as journal:
        journal.made([made("a", keys=1), made("b")])
        assert not journal.state().calibrated
        journal.calibrated(np.array([0.6, 0.7, 0.8], np.float32))
        assert journal.state().calibrated
        assert journal.compile().thresholds.tolist() == [np.float32(x) for x in (0.6, 0.7, 0.8)]
        journal.rolled_back(1)
        assert journal.compile().thresholds.tolist() == [0.5] * 3
        journal.calibrated(np.array([0.6], np.float32))
        with pytest.raises(JournalError, match="step 4 is malformed"):
            journal.state()


def test_decay_shrinks_what_was_there(fresh: Any, made: Any) -> None:
    a, b = made("a"), made("b", decay=0.5)
    with fresh() as journal:
        journal.made([a])
        journal.made([b])
        Wm = np.zeros((d, D), np.float32)
        Wm[:, columns(a.primary)] = a.change.delta().T * np.float32(0.5)
        Wm[:, columns(b.primary)] += b.change.delta().T
        assert np.array_equal(to_dense(journal.compile()), Wm)


def test_a_deleted_edit_leaves_nothing_behind(
    fresh: Any, tmp_path: Path, made: Any, origin: Any
) -> None:
    """The memory is the one that the other edits make without it, to the byte but its parent."""
    with fresh() as journal:
        journal.made([made("a", keys=2, guards=1)])
        journal.made([made("b"), made("c")])
        journal.deleted(["a", "c"])
        found = journal.compile()
    with begin(tmp_path / "other.journal", origin(), {}) as other:
        other.made([made("b")])
        assert to_bytes(found) == to_bytes(other.compile())


def test_only_own_edits_are_deleted(fresh: Any, tmp_path: Path, made: Any) -> None:
    with fresh() as journal:
        journal.made([made("a")])
        filled = write(journal.compile(), tmp_path / "m.safetensors")
    with begin(tmp_path / "next.journal", filled, {}) as journal:
        journal.made([made("b")])
        frames = len(journal.frames)
        with pytest.raises(InputError, match="there is no edit 'x'"):
            journal.deleted(["b", "x"])
        with pytest.raises(InputError, match="was in the memory that the journal began from"):
            journal.deleted(["b", "a"])
        assert len(journal.frames) == frames
        assert journal.compile().parent == filled.digest
        assert {entry.id for entry in journal.compile().edits} == {"a", "b"}


def test_a_later_edit_of_a_prompt_inherits_what_was_done_for_it(fresh: Any, made: Any) -> None:
    """Its deletion takes both changes out, and a rollback brings the former back."""
    first = made("a", keys=1, guards=1)
    later = made("b")._replace(primary=first.primary)
    with fresh() as journal:
        journal.made([first])
        before = to_bytes(journal.compile())
        journal.made([later])
        both = journal.compile()
        Wm = np.zeros((d, D), np.float32)
        for c in (first.change, later.change):
            Wm[:, columns(first.primary)] += c.delta().T
        assert np.array_equal(to_dense(both), Wm)
        assert [entry.id for entry in both.edits] == ["b"]
        assert both.owner.tolist() == [0, 0, -1]
        journal.deleted(["b"])
        assert len(journal.compile().bank) == len(journal.compile().columns) == 0
        journal.rolled_back(1)
        assert to_bytes(journal.compile()) == before


def test_a_rollback_is_a_step_like_any_other(fresh: Any, tmp_path: Path, made: Any) -> None:
    out = tmp_path / "m"
    with fresh() as journal:
        states = []
        for name in "abc":
            journal.made([made(name)])
            states.append(journal.write(out))
        assert [s.parent for s in states] == [None, states[0].digest, states[1].digest]
        journal.rolled_back(2)
        assert journal.write(out).digest == states[0].digest
        journal.made([made("d")])
        assert [e.id for e in journal.compile().edits] == ["a", "d"]
        assert journal.compile().parent == states[0].digest
        journal.rolled_back(6)
        assert journal.write(out).digest == states[2].digest
        assert journal.check_kin(out)
        with pytest.raises(InputError, match="there is no step 99"):
            journal.rolled_back(99)


ACTS = st.lists(st.tuples(st.sampled_from(["made", "again", "delete", "rollback", "write"]),
                          st.integers(0, 30)), max_size=10)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(acts=ACTS)
def test_what_is_read_again_is_what_was_done(
    tmp_path_factory: pytest.TempPathFactory,
    acts: list[tuple[str, int]],
    made: Any,
    change: Any,
    origin: Any,
    reopened: Any,
) -> None:
    """Any history, against the plain sum of the changes that are still there."""
    folder = tmp_path_factory.mktemp("any")
    alive: dict[str, list[tuple[int, Made, Change]]] = {}
    history = [alive]
    with begin(folder / "j", origin(), {}) as journal:
        for clock, (act, n) in enumerate(acts):
            name = sorted(alive)[n % len(alive)] if alive else ""
            rng = np.random.default_rng([clock, n])
            if act == "made":
                new = made(f"e{clock}", keys=n % 2, guards=n % 3)
                journal.made([new])
                alive = alive | {new.id: [(clock, new, new.change)]}
            elif act == "again" and name:
                more = change(rng)
                journal.again(name, more)
                alive = alive | {name: [*alive[name], (clock, alive[name][0][1], more)]}
            elif act == "delete" and name:
                journal.deleted([name])
                alive = {id: done for id, done in alive.items() if id != name}
            elif act == "rollback":
                journal.rolled_back(n % len(history))
                alive = history[n % len(history)]
            elif act == "write":
                journal.write(folder / "m", finished=bool(n % 2))
            else:
                continue
            history.append(alive)
        data = to_bytes(journal.compile())
    Wm = np.zeros((d, D), np.float32)
    for _, first, c in sorted((x for done in alive.values() for x in done), key=lambda x: x[0]):
        Wm[:, columns(first.primary)] += c.delta().T
    with reopened(journal) as again:
        assert to_bytes(again.compile()) == data
        assert np.array_equal(to_dense(again.compile()), Wm)
        assert {entry.id for entry in again.compile().edits} == set(alive)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("made", {"edits": [{"id": "a"}]}),
        ("again", {"edit": "nobody", "decay": 1.0}),
        ("audit", {"failed": []}),
        ("rollback", {"to": 5}),
        ("deleted", {}),
    ],
)
def test_a_frame_that_means_nothing_is_refused(fresh: Any, kind: str, data: Any) -> None:
    with fresh() as journal:
        journal.append(kind, data, {})
        with pytest.raises(JournalError, match="step 1"):
            journal.compile()


def test_an_unknown_kind_is_refused(fresh: Any) -> None:
    with fresh() as journal:
        journal.append("transmuted", {}, {})
    with pytest.raises(JournalError, match="step 1 is 'transmuted'"):
        load(journal.path, write=False)


def test_kin(fresh: Any, tmp_path: Path, made: Any, origin: Any) -> None:
    out = tmp_path / "m.safetensors"
    assert path_of(out) == tmp_path / "m.safetensors.journal"
    with fresh() as journal:
        journal.made([made("a")])
        first = journal.write(out)
        assert journal.check_kin(out)
        journal.made([made("b")])
        assert not journal.check_kin(out)
        journal.write(out)
        write(first, out)  # somebody's copy of the earlier one
        assert not journal.check_kin(out)
        write(origin(tool="else"), out)
        with pytest.raises(JournalError, match="is not the journal of"):
            journal.check_kin(out)
