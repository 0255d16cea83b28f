"""Whether a memory is sound: what its tensors and its document say, and that they agree."""

import numpy as np

from memoir_edge.memory import limits, schema
from memoir_edge.memory.memory import Codes, Memory, by_codes
from memoir_edge.memory.refusals import (
    ColumnsError,
    DisagreementError,
    FeatureError,
    MaskError,
    NotFiniteError,
    OwnerError,
    PermutationError,
    RouterError,
    TileError,
)
from memoir_edge.tophash import FEATURES, Bytes

ROUTERS = ("encoder",)


def validate(memory: Memory) -> None:
    """Check a memory as a reader does.

    Raises:
        MemoryFormatError: The subclass says why.
    """
    coded = memory.codes is not None
    specs = {name: schema.spec_of(array) for name, array in schema.tensors_of(memory).items()}
    schema.check_specs(specs, schema.of_format(schema.format_of(memory), specs))
    document = schema.document_of(memory)
    schema.check_document(document, coded=coded, sited=bool(memory.later))
    schema.canonical(document)
    check_content(memory)


def check_content(memory: Memory) -> None:
    """What the tensors hold, once their types and shapes are right."""
    if memory.feature not in FEATURES:
        raise FeatureError(
            f"routing feature {memory.feature[:80]!r}, known: {', '.join(FEATURES)}",
            hint="update memoir-edge, or make the memory again with a known feature",
        )
    _check_finite(memory)
    _check_tiles(memory)
    _check_columns(memory)
    if memory.codes is None:
        _check_weights("bank", memory.bank, memory.D, memory.k)
        _check_owners(memory)
    else:
        _check_weights("masks", memory.bank, memory.D, memory.k)
        _check_codes(memory, memory.codes)
    _check_edits(memory)


def _check_finite(memory: Memory) -> None:
    with np.errstate(over="ignore"):
        for name, array in schema.tensors_of(memory).items():
            if name == "values":  # scales may carry int8 beyond float32
                array = memory.values_f32()
            if not np.isfinite(array).all():
                raise NotFiniteError(f"{name} holds NaN or infinity")


def _check_tiles(memory: Memory) -> None:
    tile = memory.tile
    if tile is not None and len(tile) and tile.min() < 0:
        raise TileError(f"a mask is of tile {tile.min()}, expected 0 or more")
    if tile is not None and (tile % len(memory.sites)).any():
        raise TileError(f"a mask's first tile is no multiple of the {len(memory.sites)} sites")
    limits.check("tiles:", memory.tiles, limits.MAX_TILES)


def _check_columns(memory: Memory) -> None:
    columns, D, end = memory.columns, memory.D, memory.tiles * memory.D
    steady = (columns[1:] > columns[:-1]).all()
    if len(columns) and (columns[0] < 0 or columns[-1] >= end or not steady):
        raise ColumnsError(f"columns must rise strictly within 0..{end - 1}")
    if (np.sort(memory.permutation) != np.arange(D)).any():
        raise PermutationError(f"the permutation does not hold each of 0..{D - 1} once")


def _check_weights(name: str, rows: Bytes, bits: int, weight: int) -> None:
    """Each row of a packed tensor has exactly so many ones, none of them beyond its bits."""
    k, D = ("weight", "P") if name == "keys" else ("k", "D")
    if not 1 <= weight <= bits:
        raise DisagreementError(f"{k} is {weight}, expected from 1 to {D} = {bits}")
    found = np.bitwise_count(rows).sum(axis=1, dtype=np.int64)
    for row in np.flatnonzero(found != weight)[:1]:
        raise MaskError(f"{name} row {row} has {found[row]} bits set, expected {k} = {weight}")
    padding = 0xFF << bits % 8 & 0xFF if bits % 8 else 0
    for row in np.flatnonzero(rows[:, -1] & padding)[:1]:
        raise MaskError(f"{name} row {row} has bits set beyond {D} = {bits}")


def _check_codes(memory: Memory, codes: Codes) -> None:
    """What the codes say, and that the bank is one mask an edit."""
    router, K = codes.router, len(codes.keys)
    if router.kind not in ROUTERS:
        raise RouterError(
            f"router {router.kind[:80]!r}, known: {', '.join(ROUTERS)}",
            hint="update memoir-edge, or make the memory again with a known router",
        )
    limits.check("P is", router.bits, limits.MAX_CODE_BITS)
    if codes.keys.shape[1] != -(-router.bits // 8):
        raise DisagreementError(f"keys have {codes.keys.shape[1]} bytes, P is {router.bits}")
    _check_weights("keys", codes.keys, router.bits, router.weight)
    E = len(memory.bank)
    expected = by_codes(memory.bank)
    if not all(np.array_equal(getattr(memory, n), expected[n]) for n in ("owner", "thresholds")):
        raise OwnerError("with codes, each mask of the bank is one edit's, and none is reached")
    for row in np.flatnonzero((codes.owner < -1) | (codes.owner >= E))[:1]:
        raise OwnerError(f"key {row} has owner {codes.owner[row]}, expected -1 or a row of masks")
    for row in np.setdiff1d(np.arange(E), codes.owner)[:1]:
        raise OwnerError(f"masks row {row} owns no key, expected at least one")
    if len(codes.texts) not in (0, K):
        raise DisagreementError(f"{len(codes.texts)} texts of {K} keys")


def _check_owners(memory: Memory) -> None:
    owner = memory.owner
    primary = owner == np.arange(len(owner))
    inside = (owner >= 0) & (owner < len(owner))
    good = (owner == -1) | (inside & primary[np.where(inside, owner, 0)])
    for row in np.flatnonzero(~good)[:1]:
        raise OwnerError(
            f"bank row {row} has owner {owner[row]}, expected -1 or the row of a primary key"
        )


def _check_edits(memory: Memory) -> None:
    primary = np.flatnonzero(memory.owner == np.arange(len(memory.owner))).tolist()
    if sorted(entry.row for entry in memory.edits) != primary:
        raise DisagreementError(
            f"{len(memory.edits)} edits and {len(primary)} "
            f"{'primary keys' if memory.codes is None else 'masks'}, not on the same rows"
        )
    ids = {entry.id for entry in memory.edits}
    if len(ids) < len(memory.edits):
        raise DisagreementError("two edits have the same id")
    for probe in memory.probes:
        if probe.edit is not None and probe.edit not in ids:
            raise DisagreementError(f"a probe names edit {probe.edit[:80]!r}, which is not there")
