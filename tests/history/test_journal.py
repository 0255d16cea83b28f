"""The journal: whole frames or none, and the memory that they amount to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_edge import tophash
from memoir_edge.errors import InputError
from memoir_edge.history import Audit, Change, Journal, JournalError, Made, begin, load, path_of
from memoir_edge.history import frames as module
from memoir_edge.history.frames import HEAD, MAGIC
from memoir_edge.memory import Base, Entry, Memory, Probe, from_dense, to_bytes, to_dense, write

D, d, K = 20, 3, 6


def origin(**changes: Any) -> Memory:
    """An empty memory."""
    given = {
        "site": "layer", "feature": "last", "k": K, "base": Base("tiny"),
        "bank": np.zeros((0, 3), np.uint8), "owner": np.zeros(0, np.int32),
        "thresholds": np.zeros(0, np.float32), "center": np.zeros(D, np.float32),
        "scale": np.ones(D, np.float32), "permutation": np.arange(D, dtype=np.int32), "edits": (),
    }  # fmt: skip
    return from_dense(np.zeros((d, D), np.float32), **given | changes)


def made(name: str, seed: int = 0, keys: int = 0, guards: int = 0, decay: float = 1.0) -> Made:
    rng = np.random.default_rng([*name.encode(), seed])
    masks = list(tophash.pack(rng.permuted(np.tile(np.arange(D) < K, (9, 1)), axis=1)))
    record = {"prompt": f"The {name} is", "target": name}
    return Made(
        name, record, masks[0], masks[1 : 1 + keys], masks[5 : 5 + guards], 0.5, change(rng, decay)
    )


def change(rng: np.random.Generator, decay: float = 1.0) -> Change:
    r = int(rng.integers(1, 4))
    V, U = rng.normal(size=(K, r)), rng.normal(size=(r, d))
    return Change(V.astype(np.float32), U.astype(np.float32), decay, 0.01, 5, 0.001)


def columns(mask: tophash.Bytes) -> tophash.Bits:
    return tophash.unpack(mask, D)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Journal]:
    def make() -> Journal:
        return begin(tmp_path / "m.journal", origin(), {"model": "tiny"})

    return make


def reopened(journal: Journal, **rest: Any) -> Journal:
    found = load(journal.path, **{"write": False} | rest)
    assert found
    return found


# --- What it amounts to --------------------------------------------------------------------------


def test_the_memory_is_the_sum_of_the_changes(fresh: Any) -> None:
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


def test_keys_get_thresholds_of_their_own(fresh: Any) -> None:
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


def test_what_a_run_has_trained_is_known(fresh: Any) -> None:
    """Enough to go on with a second pass where it was cut off."""
    more = change(np.random.default_rng(9))
    with fresh() as journal:
        journal.made([made("a"), made("b")])
        journal.again("a", more)
        state = journal.state()
        assert (state.fresh, state.passes) == (["a", "b"], {"a": 1})
        journal.made([made("c")])
        state = journal.state()
        assert (state.fresh, state.passes) == (["a", "b", "c"], {})
        journal.audited(Audit(3, ["a"], []))
        journal.again("a", more)
        assert journal.state().passes == {}  # a repair, no pass
        journal.written("0" * 64, finished=False)
        assert journal.state().fresh == ["a", "b", "c"]
        journal.written("0" * 64, finished=True)
        assert journal.state().fresh == []


def test_decay_shrinks_what_was_there(fresh: Any) -> None:
    a, b = made("a"), made("b", decay=0.5)
    with fresh() as journal:
        journal.made([a])
        journal.made([b])
        Wm = np.zeros((d, D), np.float32)
        Wm[:, columns(a.primary)] = a.change.delta().T * np.float32(0.5)
        Wm[:, columns(b.primary)] += b.change.delta().T
        assert np.array_equal(to_dense(journal.compile()), Wm)


def test_a_deleted_edit_leaves_nothing_behind(fresh: Any, tmp_path: Path) -> None:
    """The memory is the one that the other edits make without it, to the byte but its parent."""
    with fresh() as journal:
        journal.made([made("a", keys=2, guards=1)])
        journal.made([made("b"), made("c")])
        journal.deleted(["a", "c"])
        found = journal.compile()
    with begin(tmp_path / "other.journal", origin(), {}) as other:
        other.made([made("b")])
        assert to_bytes(found) == to_bytes(other.compile())


def test_only_own_edits_are_deleted(fresh: Any, tmp_path: Path) -> None:
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


def test_a_later_edit_of_a_prompt_inherits_what_was_done_for_it(fresh: Any) -> None:
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


def test_a_rollback_is_a_step_like_any_other(fresh: Any, tmp_path: Path) -> None:
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


def test_an_audit_is_gone_on_with(fresh: Any) -> None:
    with fresh() as journal:
        journal.made([made("a"), made("b")])
        assert not journal.state().settled(5)
        journal.audited(Audit(2, ["a", "b"], [Probe("p", "t", "a"), Probe("q", "t", "z")]))
        journal.again("a", change(np.random.default_rng(1)))
        state = journal.state()
        assert (state.broken, state.audits, state.settled(0)) == (["b"], 1, False)
        assert journal.compile().evaluation == {"checked": 2, "took": 0}
        assert journal.compile().probes == (Probe("p", "t", "a"),)  # z is not there
        journal.again("b", change(np.random.default_rng(2)))
        journal.audited(Audit(2, ["b"], []))
        assert (journal.state().settled(1), journal.state().settled(2)) == (True, False)
        journal.audited(Audit(2, [], []))
        assert journal.state().settled(9)
        journal.deleted(["a"])
        assert not journal.state().settled(0)


ACTS = st.lists(st.tuples(st.sampled_from(["made", "again", "delete", "rollback", "write"]),
                          st.integers(0, 30)), max_size=10)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(ACTS)
def test_what_is_read_again_is_what_was_done(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int]]
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


# --- Files ---------------------------------------------------------------------------------------


def test_a_tail_cut_at_any_byte_is_dropped(fresh: Any, tmp_path: Path) -> None:
    with fresh() as journal:
        journal.made([made("a")])
        before = to_bytes(journal.compile())
        journal.made([made("b"), made("c")])
        last = journal.frames[-1]
    data = journal.path.read_bytes()
    start = last.offset - HEAD
    torn = tmp_path / "torn.journal"
    for end in range(start, len(data)):
        torn.write_bytes(data[:end])
        with reopened(journal) as whole:
            assert len(whole.frames) == 3
        found = load(torn, write=False)
        assert found
        with found:
            assert len(found.frames) == 2
            assert found.dropped == end - start
            if end % 50 == 0:
                assert to_bytes(found.compile()) == before
        assert torn.stat().st_size == end  # reading changes nothing
    opened = load(torn, write=True)
    assert opened
    with opened as found:
        assert torn.stat().st_size == start
        found.made([made("b"), made("c")])
    assert len(torn.read_bytes()) == len(data)


@pytest.mark.parametrize("tail", [b"\0" * 700, MAGIC, MAGIC + b"\xff" * 90, b"M"])
def test_a_tail_of_garbage_is_dropped(fresh: Any, tail: bytes) -> None:
    """What a power cut leaves where an append was begun."""
    with fresh() as journal:
        journal.made([made("a")])
    size = journal.path.stat().st_size
    journal.path.write_bytes(journal.path.read_bytes() + tail)
    with reopened(journal, write=True) as found:
        assert (len(found.frames), found.dropped) == (2, len(tail))
        assert journal.path.stat().st_size == size


def test_damage_before_the_end_is_refused_and_nothing_is_cut(fresh: Any) -> None:
    with fresh() as journal:
        journal.made([made("a")])
        journal.made([made("b")])
        places = [journal.frames[1].offset - HEAD + n for n in (0, 5, 20, HEAD + 3)]
    data = journal.path.read_bytes()
    for place in places:
        broken = bytearray(data)
        broken[place] ^= 0x40
        journal.path.write_bytes(broken)
        with pytest.raises(JournalError, match="damaged at byte"):
            load(journal.path, write=True)
        assert journal.path.read_bytes() == broken


def test_a_torn_beginning_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "m.journal"
    with begin(path, origin(), {}):
        pass
    data = path.read_bytes()
    for end in (0, 1, 4, 30, len(data) - 1):
        path.write_bytes(data[:end])
        assert load(path, write=True) is None
        with begin(path, origin(), {}) as journal, reopened(journal) as found:
            assert len(found.frames) == 1
    assert load(tmp_path / "none", write=False) is None


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.journal"
    path.write_bytes(b"something else entirely")
    with pytest.raises(JournalError, match="is no journal"):
        load(path, write=True)
    assert path.read_bytes() == b"something else entirely"


def test_two_writers_do_not_meet(fresh: Any) -> None:
    with fresh() as journal:
        with pytest.raises(InputError, match="another process is writing"):
            load(journal.path, write=True)
        with reopened(journal) as reader:
            assert len(reader.frames) == 1


def test_a_full_disk_leaves_the_journal_as_it_was(
    fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh() as journal:
        journal.made([made("a")])
        size = journal.path.stat().st_size

        def full(_fd: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("memoir_edge.history.frames.os.fsync", full)
            with pytest.raises(InputError, match="No space left"):
                journal.made([made("b")])
        assert journal.path.stat().st_size == size
        journal.made([made("c")])
        assert [e.id for e in journal.compile().edits] == ["a", "c"]


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


def test_kin(fresh: Any, tmp_path: Path) -> None:
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


def test_a_frame_is_what_the_page_says(fresh: Any) -> None:
    """The literal bytes of docs/journal.md's example."""
    with fresh() as journal:
        journal.append("deleted", {"edits": ["a"]}, {})
        frame = journal.frames[-1]
    payload = journal.path.read_bytes()[frame.offset :]
    assert len(payload) == frame.length
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    document = json.loads(header["__metadata__"][module.KEY])
    assert document == {
        "kind": "deleted", "data": {"edits": ["a"]}, "at": frame.at, "tool": frame.tool
    }  # fmt: skip
