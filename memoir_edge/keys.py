"""Keys and thresholds of a bank from the masks that a model makes of prompts.

Knows nothing of models: whoever asks brings the masks. A model's graph in few bits makes other
masks than the model in PyTorch, so a memory made there is given keys anew for the graph that is
deployed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from memoir_edge import __version__
from memoir_edge.calibrate import UNKNOWN, Keys, Misses, thresholds
from memoir_edge.edits import Edit, stored
from memoir_edge.errors import InputError
from memoir_edge.history import Bank
from memoir_edge.history.bank import bank_of
from memoir_edge.memory import Memory
from memoir_edge.nearmiss import misses as near_misses
from memoir_edge.nearmiss import subjects, unrelated_prompts
from memoir_edge.tophash import GUARD, Bytes, Floats

Hashed = Callable[[Sequence[str]], Bytes]  # packed masks [n, ceil(D/8)] of n texts


def calibrated(bank: Bank, edits: Sequence[Edit], hashed: Hashed, bound: float) -> Floats | None:
    """The threshold that its near misses ask for, of each key (memoir_edge.calibrate).

    Args:
        bank: The keys.
        edits: Those that the bank holds; one that brought its own threshold keeps it.
        hashed: Gives the masks of texts.
        bound: Share of near misses that may reach an edit.

    Returns:
        `[R]`; None where too few records name their subject to make near misses from.
    """
    near = near_misses(edits)
    met = Misses(
        hashed([miss.text for miss in near]),
        np.array([miss.edit for miss in near]),
        np.array([miss.subject for miss in near]),
    )
    found = thresholds(_keys(bank, edits), bank.k, met, hashed(unrelated_prompts()), bound)
    if found is None:
        return None
    own = {edit.id: edit.threshold for edit in edits if edit.threshold is not None}
    for row, key in enumerate(bank.keys):
        if key.edit in own:
            found[row] = own[key.edit]
    return found


def _keys(bank: Bank, edits: Sequence[Edit]) -> Keys:
    place = {edit.id: i for i, edit in enumerate(edits)}
    owner = [GUARD if k.edit is None else place.get(k.edit, UNKNOWN) for k in bank.keys]
    of = subjects(edits)
    about = [of[i] if i >= 0 else UNKNOWN for i in owner]
    return Keys(bank.packed(), np.array(owner), np.array(about))


# --- Keys for another graph of the same model ----------------------------------------------------


class Moved(NamedTuple):
    """What an edit's own prompt meets, before and after."""

    edit: str
    prompt: str
    overlap: float  # with the nearest of the keys that there were
    fired: bool  # and whether that reached the edit
    overlap_now: float
    fires: bool


class Rekeyed(NamedTuple):
    """A memory with other keys."""

    memory: Memory
    moved: tuple[Moved, ...]
    withheld: tuple[str, ...]  # edits without a record: their keys are as they were
    calibrated: bool  # False: too few near misses, each edit kept its threshold


def known(memory: Memory) -> list[Edit]:
    """The edits of a memory whose records say what they are asked by."""
    return stored({entry.id: entry.record for entry in memory.edits})


def texts(edits: Sequence[Edit]) -> list[str]:
    """Everything whose mask `rekeyed` needs, each text once."""
    asked = [text for edit in edits for text in (edit.prompt, *edit.keys, *edit.guards)]
    asked += [miss.text for miss in near_misses(edits)]
    return list(dict.fromkeys(asked + unrelated_prompts()))


def rekeyed(memory: Memory, masks: Mapping[str, Bytes], bound: float) -> Rekeyed:
    """Take a memory's keys, guards and thresholds from the masks of another graph.

    An edit is still recalled with the mask that it was trained with: that stays its first key. The
    mask that the graph makes of its prompt becomes another.

    Args:
        memory: One whose keys are masks.
        masks: By text `[ceil(D/8)]`; all of `texts(known(memory))`.
        bound: Share of near misses that may reach an edit.

    Raises:
        InputError: No edit has a record.
    """
    edits = {edit.id: edit for edit in known(memory)}
    if not edits:
        raise InputError("no edit of this memory has a record, so nothing is known to ask it by")

    def hashed(asked: Sequence[str]) -> Bytes:
        return np.stack([masks[text] for text in asked])

    old = bank_of(memory)
    new = _taken(memory, old, edits, masks)
    found = calibrated(new, list(edits.values()), hashed, bound)
    if found is not None:
        new.calibrate(found)
    arrays = new.arrays()
    made = replace(
        memory, **arrays._asdict(), parent=memory.digest, created="", digest=None,
        tool=f"memoir-edge {__version__}", evaluation={},
    )  # fmt: skip
    withheld = tuple(entry.id for entry in memory.edits if entry.id not in edits)
    return Rekeyed(made, _moved(old, new, edits.values(), hashed), withheld, found is not None)


def _taken(
    memory: Memory, old: Bank, edits: Mapping[str, Edit], masks: Mapping[str, Bytes]
) -> Bank:
    """The bank with keys of masks; those of edits that nothing is known of stay."""
    new, rows = Bank(memory.D, memory.k), old.rows_of()
    for entry in memory.edits:
        first, *rest = (old.keys[row] for row in rows[entry.id])
        others, guards = [key.mask for key in rest], list[Bytes]()
        if edit := edits.get(entry.id):
            others = [masks[text] for text in (edit.prompt, *edit.keys)]
            guards = [masks[text] for text in edit.guards]
        new.add(entry.id, entry.record, first.mask, others, guards, first.threshold)
    if len(edits) < len(memory.edits):  # whose the guards are is not told
        new.keys += [key for key in old.keys if key.edit is None]
    return new


def _moved(old: Bank, new: Bank, edits: Iterable[Edit], hashed: Hashed) -> tuple[Moved, ...]:
    asked = list(edits)
    own = hashed([edit.prompt for edit in asked])
    found = []
    for bank in (old, new):
        rows, routes = bank.rows(), bank.route(own)
        reached = [routes.route[i] == rows[edit.id] + 1 for i, edit in enumerate(asked)]
        found.append(list(zip(routes.overlap.tolist(), map(bool, reached), strict=True)))
    return tuple(
        Moved(edit.id, edit.prompt, *before, *after)
        for edit, before, after in zip(asked, *found, strict=True)
    )
