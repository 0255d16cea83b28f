"""The journal: the memory that its frames amount to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_edge import tophash
from memoir_edge.errors import InputError
from memoir_edge.history import (
    Again,
    Calibrated,
    Change,
    Deleted,
    JournalError,
    Made,
    RolledBack,
    Together,
    begin,
    load,
    path_of,
)
from memoir_edge.memory import (
    Codes,
    Entry,
    Memory,
    Router,
    from_bytes,
    to_bytes,
    to_dense,
    write,
)
from memoir_edge.memory.limits import MAX_TILES

D, d = 20, 3


def columns(mask: tophash.Bytes) -> tophash.Bits:
    return tophash.unpack(mask, D)


def test_the_memory_is_the_sum_of_the_changes(fresh: Any, made: Any, change: Any) -> None:
    a, b = made("a", keys=1), made("b", guards=1)
    more = change(np.random.default_rng(9))
    with fresh() as journal:
        journal.record(Together((a,)))
        journal.record(Together((b,)))
        journal.record(Again("a", more))
        memory = journal.compile()
    Wm = np.zeros((d, D), np.float32)
    for primary, c in ((a.primary, a.change), (b.primary, b.change), (a.primary, more)):
        Wm[:, columns(primary)] += (c.V @ c.U).T
    assert np.array_equal(to_dense(memory), Wm)
    assert memory.owner.tolist() == [0, 0, 2, -1]
    assert memory.edits == (Entry("a", 0, a.record), Entry("b", 2, b.record))
    assert memory.thresholds.tolist() == [0.5] * 4


def test_a_copy_is_gone_on_with_and_taken_back_or_thrown_away(fresh: Any, made: Any) -> None:
    with fresh() as journal:
        journal.record(Together((made("a", keys=1),)))
        before, (trial, other) = journal.compile(), (journal.copied(), journal.copied())
        assert to_bytes(trial.compile()) == to_bytes(before)
        trial.record(Together((made("b"),)))
        other.record(Together((made("c"),)))
        assert to_bytes(journal.compile()) == to_bytes(before)
        journal.take(trial)
        assert to_bytes(journal.compile()) == to_bytes(trial.compile())
        assert [entry.id for entry in journal.compile().edits] == ["a", "b"]


def test_keys_get_thresholds_of_their_own(fresh: Any, made: Any) -> None:
    with fresh() as journal:
        journal.record(Together((made("a", keys=1), made("b"))))
        assert not journal.state().calibrated
        journal.record(Calibrated(np.array([0.6, 0.7, 0.8], np.float32)))
        assert journal.state().calibrated
        assert journal.compile().thresholds.tolist() == [np.float32(x) for x in (0.6, 0.7, 0.8)]
        journal.record(RolledBack(1))
        assert journal.compile().thresholds.tolist() == [0.5] * 3
        journal.record(Calibrated(np.array([0.6], np.float32)))
        with pytest.raises(JournalError, match="step 4 is malformed"):
            journal.state()


def test_decay_shrinks_what_was_there(fresh: Any, made: Any) -> None:
    a, b = made("a"), made("b", decay=0.5)
    with fresh() as journal:
        journal.record(Together((a,)))
        journal.record(Together((b,)))
        Wm = np.zeros((d, D), np.float32)
        Wm[:, columns(a.primary)] = a.change.delta().T * np.float32(0.5)
        Wm[:, columns(b.primary)] += b.change.delta().T
        assert np.array_equal(to_dense(journal.compile()), Wm)


def test_a_deleted_edit_leaves_nothing_behind(
    fresh: Any, tmp_path: Path, made: Any, origin: Any
) -> None:
    """The memory is the one that the other edits make without it, to the byte but its parent."""
    with fresh() as journal:
        journal.record(Together((made("a", keys=2, guards=1),)))
        journal.record(Together((made("b"), made("c"))))
        journal.record(Deleted(["a", "c"]))
        found = journal.compile()
    with begin(tmp_path / "other.journal", origin(), {}) as other:
        other.record(Together((made("b"),)))
        assert to_bytes(found) == to_bytes(other.compile())


def test_only_own_edits_are_deleted(fresh: Any, tmp_path: Path, made: Any) -> None:
    with fresh() as journal:
        journal.record(Together((made("a"),)))
        filled = write(journal.compile(), tmp_path / "m.safetensors")
    with begin(tmp_path / "next.journal", filled, {}) as journal:
        journal.record(Together((made("b"),)))
        frames = len(journal.frames)
        with pytest.raises(InputError, match="there is no edit 'x'"):
            journal.record(Deleted(["b", "x"]))
        with pytest.raises(InputError, match="was in the memory that the journal began from"):
            journal.record(Deleted(["b", "a"]))
        assert len(journal.frames) == frames
        assert journal.compile().parent == filled.digest
        assert {entry.id for entry in journal.compile().edits} == {"a", "b"}


def test_an_edit_without_an_id_never_reaches_the_journal(fresh: Any, made: Any) -> None:
    """No memory could be compiled from it, and a journal forgets nothing."""
    with fresh() as journal:
        with pytest.raises(InputError, match="the edit of 'The a is' has no id"):
            journal.record(Together((made("b"), made("a")._replace(id=""))))
        assert len(journal.frames) == 1


def test_a_later_edit_of_a_prompt_inherits_what_was_done_for_it(fresh: Any, made: Any) -> None:
    """Its deletion takes both changes out, and a rollback brings the former back."""
    first = made("a", keys=1, guards=1)
    later = made("b")._replace(primary=first.primary)
    with fresh() as journal:
        journal.record(Together((first,)))
        before = to_bytes(journal.compile())
        journal.record(Together((later,)))
        both = journal.compile()
        Wm = np.zeros((d, D), np.float32)
        for c in (first.change, later.change):
            Wm[:, columns(first.primary)] += c.delta().T
        assert np.array_equal(to_dense(both), Wm)
        assert [entry.id for entry in both.edits] == ["b"]
        assert both.owner.tolist() == [0, 0, -1]
        journal.record(Deleted(["b"]))
        assert len(journal.compile().bank) == len(journal.compile().columns) == 0
        journal.record(RolledBack(1))
        assert to_bytes(journal.compile()) == before


def test_a_rollback_is_a_step_like_any_other(fresh: Any, tmp_path: Path, made: Any) -> None:
    out = tmp_path / "m"
    with fresh() as journal:
        states = []
        for name in "abc":
            journal.record(Together((made(name),)))
            states.append(journal.write(out))
        assert [s.parent for s in states] == [None, states[0].digest, states[1].digest]
        journal.record(RolledBack(2))
        assert journal.write(out).digest == states[0].digest
        journal.record(Together((made("d"),)))
        assert [e.id for e in journal.compile().edits] == ["a", "d"]
        assert journal.compile().parent == states[0].digest
        journal.record(RolledBack(6))
        assert journal.write(out).digest == states[2].digest
        assert journal.check_kin(out)
        with pytest.raises(InputError, match="there is no step 99"):
            journal.record(RolledBack(99))


ACTS = st.lists(st.tuples(st.sampled_from(["made", "again", "delete", "rollback", "write"]),
                          st.integers(0, 30)), max_size=10)  # fmt: skip


@settings(max_examples=60)
@given(acts=ACTS, coded=st.booleans())
def test_what_is_read_again_is_what_was_done(
    tmp_path_factory: pytest.TempPathFactory,
    acts: list[tuple[str, int]],
    coded: bool,
    router: Router,
    made: Any,
    change: Any,
    origin: Any,
    reopened: Any,
) -> None:
    """Any history, against the plain sum of the changes that are still there."""
    folder = tmp_path_factory.mktemp("any")
    alive: dict[str, list[tuple[int, Made, Change]]] = {}
    history = [alive]
    with begin(folder / "j", origin(router if coded else None), {}) as journal:
        for clock, (act, n) in enumerate(acts):
            name = sorted(alive)[n % len(alive)] if alive else ""
            rng = np.random.default_rng([clock, n])
            if act == "made":
                new = made(f"e{clock}", keys=n % 2, guards=n % 3, router=router if coded else None)
                journal.record(Together((new,)))
                alive = alive | {new.id: [(clock, new, new.change)]}
            elif act == "again" and name:
                more = change(rng)
                journal.record(Again(name, more))
                alive = alive | {name: [*alive[name], (clock, alive[name][0][1], more)]}
            elif act == "delete" and name:
                journal.record(Deleted([name]))
                alive = {id: done for id, done in alive.items() if id != name}
            elif act == "rollback":
                journal.record(RolledBack(n % len(history)))
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
        journal.record(Together((made("a"),)))
        first = journal.write(out)
        assert journal.check_kin(out)
        journal.record(Together((made("b"),)))
        assert not journal.check_kin(out)
        journal.write(out)
        write(first, out)  # somebody's copy of the earlier one
        assert not journal.check_kin(out)
        write(origin(tool="else"), out)
        with pytest.raises(JournalError, match="is not the journal of"):
            journal.check_kin(out)


# --- With a router -------------------------------------------------------------------------------


def codes_of(memory: Memory) -> Codes:
    assert memory.codes
    return memory.codes


def test_a_memory_with_a_router_has_codes_for_keys(fresh: Any, made: Any, router: Router) -> None:
    a, b = made("a", keys=1, router=router), made("b", guards=1, router=router)
    with fresh(router) as journal:
        journal.record(Together((a, b)))
        memory = journal.compile()
    codes = codes_of(memory)
    assert codes.router == router
    assert np.array_equal(codes.keys, [a.key, *a.others, b.key, *b.guards])
    assert codes.owner.tolist() == [0, 0, 1, -1]
    assert codes.thresholds.tolist() == [0.5] * 4
    assert np.array_equal(memory.bank, [a.primary, b.primary])
    assert memory.edits == (Entry("a", 0, a.record), Entry("b", 1, b.record))
    Wm = np.zeros((d, D), np.float32)
    for edit in (a, b):
        Wm[:, columns(edit.primary)] += edit.change.delta().T
    assert np.array_equal(to_dense(memory), Wm)


def test_only_a_memory_with_a_router_is_format_2(origin: Any, made: Any, router: Router) -> None:
    for own, version in ((router, "2"), (None, "1")):
        with begin(None, origin(own), {}) as journal:
            journal.record(Together((made("a", router=own),)))
            assert f'"memoir_edge.format":"{version}"'.encode() in to_bytes(journal.compile())


def test_a_router_s_journal_is_opened_again(
    fresh: Any, made: Any, change: Any, router: Router, reopened: Any
) -> None:
    """Also its codes' thresholds and later changes; and it is gone on with."""
    with fresh(router) as journal:
        journal.record(Together((made("a", keys=2, router=router),)))
        journal.record(Again("a", change(np.random.default_rng(9))))
        journal.record(Calibrated(np.array([0.6, 0.7, 0.8], np.float32)))
        before = to_bytes(journal.compile())
    with reopened(journal, write=True) as again:
        assert again.state().bank.router == router
        assert to_bytes(again.compile()) == before
        again.record(Together((made("b", guards=1, router=router),)))
        found = codes_of(from_bytes(to_bytes(again.compile())))
        assert found.owner.tolist() == [0, 0, 0, 1, -1]
        assert found.thresholds.tolist() == [np.float32(x) for x in (0.6, 0.7, 0.8, 0.5, 0.5)]


def test_a_deleted_edit_leaves_no_code_behind(
    fresh: Any, tmp_path: Path, made: Any, origin: Any, router: Router
) -> None:
    with fresh(router) as journal:
        journal.record(Together((made("a", keys=2, guards=1, router=router),)))
        journal.record(Together((made("b", router=router), made("c", router=router))))
        before = to_bytes(journal.compile())
        journal.record(Deleted(["a", "c"]))
        found = to_bytes(journal.compile())
        journal.record(RolledBack(2))
        assert to_bytes(journal.compile()) == before
    with begin(tmp_path / "other.journal", origin(router), {}) as other:
        other.record(Together((made("b", router=router),)))
        assert to_bytes(other.compile()) == found


def test_a_later_edit_of_a_prompt_takes_the_former_s_codes(
    fresh: Any, made: Any, router: Router
) -> None:
    first = made("a", keys=1, guards=1, router=router)
    later = made("b", router=router)._replace(primary=first.primary, key=first.key)
    with fresh(router) as journal:
        journal.record(Together((first,)))
        before = to_bytes(journal.compile())
        journal.record(Together((later,)))
        both = journal.compile()
        assert both.edits == (Entry("b", 0, later.record),)
        assert codes_of(both).owner.tolist() == [0, 0, -1]
        journal.record(Deleted(["b"]))
        assert len(codes_of(journal.compile()).keys) == len(journal.compile().columns) == 0
        journal.record(RolledBack(1))
        assert to_bytes(journal.compile()) == before


def test_a_memory_with_a_router_is_continued_without_its_journal(
    fresh: Any, tmp_path: Path, made: Any, router: Router
) -> None:
    with fresh(router) as journal:
        journal.record(Together((made("a", keys=1, guards=1, router=router),)))
        filled = write(journal.compile(), tmp_path / "m.safetensors")
    with begin(tmp_path / "next.journal", filled, {}) as journal:
        journal.record(Together((made("b", router=router),)))
        memory = journal.compile()
        assert [entry.id for entry in memory.edits] == ["a", "b"]
        assert codes_of(memory).owner.tolist() == [0, 0, -1, 1]
        with pytest.raises(InputError, match="was in the memory that the journal began from"):
            journal.record(Deleted(["a"]))


def test_an_edit_of_the_other_kind_is_refused(origin: Any, made: Any, router: Router) -> None:
    """A mask among codes, or a code among masks, would be told from nothing."""
    for own, other in ((router, None), (None, router)):
        with begin(None, origin(own), {}) as journal:
            edits = Together((made("a", router=other),))
            with pytest.raises(InputError, match="edit 'a' has"):
                journal.record(edits)
            assert len(journal.frames) == 1
            journal.append(edits.kind, *edits.content())
            with pytest.raises(JournalError, match=r"step 1 is malformed: .*edit 'a' has"):
                journal.compile()


def test_each_edit_changes_its_own_tile(fresh: Any, made: Any, router: Router) -> None:
    """Also after it was deleted, taken over, and read again."""
    a = made("a", router=router)
    b = made("b", router=router)._replace(tile=2)
    with fresh(router) as journal:
        journal.record(Together((a,)))
        journal.record(Together((b,)))
        journal.record(Again("b", b.change))
        memory = from_bytes(to_bytes(journal.compile()))
        with load(journal.path, write=False) as found:  # type: ignore[union-attr]
            assert to_bytes(found.compile()) == to_bytes(memory)
        Wm = np.zeros((3, D, d), np.float32)
        Wm[0][columns(a.primary)] += a.change.delta()
        for _ in range(2):
            Wm[2][columns(b.primary)] += b.change.delta()
        assert memory.tiles == 3
        assert np.array_equal(to_dense(memory), Wm.reshape(-1, d).T)
        journal.record(Together((b._replace(id="c"),)))
        assert journal.compile().tile.tolist() == [0, 2]
        journal.record(Deleted(["a"]))
        assert journal.compile().tile.tolist() == [2]
        journal.record(Deleted(["c"]))
        assert journal.compile().tile is None


def test_each_edit_changes_the_tiles_of_all_sites(origin: Any, made: Any, router: Router) -> None:
    def two(edit: Made) -> Made:
        V, U = edit.change.V, edit.change.U
        whole = edit.change._replace(V=np.concatenate([V, -V]), U=np.concatenate([U, U]))
        return edit._replace(change=whole)

    a, b = two(made("a", router=router)), two(made("b", router=router))._replace(tile=2)
    with begin(None, origin(router, later=("next",)), {}) as journal:
        assert journal.compile().tiles == 2
        journal.record(Together((a, b)))
        journal.record(Again("a", a.change))
        memory = from_bytes(to_bytes(journal.compile()))
        Wm = np.zeros((4, D, d), np.float32)
        for tile, edit, times in ((0, a, 2), (2, b, 1)):
            for s, delta in enumerate(np.split(edit.change.delta(2), 2)):
                Wm[tile + s][columns(edit.primary)] += times * delta
        assert (memory.sites, memory.tiles) == (("layer", "next"), 4)
        assert np.allclose(to_dense(memory), Wm.reshape(-1, d).T, atol=1e-6)
        journal.record(Deleted(["b"]))
        assert journal.compile().tile is None
    with begin(None, origin(router, later=("next",)), {}) as journal:
        journal.record(Together((made("a", router=router),)))  # of one site
        with pytest.raises(JournalError, match="step 1 is malformed"):
            journal.compile()


@pytest.mark.parametrize("tile", [-1, MAX_TILES])
def test_a_tile_that_cannot_be_is_a_damaged_journal(
    fresh: Any, made: Any, router: Router, tile: int
) -> None:
    """It is not recorded, or the journal could never be read again."""
    with fresh(router) as journal:
        edits = Together((made("a", router=router)._replace(tile=tile),))
        with pytest.raises(InputError, match=f"in tile {tile}"):
            journal.record(edits)
        assert not journal.compile().edits
        journal.append(edits.kind, *edits.content())
        with pytest.raises(JournalError, match=f"in tile {tile}"):
            journal.compile()
