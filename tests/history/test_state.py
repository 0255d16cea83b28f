"""What events amount to, and what is next: a run that was cut off goes on as if it had not been."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_edge import tophash
from memoir_edge.history import (
    Again,
    Ask,
    Audit,
    Bank,
    Calibrated,
    Deleted,
    Event,
    Made,
    RolledBack,
    State,
    Step,
    Tabled,
    Together,
    Train,
    Written,
    next_step,
)
from memoir_edge.history.events import KINDS, MISS, PROMPT, Measured, Wrong
from memoir_edge.history.state import add, begun, fold
from memoir_edge.memory import Memory, Probe, Router

DIGEST = "ab" * 32


class Rounds(NamedTuple):
    """A schedule."""

    passes: int = 1
    repairs: int = 0


# --- What is next --------------------------------------------------------------------------------


def state(
    fresh: str = "", broken: str | None = None, audits: int = 0, passes: str = "", **rest: Any
) -> State:
    """Of edits a, b and c; each is named by one letter."""
    bank = Bank(20, 6, records=dict.fromkeys("abc"))
    failed = None if broken is None else list(broken)
    return State(
        bank, fresh=list(fresh), broken=failed, audits=audits, passes=Counter(passes), **rest
    )


@pytest.mark.parametrize(
    ("found", "rounds", "step"),
    [
        # Passes: each fresh edit once more a pass, in order, then all are asked for.
        (state(), Rounds(), Ask()),
        (state("ab"), Rounds(passes=1), Ask()),
        (state("ab"), Rounds(passes=2), Train("a")),
        (state("ab", passes="a"), Rounds(passes=2), Train("b")),
        (state("ab", passes="ab"), Rounds(passes=2), Ask()),
        (state("ab", passes="ab"), Rounds(passes=3), Train("a")),
        (state("ab", passes="aab"), Rounds(passes=3), Train("b")),
        (state("ba"), Rounds(passes=2), Train("b")),
        (state("xa"), Rounds(passes=2), Train("a")),  # x is gone
        (state("x"), Rounds(passes=2), Ask()),
        # Repairs: what does not hold is trained again and asked for, within so many rounds.
        (state(broken="", audits=1), Rounds(), None),
        (state(broken="", audits=1), Rounds(repairs=3), None),
        (state(broken="ab", audits=1), Rounds(), None),
        (state(broken="ab", audits=1), Rounds(repairs=1), Train("a")),
        (state(broken="b", audits=1, repaired=True), Rounds(repairs=1), Train("b")),
        (state(broken="", audits=1, repaired=True), Rounds(repairs=1), Ask()),
        (state(broken="b", audits=2), Rounds(repairs=1), None),
        (state(broken="b", audits=2), Rounds(repairs=2), Train("b")),
        # An audit that stands ends a run, whatever the passes were.
        (state("ab", broken="", audits=1), Rounds(passes=3), None),
    ],
)
def test_next_step(found: State, rounds: Rounds, step: Step | None) -> None:
    assert next_step(found, rounds) == step


# --- A run that is cut off -----------------------------------------------------------------------

Steps = list[tuple[Step, Event]]
Audits = list[set[int]]  # edits that do not hold, audit by audit; then all do


def folded(origin: Memory, events: Sequence[Event]) -> State:
    """Anew, as a journal that is opened does: each event from its frame's content."""
    found = begun(origin, None)
    for number, event in enumerate(events, start=1):
        fold(found, KINDS[event.kind].of(*event.content()), number)
    return found


def done(step: Step, found: State, audits: Audits, change: Callable[..., Any]) -> Event:
    """What a step leads to; the same for the same step of the same state."""
    if isinstance(step, Train):
        return Again(step.edit, change(np.random.default_rng(len(found.changes))))
    held = list(found.bank.records)
    failing = audits[found.audits] if found.audits < len(audits) else set()
    return Audit(len(held), [held[i] for i in sorted(failing) if i < len(held)], [])


def run(
    found: State, number: int, rounds: Rounds, audits: Audits, change: Callable[..., Any]
) -> Steps:
    """All further steps, and what each led to."""
    steps: Steps = []
    while step := next_step(found, rounds):
        event = done(step, found, audits, change)
        fold(found, event, number + len(steps))
        steps.append((step, event))
        assert len(steps) < 200
    return steps


@settings(max_examples=100)
@given(
    groups=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    rounds=st.builds(Rounds, st.integers(1, 4), st.integers(0, 4)),
    audits=st.lists(st.sets(st.integers(0, 8)), max_size=5),
    coded=st.booleans(),
)
def test_a_run_goes_on_with_the_same_steps_wherever_it_is_cut(
    groups: list[int], rounds: Rounds, audits: Audits, coded: bool,
    origin: Any, made: Any, change: Any, router: Router,
) -> None:  # fmt: skip
    """For any schedule and any answers; also where a half-done memory was written at the cut."""
    own = router if coded else None
    begin = origin(own)
    events: list[Event] = [
        Together(tuple(made(f"{i}.{j}", router=own) for j in range(size)))
        for i, size in enumerate(groups)
    ]
    first = len(events)
    whole = run(folded(begin, events), first + 1, rounds, audits, change)
    for cut in range(len(whole) + 1):
        so_far = events + [event for _, event in whole[:cut]]
        for halted in ([], [Written(DIGEST, finished=False)]):
            found = folded(begin, [*so_far, *halted])
            rest = run(found, len(so_far) + len(halted) + 1, rounds, audits, change)
            assert [step for step, _ in rest] == [step for step, _ in whole[cut:]]
            assert found.settled(rounds.repairs)
    steps = [step for step, _ in whole]
    passes = steps[: steps.index(Ask())]
    assert len(passes) == sum(groups) * (rounds.passes - 1)
    assert steps.count(Ask()) <= rounds.repairs + 1


def test_what_a_run_has_trained_is_known(fresh: Any, made: Any, change: Any) -> None:
    """Enough to go on with a second pass where it was cut off."""
    more = change(np.random.default_rng(9))
    with fresh() as journal:
        journal.record(Together((made("a"), made("b"))))
        journal.record(Again("a", more))
        state = journal.state()
        assert ([*state.fresh], state.passes) == (["a", "b"], {"a": 1})
        journal.record(Together((made("c"),)))
        state = journal.state()
        assert ([*state.fresh], state.passes) == (["a", "b", "c"], {})
        journal.record(Audit(3, ["a"], []))
        journal.record(Again("a", more))
        assert journal.state().passes == {}  # a repair, no pass
        journal.record(Written("0" * 64, finished=False))
        assert [*journal.state().fresh] == ["a", "b", "c"]
        journal.record(Written("0" * 64, finished=True))
        assert not journal.state().fresh


def test_an_audit_is_gone_on_with(fresh: Any, made: Any, change: Any) -> None:
    with fresh() as journal:
        journal.record(Together((made("a"), made("b"))))
        assert not journal.state().settled(5)
        journal.record(Audit(2, ["a", "b"], [Probe("p", "t", "a"), Probe("q", "t", "z")]))
        journal.record(Again("a", change(np.random.default_rng(1))))
        state = journal.state()
        assert (state.broken, state.audits, state.settled(0)) == (["b"], 1, False)
        assert journal.compile().evaluation == {"checked": 2, "took": 0}
        assert journal.compile().probes == (Probe("p", "t", "a"),)  # z is not there
        journal.record(Again("b", change(np.random.default_rng(2))))
        journal.record(Audit(2, ["b"], []))
        assert (journal.state().settled(1), journal.state().settled(2)) == (True, False)
        journal.record(Audit(2, [], []))
        assert journal.state().settled(9)
        journal.record(Deleted(["a"]))
        assert not journal.state().settled(0)


# --- What each event does ------------------------------------------------------------------------


def test_a_journal_begins_from_what_its_memory_holds(origin: Any, made: Any) -> None:
    bank = Bank(20, 6)
    bank.add("a", {"n": 1}, made("a").primary, [], [], 0.5)
    memory = origin(**bank.arrays()._asdict(), parent="cd" * 32, probes=(Probe("p", "t", "a"),))
    found = begun(memory, DIGEST)
    assert (found.fixed, found.parent, found.finished) == ({"a"}, "cd" * 32, DIGEST)
    assert found.bank.records == {"a": {"n": 1}}
    assert found.probes == [Probe("p", "t", "a")]
    assert (found.changed, [*found.fresh], found.broken) == (False, [], None)


def test_a_parent_is_the_memory_before_the_first_change(origin: Any, made: Any) -> None:
    found = begun(origin(), None)
    fold(found, Together((made("a"),)), 1)
    assert (found.parent, found.changed) == (None, True)
    fold(found, Written(DIGEST, finished=True), 2)
    assert (found.parent, found.finished, found.changed) == (None, DIGEST, False)
    fold(found, Audit(1, [], []), 3)
    assert (found.parent, found.changed) == (None, False)
    fold(found, Deleted(["a"]), 4)
    assert (found.parent, found.changed) == (DIGEST, True)


def test_who_takes_an_edit_s_place_takes_its_changes(origin: Any, made: Any) -> None:
    a: Made = made("a")
    found = begun(origin(), None)
    fold(found, Together((a, made("b"))), 1)
    fold(found, Again("a", a.change), 2)
    fold(found, Together((made("c")._replace(primary=a.primary),)), 3)
    assert found.changes == [("c", 1, 0), ("b", 1, 1), ("c", 2, 0), ("c", 3, 0)]
    assert [*found.fresh] == ["b", "c"]
    fold(found, Deleted(["c"]), 4)
    assert found.changes == [("b", 1, 1)]
    assert [*found.fresh] == ["b"]


def test_who_takes_a_fixed_edit_s_place_is_fixed(origin: Any, made: Any) -> None:
    bank = Bank(20, 6)
    bank.add("a", None, made("a").primary, [], [], 0.5)
    found = begun(origin(**bank.arrays()._asdict()), DIGEST)
    fold(found, Together((made("b")._replace(primary=made("a").primary),)), 1)
    assert "b" in found.fixed


@pytest.mark.parametrize("count", [0, 2])
def test_thresholds_of_other_keys_cannot_have_been_set(origin: Any, made: Any, count: int) -> None:
    found = begun(origin(), None)
    fold(found, Together((made("a"),)), 1)
    with pytest.raises(ValueError, match="argument 2 is"):
        fold(found, Calibrated(np.ones(count, np.float32)), 2)


def coded(router: Router, *rows: tuple[int, int, str]) -> Tabled:
    """Keys made anew for edits a and b: (edit, guard, text) of each row."""
    rng = np.random.default_rng(0)
    masks = np.tile(np.arange(router.bits) < router.weight, (len(rows), 1))
    edit, guard, texts = zip(*rows, strict=True)
    return Tabled(
        ["a", "b"], list(texts), tophash.pack(rng.permuted(masks, axis=1)),
        np.array(edit, np.int32), np.array(guard, np.uint8),
        np.linspace(0.6, 0.9, len(rows), dtype=np.float32),
    )  # fmt: skip


def test_keys_made_anew_take_the_place_of_all_others(
    origin: Any, made: Any, router: Router
) -> None:
    """Those of a third edit stay; guards of nobody known, as a memory without a journal has, go."""
    first = begun(origin(router), None)
    edits = tuple(made(name, keys=1, guards=1, router=router) for name in "abc")
    fold(first, Together(edits), 1)
    memory = replace(origin(router), **first.bank.arrays()._asdict())
    for found in (first, begun(memory, DIGEST)):
        assert not found.calibrated
        fold(found, coded(router, (0, 0, "p"), (0, 1, "g"), (1, 0, "q"), (1, 0, "r")), 2)
        assert found.calibrated
        new = [(key.edit, key.source, key.text) for key in found.bank.keys if key.text]
        assert new == [("a", "a", "p"), (None, "a", "g"), ("b", "b", "q"), ("b", "b", "r")]
        assert [k.edit for k in found.bank.keys if not k.text and k.edit] == ["c", "c"]
    fold(first, Deleted(["c"]), 3)
    codes = first.bank.arrays().codes
    assert codes is not None
    assert codes.texts == ("p", "g", "q", "r")
    assert codes.owner.tolist() == [0, -1, 1, 1]


@pytest.mark.parametrize("rows", [[(0, 0, "p")], [(0, 1, "g"), (1, 0, "q")]])
def test_keys_of_nobody_cannot_have_been_made(
    origin: Any, made: Any, router: Router, rows: list[tuple[int, int, str]]
) -> None:
    """Of an edit that is not held, or guards alone."""
    found = begun(origin(router), None)
    held = "ab" if len(rows) == 2 else "b"
    fold(found, Together(tuple(made(name, router=router) for name in held)), 1)
    with pytest.raises(ValueError, match="not held, or edits without a key"):
        fold(found, coded(router, *rows), 2)


def test_what_may_have_changed_since_it_was_asked(origin: Any, made: Any, router: Router) -> None:
    """Edits that came, those whose keys were made anew, and those that read changed columns."""
    tile = dict(zip("abcde", [0, 0, 1, 2, 2], strict=True))
    edits = [made(name, router=router)._replace(tile=tile[name]) for name in tile]
    found = begun(origin(router), None)
    step = itertools.count(1)

    def after(event: Event) -> str:
        fold(found, event, next(step))
        return "".join(found.unasked)

    asked = Audit(4, [], [], {name: {PROMPT: (1, 1)} for name in "abcd"})
    missed = replace(asked, wrong=[Wrong("c", MISS, "text", "", "a")])
    assert after(Together(tuple(edits[:4]))) == "abcd"
    assert after(asked) == ""
    assert after(Together((edits[4],))) == "de"
    assert after(asked) == "e"  # it was not among them
    assert after(Again("b", edits[1].change)) == "abe"
    assert after(missed) == "e"
    assert after(coded(router, (0, 0, "p"), (1, 0, "q"))) == "abce"  # a's text had reached c
    assert after(missed) == "e"
    assert after(Deleted(["a"])) == "bce"
    assert after(asked) == "e"
    assert after(Calibrated(np.ones(len(found.bank.keys), np.float32))) == "bcde"


def test_how_much_a_memory_has_grown_since_it_was_measured(
    origin: Any, made: Any, router: Router
) -> None:
    found = begun(origin(router), None)
    fold(found, Together(tuple(made(name, router=router) for name in "abc")), 1)
    assert (found.measured, found.since, [*found.unkeyed]) == (None, 3, ["a", "b", "c"])
    measured = Measured(2, 0.8, 0.6, "rules")
    keys = coded(router, (0, 0, "p"), (1, 0, "q"))
    fold(found, replace(keys, measured=measured), 2)
    assert (found.measured, found.since, [*found.unkeyed]) == (measured, 0, ["c"])
    fold(found, Together((made("d", router=router),)), 3)
    fold(found, keys, 4)
    assert (found.measured, found.since, [*found.unkeyed]) == (measured, 1, ["c", "d"])
    fold(found, Deleted(["c"]), 5)
    assert [*found.unkeyed] == ["d"]


def test_a_rollback_is_not_folded(origin: Any) -> None:
    with pytest.raises(TypeError, match="RolledBack cannot be folded"):
        fold(begun(origin(), None), RolledBack(0), 1)


def test_a_change_at_two_sites_moves_the_same_columns_of_both(made: Any) -> None:
    edit: Made = made("a")
    change = edit.change._replace(
        V=np.concatenate([edit.change.V, 2 * edit.change.V]),
        U=np.concatenate([edit.change.U, edit.change.U]),
    )
    Wm, one = np.zeros((40, 3), np.float32), np.zeros((20, 3), np.float32)
    add(Wm, edit.primary, change, sites=2)
    add(one, edit.primary, edit.change)
    assert np.array_equal(Wm, np.concatenate([one, 2 * one]))


def test_a_change_moves_the_columns_of_its_mask(made: Any) -> None:
    """First the decay of all, then the change, on the mask's columns in rising order."""
    edit: Made = made("a", decay=0.5)
    rng = np.random.default_rng(0)
    Wm = rng.normal(size=(20, 3)).astype(np.float32)
    expected = Wm * np.float32(0.5)
    ones = np.flatnonzero(tophash.unpack(edit.primary, 20))
    for row, delta in zip(ones, edit.change.delta(), strict=True):
        expected[row] += delta
    add(Wm, edit.primary, edit.change)
    assert np.array_equal(Wm, expected)
