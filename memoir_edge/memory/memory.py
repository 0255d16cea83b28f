"""What a memory is: the change of a site's weight, and which prompts reach it.

Knows nothing of files, models, devices or text.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memoir_edge.notebook import table
from memoir_edge.tophash import Bytes, Floats, unpack

UNREACHABLE = 2.0  # no overlap reaches it: the threshold of a mask that codes route to


class Base(NamedTuple):
    """The model that the memory belongs to; digest as `memoir_edge.identity` makes it."""

    model_id: str
    digest: str | None = None
    former: tuple[str, ...] = ()  # what earlier versions call that digest

    def is_of(self, digest: str | None, former: Sequence[str] = ()) -> bool:
        """Whether this is the model of a digest, by today's or by an earlier one, or may be."""
        return (
            None in (self.digest, digest)
            or self.digest in (digest, *former)
            or digest in self.former
        )


class Entry(NamedTuple):
    """An edit: its id, the bank row of its primary key, its record unless that is withheld."""

    id: str
    row: int
    record: dict[str, Any] | None = None


class Probe(NamedTuple):
    """A prompt, the answer it must get, and the edit that must fire (None: the base model)."""

    prompt: str
    text: str
    edit: str | None = None


class Router(NamedTuple):
    """What makes codes of prompts, beside the graph; one of another digest makes other codes."""

    kind: str  # "encoder"
    digest: str  # SHA-256 of what it computes with, whatever its precision
    bits: int  # P
    weight: int  # ones of a code


@dataclass(frozen=True, eq=False, kw_only=True)
class Codes:
    """The keys of a memory that is routed by a router instead of the site's activations."""

    router: Router
    keys: Bytes  # [K, ceil(P/8)]
    owner: npt.NDArray[np.int32]  # [K] row of the edit's mask in the bank, -1 for a guard
    thresholds: Floats  # [K]
    texts: tuple[str, ...] = ()  # [K] what each key is the code of; empty: withheld


def no_codes(router: Router) -> Codes:
    """Of a memory without edits."""
    return Codes(
        router=router,
        keys=np.zeros((0, -(-router.bits // 8)), np.uint8),
        owner=np.zeros(0, np.int32),
        thresholds=np.zeros(0, np.float32),
    )


def by_codes(masks: Bytes) -> dict[str, Any]:
    """`bank`, `owner` and `thresholds` of a memory whose masks `[E, ceil(D/8)]` codes route to."""
    E = len(masks)
    return {
        "bank": masks,
        "owner": np.arange(E, dtype=np.int32),
        "thresholds": np.full(E, UNREACHABLE, np.float32),
    }


@dataclass(frozen=True, eq=False)
class Rows:
    """What prompts are compared with, whether masks or codes."""

    packed: Bytes  # [R, ceil(bits/8)]
    owner: npt.NDArray[np.int32]  # [R] row of the edit (`Entry.row`), -1 for a guard
    thresholds: Floats  # [R]
    bits: int
    weight: int

    def of(self, entry: Entry) -> npt.NDArray[np.intp]:
        """The rows of an edit's keys, that of its own prompt first."""
        ends = np.array([entry.row, entry.row + 1], np.int32)  # of another type it would be a copy
        begin, end = np.searchsorted(self.owner, ends, sorter=self._grouped)
        return self._grouped[begin:end]

    @functools.cached_property
    def _grouped(self) -> npt.NDArray[np.intp]:
        """All rows, those of one edit together."""
        return np.argsort(self.owner, kind="stable")


@dataclass(frozen=True, eq=False, kw_only=True)
class Memory:
    """One memory. C columns, R keys; D and d are the site's input and output width.

    With `codes`, the bank holds one mask for each edit and no guards, and a router's codes say
    which of them a prompt asks for. Wm may then have several tiles of D columns, so that it has
    room for more edits than the site is wide: column c reads feature c mod D, for the masks of tile
    c // D alone.

    With S sites, tile t is of site t mod S: a mask reads the same features at each of them, in the
    S tiles from its own on.
    """

    site: str  # where prompts are routed; the first of its sites
    feature: str
    k: int
    base: Base
    columns: npt.NDArray[np.int32]  # [C], strictly increasing
    values: npt.NDArray[Any]  # [C, d] float32, float16, int8, or uint16: the bits of bfloat16
    bank: Bytes  # [R, ceil(D/8)]
    owner: npt.NDArray[np.int32]  # [R] row of the edit's primary key, -1 for a guard
    thresholds: Floats  # [R] or [1]
    center: Floats  # [D]
    scale: Floats  # [D]
    permutation: npt.NDArray[np.int32]  # [D]
    edits: tuple[Entry, ...]
    codes: Codes | None = None
    later: tuple[str, ...] = ()  # the other sites, in the model's order
    tile: npt.NDArray[np.int32] | None = None  # [R] each mask's first; None: that is 0 for all
    scales: Floats | None = None  # [C], with int8 values only
    parent: str | None = None  # SHA-256 of the file that this one was made from
    probes: tuple[Probe, ...] = ()
    created: str = ""
    tool: str = ""
    evaluation: dict[str, Any] = field(default_factory=dict)
    digest: str | None = None  # SHA-256 of the file it was read from or written to

    @property
    def D(self) -> int:
        """Input width of the site."""
        return int(self.permutation.shape[0])

    @property
    def d(self) -> int:
        """Output width of the site."""
        return int(self.values.shape[1])

    @property
    def sites(self) -> tuple[str, ...]:
        """All S of them, in the model's order."""
        return (self.site, *self.later)

    @property
    def tiles(self) -> int:
        """Tiles of D columns that Wm has."""
        first = 0 if self.tile is None else int(self.tile.max(initial=0))
        return first + len(self.sites)

    @functools.cached_property
    def rows(self) -> Rows:
        """The keys, of whichever kind."""
        if (codes := self.codes) is not None:
            router = codes.router
            return Rows(codes.keys, codes.owner, codes.thresholds, router.bits, router.weight)
        thresholds = np.broadcast_to(self.thresholds, self.owner.shape)
        return Rows(self.bank, self.owner, thresholds, self.D, self.k)

    def reads(self, row: int) -> npt.NDArray[np.intp]:
        """The columns of Wm `[S * k]` that the mask in a bank row reads, rising."""
        first = 0 if self.tile is None else int(self.tile[row]) * self.D
        mask = unpack(self.bank[row], self.D)
        return first + np.flatnonzero(np.tile(mask, len(self.sites)))

    def values_f32(self) -> Floats:
        """The columns as float32 `[C, d]`, scales applied; a copy only where that is needed."""
        if self.values.dtype == np.uint16:
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        values = self.values.astype(np.float32, copy=False)
        return values if self.scales is None else values * self.scales[:, None]

    def entry(self, row: int) -> Entry | None:
        """The edit that owns a bank row; None for a guard's row and for one that is not there."""
        return self._owners.get(int(self.owner[row])) if 0 <= row < len(self.owner) else None

    def _repr_html_(self) -> str:
        """The edits, as a notebook shows them."""
        held = self.rows
        records = [entry.record or {} for entry in self.edits]
        shown = [
            (e.id, r.get("prompt"), r.get("target"), float(held.thresholds[held.of(e)[0]]))
            for e, r in zip(self.edits, records, strict=True)
        ]
        caption = f"{len(self.edits)} edits of {self.base.model_id}, digest {self.digest}"
        return table(caption, ["id", "prompt", "target", "threshold"], shown)

    @functools.cached_property
    def _owners(self) -> dict[int, Entry]:
        return {entry.row: entry for entry in self.edits}


def sparse(
    Wm: Floats, bank: Bytes, D: int, tile: npt.NDArray[np.int32] | None = None, sites: int = 1
) -> tuple[npt.NDArray[np.int32], Floats]:
    """The columns of `Wm` that some mask touches and that are not all zero.

    Args:
        Wm: `[d, tiles * D]` float32, the change of the site's weight.
        bank: `[R, ceil(D/8)]` packed masks.
        D: Columns of a tile.
        tile: `[R]` each mask's first; None: that is 0 for all.
        sites: S, so many tiles does each mask read.

    Returns:
        `Memory.columns` `[C]` and `Memory.values` `[C, d]`.
    """
    of = np.zeros(len(bank), np.int32) if tile is None else tile
    touched = [
        unpack(np.bitwise_or.reduce(bank[of == t - t % sites], axis=0, initial=0), D)
        for t in range(Wm.shape[1] // D)
    ]
    columns = np.flatnonzero(np.concatenate(touched) & Wm.any(axis=0)).astype(np.int32)
    return columns, np.ascontiguousarray(Wm[:, columns].T, dtype=np.float32)


def from_dense(Wm: Floats, *, bank: Bytes, **rest: Any) -> Memory:
    """A memory of a dense change `[d, tiles * D]`; `rest` are the other fields of `Memory`."""
    sites = 1 + len(rest.get("later", ()))
    columns, values = sparse(Wm, bank, len(rest["permutation"]), rest.get("tile"), sites)
    return Memory(columns=columns, values=values, bank=bank, **rest)


def to_dense(memory: Memory) -> Floats:
    """The change of the site's weight, float32 `[d, tiles * D]`; zero where nothing is stored."""
    Wm = np.zeros((memory.d, memory.tiles * memory.D), np.float32)
    Wm[:, memory.columns] = memory.values_f32().T
    return Wm
