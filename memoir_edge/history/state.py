"""What events amount to, and what is to be done next.

A new run and a run that is gone on with are the same loop, here and in the editor:

    while step := next_step(state, settings):
        do it, and record what was done                  which folds it into the state

Knows nothing of files or models.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any, NamedTuple, Protocol

import numpy as np

from memoir_edge.history.bank import Bank, Key, bank_of
from memoir_edge.history.events import (
    Again,
    Audit,
    Calibrated,
    Change,
    Deleted,
    Event,
    Measured,
    Tabled,
    Together,
    Written,
)
from memoir_edge.memory import Memory, Probe
from memoir_edge.tophash import Bytes, unpack


class Place(NamedTuple):
    """Where an edit's change is kept."""

    edit: str  # whose it is by now
    frame: int
    number: int  # of the change in that frame


@dataclass
class State:
    """What the events up to one of them amount to."""

    bank: Bank
    changes: list[Place] = field(default_factory=list)
    fixed: set[str] = field(default_factory=set)  # edits whose change cannot be told apart
    parent: str | None = None  # digest of the last memory finished before the latest changes
    finished: str | None = None  # digest of the last memory that was finished
    changed: bool = False  # since that one
    probes: list[Probe] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    audits: int = 0  # since an edit came or went
    audit: Audit | None = None  # the last one since then
    broken: list[str] | None = None  # by the last audit, to be trained again; None: no audit
    repaired: bool = False  # since the last audit
    last_audit: Audit | None = None  # whatever came since
    touched: set[str] = field(default_factory=set)  # edits that came or have other keys since it
    moved: set[int] = field(default_factory=set)  # tiles of Wm that have changed since it
    calibrated: bool = False  # since an edit was made
    measured: Measured | None = None  # when thresholds were last measured over all edits
    since: int = 0  # edits made since then
    unkeyed: dict[str, None] = field(default_factory=dict)  # edits made since keys were
    fresh: dict[str, None] = field(default_factory=dict)  # edits made since a memory was finished
    passes: Counter[str] = field(default_factory=Counter)  # over them, since the last was made

    @property
    def failed(self) -> list[str]:
        """Ids of edits that did not hold when last asked."""
        return self.audit.failed if self.audit else []

    @property
    def unasked(self) -> list[str]:
        """Ids of edits that the last audit says nothing of.

        They were not there, or their keys or the columns that they read have changed since.
        """
        told = self.last_audit.tally if self.last_audit else {}
        return [
            id
            for id in self.bank.records
            if id not in told or id in self.touched or self.bank.tile.get(id, 0) in self.moved
        ]

    def touch(self, edits: Collection[str]) -> None:
        """From now on the last audit tells nothing of edits, nor of what has reached them."""
        self.touched |= set(edits)
        if self.last_audit:
            wrong = self.last_audit.wrong
            self.touched |= {one.edit for one in wrong if one.fired in self.touched}

    def settled(self, repairs: int) -> bool:
        """The last audit stands, and asks for no more training within so many rounds."""
        return (
            self.broken is not None
            and not self.repaired
            and (not self.broken or self.audits > repairs)
        )


def begun(origin: Memory, digest: str | None) -> State:
    """The state of a journal that begins from a memory; `digest` is that of its file."""
    return State(
        bank_of(origin),
        fixed={entry.id for entry in origin.edits},
        parent=origin.parent,
        finished=digest,
        probes=list(origin.probes),
        evaluation=origin.evaluation,
    )


# --- What is next --------------------------------------------------------------------------------


class Schedule(Protocol):
    """How often edits are trained."""

    @property
    def passes(self) -> int:
        """Over the edits of a run, in order, the first one included."""

    @property
    def repairs(self) -> int:
        """Most rounds in which edits that do not hold are trained again."""


@dataclass(frozen=True)
class Train:
    """Train an edit once more."""

    edit: str


@dataclass(frozen=True)
class Ask:
    """Ask for every edit that may have changed."""


Step = Train | Ask


def next_step(state: State, schedule: Schedule) -> Step | None:
    """What is to be done once every edit of a run has been made; None when all is settled.

    Each fresh edit is trained once more a pass, from where Wm is by then. Then every edit is asked
    for that may have changed, those that answer wrongly are trained again, and so on, until all
    hold or the rounds are through.
    """
    if state.broken is None:
        return _next_pass(state, schedule.passes) or Ask()
    if state.settled(schedule.repairs):
        return None
    return Train(state.broken[0]) if state.broken else Ask()


def _next_pass(state: State, passes: int) -> Train | None:
    ready = [id for id in state.fresh if id in state.bank.records]
    for number in range(1, passes):
        for id in ready:
            if state.passes[id] < number:
                return Train(id)
    return None


# --- What each event does ------------------------------------------------------------------------


def fold(state: State, event: Event, frame: int) -> None:
    """Take an event, kept in the frame of that number, into a state; a rollback is the journal's.

    Raises:
        KeyError, ValueError: The event cannot have happened to this state.
    """
    if not isinstance(event, Audit | Written) and not state.changed:
        state.parent, state.changed = state.finished, True
    _fold(event, state, frame)


@singledispatch
def _fold(event: Event, _state: State, _frame: int) -> None:
    raise TypeError(f"{type(event).__name__} cannot be folded")


@_fold.register
def _(event: Together, state: State, frame: int) -> None:
    state.broken, state.audit, state.audits, state.calibrated = None, None, 0, False
    state.since += len(event.edits)
    state.moved |= {made.tile for made in event.edits}
    state.unkeyed |= {made.id: None for made in event.edits}
    state.touch([made.id for made in event.edits])
    for i, made in enumerate(event.edits):
        former = state.bank.add(
            made.id, made.record, made.primary, made.others, made.guards, made.threshold, made.key,
            made.tile,
        )  # fmt: skip
        if former is not None:  # what was changed for it is the new edit's from now on
            state.changes = [
                place._replace(edit=made.id) if place.edit == former else place
                for place in state.changes
            ]
            if former in state.fixed:
                state.fixed.add(made.id)
        state.changes.append(Place(made.id, frame, i))
        state.fresh.pop(former or made.id, None)
        state.fresh.pop(made.id, None)
        state.fresh[made.id] = None  # behind the others
    state.passes.clear()


@_fold.register
def _(event: Again, state: State, frame: int) -> None:
    state.changes.append(Place(event.edit, frame, 0))
    state.moved.add(state.bank.tile.get(event.edit, 0))
    state.repaired = True
    if state.broken is None:
        state.passes[event.edit] += 1
    else:
        state.broken = [edit for edit in state.broken if edit != event.edit]


@_fold.register
def _(event: Audit, state: State, _frame: int) -> None:
    state.probes, state.evaluation = event.probes, event.evaluation
    state.broken, state.repaired, state.audits = event.worn, False, state.audits + 1
    state.audit = state.last_audit = event
    state.touched, state.moved = set(), set()


@_fold.register
def _(event: Calibrated, state: State, _frame: int) -> None:
    state.bank.calibrate(event.thresholds)
    state.touch(state.bank.records)
    state.calibrated = True


@_fold.register
def _(event: Tabled, state: State, _frame: int) -> None:
    edits = [event.edits[i] for i in event.edit]
    rows = zip(event.codes, edits, event.guard, event.thresholds, event.texts, strict=True)
    state.bank.tabulate(
        [Key(code, None if guard else edit, float(limit), edit, text)
         for code, edit, guard, limit, text in rows]
    )  # fmt: skip
    state.touch(event.edits)
    state.calibrated = True
    if event.measured:
        state.measured, state.since = event.measured, 0
    for edit in event.edits:
        state.unkeyed.pop(edit, None)


@_fold.register
def _(event: Written, state: State, _frame: int) -> None:
    if event.finished:
        state.finished, state.changed, state.fresh = event.digest, False, {}


@_fold.register
def _(event: Deleted, state: State, _frame: int) -> None:
    gone = set(event.edits)
    state.moved |= {state.bank.tile.get(edit, 0) for edit in gone}
    state.touch(gone)
    state.bank.drop(gone)
    state.changes = [place for place in state.changes if place.edit not in gone]
    state.fresh = {id: None for id in state.fresh if id not in gone}
    state.unkeyed = {id: None for id in state.unkeyed if id not in gone}
    state.broken, state.audit, state.audits = None, None, 0


# --- Wm ------------------------------------------------------------------------------------------


def add(
    Wm: Any,
    primary: Bytes,
    change: Change,
    placed: Callable[[np.ndarray[Any, Any]], Any] = np.asarray,
    sites: int = 1,
) -> None:
    """Apply a change to Wm `[S * D, d]`, in place: the one way in which Wm ever moves.

    Args:
        Wm: A NumPy array or a tensor, float32; where there are more tiles, those of the edit.
        primary: The edit's mask `[ceil(D/8)]`.
        change: What training did.
        placed: Brings a NumPy array to where Wm is.
        sites: S, a tile each.
    """
    if change.decay != 1:
        Wm *= float(np.float32(change.decay))
    mask = np.tile(unpack(primary, len(Wm) // sites), sites)
    Wm[placed(mask)] += placed(change.delta(sites))
