"""What can be done to a memory: one class a kind of frame, each to a frame's content and back.

    begin       what the journal began from; the journal itself reads it
    made        Together     edits that were trained together
    again       Again        an edit trained once more
    audit       Audit        every edit asked for that may have changed
    thresholds  Calibrated   every key given a threshold
    keys        Tabled       keys and guards made anew, where a router's codes are the keys
    written     Written      a memory about to be written
    deleted     Deleted      edits taken out
    rollback    RolledBack   all as it was after an earlier step

Knows nothing of files: what an event amounts to is said by state.py.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from memoir_edge.errors import InputError
from memoir_edge.history.bank import Bank, Record
from memoir_edge.history.frames import Tensors
from memoir_edge.memory import Probe
from memoir_edge.tophash import Bytes, Floats

BEGIN = "begin"
RELATIVE_ERROR = 0.01  # of a stored change, in the Frobenius norm; applied as stored

Content = tuple[dict[str, Any], Tensors]  # of a frame


class Change(NamedTuple):
    """What training did to Wm for one edit: `Wm *= decay`, then `Wm[:, columns] += (V U)^T`.

    The columns are those of the edit's primary mask, in rising order. Of a memory with S sites, V
    and U hold such a product for each of them, one below the other.
    """

    V: Floats  # [S * k, r]
    U: Floats  # [S * r, d]
    decay: float = 1.0  # below 1 in parity runs only
    loss: float = 0.0  # nats a target token, after the last step
    steps: int = 0
    error: float = 0.0  # relative, of the truncation to rank r

    def delta(self, sites: int = 1) -> Floats:
        """`[S * k, d]`, the one way in which a change is ever formed.

        Raises:
            ValueError: It is of another number of sites.
        """
        V, U = (x.reshape(sites, -1, x.shape[1]) for x in (self.V, self.U))
        return (V @ U).reshape(len(self.V), -1).astype(np.float32, copy=False)

    def numbers(self) -> dict[str, Any]:
        """All but the tensors."""
        return {name: getattr(self, name) for name in ("decay", "loss", "steps", "error")}


def change_of(data: dict[str, Any], tensors: Tensors, place: int = 0) -> Change:
    """The change at a place of a frame, from its numbers and the frame's tensors."""
    numbers = {name: data[name] for name in ("decay", "loss", "steps", "error") if name in data}
    return Change(tensors[f"{place}.V"], tensors[f"{place}.U"], **numbers)


class Made(NamedTuple):
    """One edit as it was made."""

    id: str
    record: Record
    primary: Bytes  # [ceil(D/8)] the mask of its own prompt
    others: list[Bytes]  # its further keys
    guards: list[Bytes]
    threshold: float
    change: Change
    key: Bytes | None = None  # the code of its own prompt; None: the mask is the key
    tile: int = 0  # the first that the mask reads


@dataclass(frozen=True)
class Together:
    """Edits that were trained together: all of them are there, or none."""

    kind: ClassVar[str] = "made"
    edits: tuple[Made, ...]

    def check(self, bank: Bank) -> None:
        """Raise InputError unless each edit has an id, and the bank can take it.

        No memory could be compiled of a journal that holds another.
        """
        for made in self.edits:
            if not made.id:
                raise InputError(
                    f"the edit of {made.record.get('prompt')!r} has no id", hint="give it one"
                )
            try:
                bank.check(made.id, made.key, made.tile)
            except ValueError as error:
                raise InputError(f"the journal cannot take this in: {error}") from error

    def content(self) -> Content:
        """Of each edit its keys, the primary one first, and its change."""
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        items = []
        for i, made in enumerate(self.edits):
            own = made.primary if made.key is None else made.key
            tensors |= {
                f"{i}.keys": np.stack([own, *made.others, *made.guards]),
                f"{i}.V": made.change.V,
                f"{i}.U": made.change.U,
            }
            if made.key is not None:
                tensors[f"{i}.mask"] = made.primary
            items.append(
                {
                    "id": made.id,
                    "record": made.record,
                    "threshold": made.threshold,
                    "others": len(made.others),
                    **({"tile": made.tile} if made.tile else {}),
                    **made.change.numbers(),
                }
            )
        return {"edits": items}, tensors

    @classmethod
    def of(cls, data: dict[str, Any], tensors: Tensors) -> "Together":
        """From a frame's content."""
        return cls(tuple(_made(i, item, tensors) for i, item in enumerate(data["edits"])))


def _made(i: int, item: dict[str, Any], tensors: Tensors) -> Made:
    own, *rest = tensors[f"{i}.keys"]
    others, guards = rest[: item["others"]], rest[item["others"] :]
    change = change_of(item, tensors, i)
    mask = tensors.get(f"{i}.mask")
    primary, key = (own, None) if mask is None else (mask, own)
    return Made(
        item["id"], item["record"], primary, others, guards, item["threshold"], change, key,
        item.get("tile", 0),
    )  # fmt: skip


@dataclass(frozen=True)
class Again:
    """An edit was trained once more; the change is added to its former ones."""

    kind: ClassVar[str] = "again"
    edit: str
    change: Change

    def content(self) -> Content:
        """The change and whose it is."""
        tensors = {"0.V": self.change.V, "0.U": self.change.U}
        return {"edit": self.edit, **self.change.numbers()}, tensors

    @classmethod
    def of(cls, data: dict[str, Any], tensors: Tensors) -> "Again":
        """From a frame's content."""
        return cls(data["edit"], change_of(data, tensors))


# What is asked of an edit: its prompt, forms of it, its further keys, and its near misses.
PROMPT, FORM, KEY, MISS = SORTS = ("prompt", "form", "key", "miss")

Tally = dict[str, tuple[int, int]]  # by sort: texts asked, and how many of them held


class Wrong(NamedTuple):
    """A text that did not hold."""

    edit: str  # whose text it is
    sort: str
    text: str
    answer: str  # nothing for a near miss: it must reach no edit
    fired: str | None  # id of the edit that it reached


@dataclass(frozen=True)
class Audit:
    """What is known of every edit in the memory, from asking the edited model."""

    kind: ClassVar[str] = "audit"
    checked: int
    failed: list[str]  # ids of edits that do not hold
    probes: list[Probe]
    tally: dict[str, Tally] = field(default_factory=dict)  # by id; {}: its own prompt alone
    wrong: list[Wrong] = field(default_factory=list)

    @property
    def worn(self) -> list[str]:
        """Ids of edits that do not hold and may if trained again: they are reached and answer."""
        told = {one.edit for one in self.wrong}
        reached = {one.edit for one in self.wrong if one.sort != MISS and one.fired == one.edit}
        return [edit for edit in self.failed if edit in reached or edit not in told]

    @property
    def evaluation(self) -> dict[str, Any]:
        """What a memory's metadata says of it."""
        return {"checked": self.checked, "took": self.checked - len(self.failed)}

    def content(self) -> Content:
        """All of it; no tensors."""
        probes, wrong = ([one._asdict() for one in rows] for rows in (self.probes, self.wrong))
        return {**asdict(self), "probes": probes, "wrong": wrong}, {}

    @classmethod
    def of(cls, data: dict[str, Any], _tensors: Tensors) -> "Audit":
        """From a frame's content; earlier versions asked each edit its own prompt alone."""
        probes = [Probe(**probe) for probe in data["probes"]]
        wrong = [Wrong(**one) for one in data.get("wrong", [])]
        tally = {
            str(edit): {str(sort): (int(asked), int(held)) for sort, (asked, held) in sorts.items()}
            for edit, sorts in data.get("tally", {}).items()
        }
        return cls(data["checked"], list(data["failed"]), probes, tally, wrong)


@dataclass(frozen=True)
class Calibrated:
    """Every key was given a threshold."""

    kind: ClassVar[str] = "thresholds"
    thresholds: Floats  # [R], in the order of the bank

    def content(self) -> Content:
        """One tensor."""
        return {}, {"thresholds": self.thresholds}

    @classmethod
    def of(cls, _data: dict[str, Any], tensors: Tensors) -> "Calibrated":
        """From a frame's content."""
        return cls(tensors["thresholds"])


class Measured(NamedTuple):
    """By what thresholds were measured, over all edits that there were."""

    edits: int
    above: float  # the overlap from which a key answers whose guards and name are as near as these
    near: float
    rules: str  # digest of what else they follow from
    near_name: float = 0.0  # a journal that does not say it has other rules


@dataclass(frozen=True)
class Tabled:
    """The keys and guards of edits were made anew, with their thresholds."""

    kind: ClassVar[str] = "keys"
    edits: list[str]  # ids
    texts: list[str]  # [R] what each key is the code of
    codes: Bytes  # [R, ceil(P/8)]; of each edit its own prompt's first
    edit: npt.NDArray[np.int32]  # [R] place of the edit that the key came with
    guard: npt.NDArray[np.uint8]  # [R] 1 for a guard
    thresholds: Floats  # [R]
    measured: Measured | None = None  # anew; None: by what was measured before

    def content(self) -> Content:
        """Ids and texts; a tensor each for the rest."""
        arrays = {name: getattr(self, name) for name in ("codes", "edit", "guard", "thresholds")}
        told = {"measured": self.measured._asdict()} if self.measured else {}
        return {"edits": self.edits, "texts": self.texts, **told}, arrays

    @classmethod
    def of(cls, data: dict[str, Any], tensors: Tensors) -> "Tabled":
        """From a frame's content."""
        arrays = {name: tensors[name] for name in ("codes", "edit", "guard", "thresholds")}
        measured = Measured(**data["measured"]) if "measured" in data else None
        return cls(list(data["edits"]), list(data["texts"]), **arrays, measured=measured)


@dataclass(frozen=True)
class Written:
    """A memory is about to be written."""

    kind: ClassVar[str] = "written"
    digest: str  # SHA-256 of the file
    finished: bool  # False where a run was interrupted and will be gone on with

    def content(self) -> Content:
        """All of it; no tensors."""
        return asdict(self), {}

    @classmethod
    def of(cls, data: dict[str, Any], _tensors: Tensors) -> "Written":
        """From a frame's content."""
        return cls(data["digest"], data["finished"])


@dataclass(frozen=True)
class Deleted:
    """Edits are gone, with their keys and their changes."""

    kind: ClassVar[str] = "deleted"
    edits: list[str]

    def check(self, held: Collection[str], fixed: Collection[str]) -> None:
        """Raise InputError unless all these edits are held, and none of their changes is fixed.

        Args:
            held: Ids of the edits in the memory.
            fixed: Ids of those whose changes cannot be told apart.
        """
        for edit in self.edits:
            if edit not in held:
                raise InputError(
                    f"there is no edit {edit!r}",
                    hint="memoir-edge inspect FILE lists the edits",
                )
            if edit in fixed:
                raise InputError(
                    f"edit {edit!r} was in the memory that the journal began from: "
                    "its change cannot be told from that of the others",
                    hint="delete it where that memory's own journal lies",
                )

    def content(self) -> Content:
        """Each id once; no tensors."""
        return {"edits": list(dict.fromkeys(self.edits))}, {}

    @classmethod
    def of(cls, data: dict[str, Any], _tensors: Tensors) -> "Deleted":
        """From a frame's content."""
        return cls(list(data["edits"]))


@dataclass(frozen=True)
class RolledBack:
    """All is as it was after an earlier step."""

    kind: ClassVar[str] = "rollback"
    to: int  # number of that step's frame

    def check(self, steps: int) -> None:
        """Raise InputError unless there are more steps than its aim."""
        if not 0 <= self.to < steps:
            raise InputError(f"there is no step {self.to}; the last is {steps - 1}")

    def content(self) -> Content:
        """One number; no tensors."""
        return asdict(self), {}

    @classmethod
    def of(cls, data: dict[str, Any], _tensors: Tensors) -> "RolledBack":
        """From a frame's content."""
        return cls(data["to"])


Event = Together | Again | Audit | Calibrated | Tabled | Written | Deleted | RolledBack

KINDS: dict[str, type[Event]] = {
    event.kind: event
    for event in (Together, Again, Audit, Calibrated, Tabled, Written, Deleted, RolledBack)
}
