"""The keys of a memory while it grows or shrinks: who answers for which prompt.

A key is a mask of the site's activations, the mask that its edit is recalled with included; or,
where a router stands beside the graph, the code that the router makes of a prompt. Knows nothing of
models, prompts or files. `memoir_edge.memory` is what it is written as.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memoir_edge import tophash
from memoir_edge.errors import InputError
from memoir_edge.memory import Codes, Entry, Memory, Router, by_codes
from memoir_edge.memory.limits import MAX_TILES
from memoir_edge.tophash import GUARD, Bytes, Floats

Record = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """One row of the bank."""

    mask: Bytes  # packed: a mask [ceil(D/8)], or a code [ceil(P/8)]
    edit: str | None  # who answers; None is a guard: the base model does
    threshold: float  # overlap from which it answers
    source: str | None  # the edit it came with; None is a guard of a memory that did not say
    text: str | None = None  # what it was made of, where that is kept


class Arrays(NamedTuple):
    """The bank as a memory holds it."""

    bank: Bytes  # [R, ceil(D/8)]
    owner: npt.NDArray[np.int32]  # [R]
    thresholds: Floats  # [R]
    edits: tuple[Entry, ...]
    codes: Codes | None = None
    tile: npt.NDArray[np.int32] | None = None  # [R]; None: all are 0


@dataclass
class Bank:
    """Keys in the order in which they came; the first key of an edit is its primary one."""

    D: int  # bits of a mask
    k: int  # ones of a mask
    keys: list[Key] = field(default_factory=list)
    records: dict[str, Record | None] = field(default_factory=dict)  # by id
    router: Router | None = None  # whose codes the keys are; None: the keys are masks
    masks: dict[str, Bytes] = field(default_factory=dict)  # of each edit, where the keys are codes
    tile: dict[str, int] = field(default_factory=dict)  # the first that each of those masks reads
    sites: int = 1  # each of which has a tile of its own for a mask
    _asked: dict[bytes, str] = field(init=False, repr=False)  # edit by the mask of its prompt

    def __post_init__(self) -> None:
        """Index the edits by what their own prompts are hashed to."""
        self._asked = {mask.tobytes(): edit for edit, mask in self.recalled().items()}

    @property
    def bits(self) -> int:
        """Bits of a key."""
        return self.router.bits if self.router else self.D

    @property
    def weight(self) -> int:
        """Ones of a key."""
        return self.router.weight if self.router else self.k

    def recalled(self) -> Mapping[str, Bytes]:
        """The mask `[ceil(D/8)]` that each edit is recalled with."""
        if self.router:
            return self.masks
        return {edit: self.keys[row].mask for edit, row in self.rows().items()}

    def tiles_for(self, masks: Sequence[Bytes], room: float) -> list[int]:
        """The first tile of Wm for each new edit's mask, in their order.

        That of the edit whose prompt it asks, else the first with room, else a new one.

        Args:
            masks: Of the edits' own prompts, drawn by lot.
            room: Edits that a tile, with those of the other sites, has room for.

        Raises:
            InputError: Wm has no tile left.
        """
        held = Counter(self.tile.values())
        chosen: dict[bytes, int] = {}
        for mask in masks:
            former = self.asked_by(mask)
            if former is not None:
                chosen[mask.tobytes()] = self.tile[former]
            elif mask.tobytes() not in chosen:
                every = range(0, (len(held) + 1) * self.sites, self.sites)
                tile = next(t for t in every if held[t] < room)
                if tile > MAX_TILES - self.sites:
                    raise InputError(
                        f"the memory is full: of its {MAX_TILES // self.sites} groups of columns "
                        f"each holds {room:g} edits",
                        hint="give a smaller --columns-per-edit, or begin another memory",
                    )
                held[tile] += 1
                chosen[mask.tobytes()] = tile
        return [chosen[mask.tobytes()] for mask in masks]

    def check(self, edit: str, key: Bytes | None, tile: int) -> None:
        """Raise ValueError unless `add` takes an edit with such a key, in such a tile."""
        if not 0 <= tile <= MAX_TILES - self.sites or tile % self.sites:
            raise ValueError(f"edit {edit!r} is in tile {tile}")
        if (key is None) != (self.router is None):
            raise ValueError(f"edit {edit!r} has {'no' if key is None else 'a'} code")

    def add(
        self,
        edit: str,
        record: Record | None,
        primary: Bytes,
        others: Sequence[Bytes],
        guards: Sequence[Bytes],
        threshold: float,
        key: Bytes | None = None,
        tile: int = 0,
    ) -> str | None:
        """Take an edit's keys in; `key` is that of its own prompt, where it is not the mask.

        A primary mask that is there already (the same prompt) is not stored twice: the later edit
        takes over all that belongs to the former (MEMOIR section 3.2), and no key twice.

        Returns:
            The id of the edit that was taken over.

        Raises:
            ValueError: There is no code and the bank has a router, or the other way round; or Wm
                has no such tile.
        """
        self.check(edit, key, tile)
        own = primary if key is None else key
        former = self.asked_by(primary)
        held = {own.tobytes()}
        if former is None:
            self.keys.append(Key(own, edit, threshold, edit))
        else:
            self._hand_over(former, edit, threshold)
        if former is not None or edit in self.records:
            held = {key.mask.tobytes() for key in self.keys if key.edit == edit}
        if self.router:
            self.masks[edit], self.tile[edit] = primary, tile
        self.records[edit] = record
        self._asked[primary.tobytes()] = edit
        fresh = (mask for mask in (own, *others) if mask.tobytes() not in held)
        self.keys += [Key(mask, edit, threshold, edit) for mask in fresh]
        self.keys += [Key(mask, None, threshold, edit) for mask in guards]
        return former

    def asked_by(self, primary: Bytes) -> str | None:
        """The edit whose primary mask this is."""
        return self._asked.get(primary.tobytes())

    def _hand_over(self, former: str, edit: str, threshold: float) -> None:
        del self.records[former]
        self.masks.pop(former, None)
        self.tile.pop(former, None)
        first = next(i for i, key in enumerate(self.keys) if key.edit == former)
        for i, key in enumerate(self.keys):
            if key.source == former:
                mine = key.edit and edit
                self.keys[i] = replace(key, edit=mine, source=edit)
        self.keys[first] = replace(self.keys[first], threshold=threshold)

    def drop(self, edits: Collection[str]) -> None:
        """Forget edits, with all keys and guards that came with them."""
        self.keys = [key for key in self.keys if key.source is None or key.source not in edits]
        self.records = {edit: r for edit, r in self.records.items() if edit not in edits}
        self.masks = {edit: mask for edit, mask in self.masks.items() if edit not in edits}
        self.tile = {edit: tile for edit, tile in self.tile.items() if edit not in edits}
        self._asked = {mask: edit for mask, edit in self._asked.items() if edit not in edits}

    def rows(self) -> dict[str, int]:
        """The row of each edit's primary key."""
        return {edit: rows[0] for edit, rows in self.rows_of().items()}

    def rows_of(self) -> dict[str, list[int]]:
        """The rows of each edit's keys, the primary one first; guards are nobody's."""
        found: dict[str, list[int]] = {}
        for row, key in enumerate(self.keys):
            if key.edit is not None:
                found.setdefault(key.edit, []).append(row)
        return found

    def calibrate(self, thresholds: Floats) -> None:
        """Give each key a threshold of its own: `[R]`.

        Raises:
            ValueError: There are not as many as keys.
        """
        pairs = zip(self.keys, thresholds.tolist(), strict=True)
        self.keys = [replace(key, threshold=threshold) for key, threshold in pairs]

    def tabulate(self, keys: Sequence[Key]) -> None:
        """Put keys in the place of all that came with the same edits, or with none that is known.

        Raises:
            ValueError: One is of an edit that is not held, or an edit is left without a key.
        """
        came = {str(key.source) for key in keys}
        if not came <= self.records.keys() or came - {key.edit for key in keys}:
            raise ValueError("keys of edits that are not held, or edits without a key")
        kept = [key for key in self.keys if key.source is not None and key.source not in came]
        self.keys = kept + list(keys)

    def packed(self) -> Bytes:
        """All keys `[R, ceil(bits/8)]`."""
        if not self.keys:
            return np.zeros((0, -(-self.bits // 8)), np.uint8)
        return np.stack([key.mask for key in self.keys])

    def arrays(self) -> Arrays:
        """The bank as a memory holds it."""
        return self._coded(self.router) if self.router else self._plain()

    def _coded(self, router: Router) -> Arrays:
        row = {edit: i for i, edit in enumerate(self.rows())}
        none = np.zeros((0, -(-self.D // 8)), np.uint8)
        masks = np.stack([self.masks[edit] for edit in row]) if row else none
        codes = Codes(
            router=router,
            keys=self.packed(),
            owner=self._owners(row),
            thresholds=self._thresholds(),
            texts=self._texts(),
        )
        entries = tuple(Entry(edit, i, self.records[edit]) for edit, i in row.items())
        tile = np.array([self.tile[edit] for edit in row], np.int32)
        return Arrays(
            **by_codes(masks), edits=entries, codes=codes, tile=tile if tile.any() else None
        )

    def _texts(self) -> tuple[str, ...]:
        """What the keys were made of; nothing where that is not known of all."""
        known = [key.text for key in self.keys if key.text is not None]
        return tuple(known) if len(known) == len(self.keys) else ()

    def _plain(self) -> Arrays:
        row = self.rows()
        entries = (Entry(edit, row[edit], record) for edit, record in self.records.items())
        return Arrays(
            self.packed(),
            self._owners(row),
            self._thresholds(),
            tuple(sorted(entries, key=lambda entry: entry.row)),
        )

    def route(self, masks: Bytes) -> tophash.Routes:
        """Route packed queries `[B, ceil(bits/8)]`; all base model while no key is held.

        A route is the row of the edit's primary key, plus one.
        """
        if not self.keys:
            B = len(masks)
            return tophash.Routes(
                np.full(B, tophash.BASE), np.zeros(B, np.float32), np.full(B, -1, np.int64)
            )
        return tophash.route(
            masks,
            np.zeros(1, np.int64),
            self.packed(),
            self._owners(self.rows()),
            self._thresholds(),
            self.weight,
        )

    def _owners(self, row: Mapping[str, int]) -> npt.NDArray[np.int32]:
        """The row of each key's edit `[R]`."""
        owner = [GUARD if key.edit is None else row[key.edit] for key in self.keys]
        return np.array(owner, np.int32)

    def _thresholds(self) -> Floats:
        return np.array([key.threshold for key in self.keys], np.float32)


def bank_of(memory: Memory) -> Bank:
    """The keys of a memory file. Which edit brought a guard it does not say."""
    codes, held = memory.codes, memory.rows
    edit = {entry.row: entry.id for entry in memory.edits}
    texts = codes.texts if codes and codes.texts else [None] * len(held.packed)
    keys = [
        Key(mask, edit.get(int(owner)), float(limit), edit.get(int(owner)), text)
        for mask, owner, limit, text in zip(
            held.packed, held.owner, held.thresholds, texts, strict=True
        )
    ]
    return Bank(
        memory.D,
        memory.k,
        keys,
        {entry.id: entry.record for entry in memory.edits},
        router=codes.router if codes else None,
        masks={entry.id: memory.bank[entry.row] for entry in memory.edits} if codes else {},
        tile={e.id: 0 if memory.tile is None else int(memory.tile[e.row]) for e in memory.edits}
        if codes
        else {},
        sites=len(memory.sites),
    )
