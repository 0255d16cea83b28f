"""A memory that is not sound is refused, each case by its own error, on reading and on writing."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forge import (
    KEYED,
    MEMORY,
    SITED,
    TILED,
    D,
    P,
    d,
    document,
    forge,
    held,
    refused,
    refused_codes,
    tensors,
)
from memoir_edge import memory as module
from memoir_edge.errors import MemoryFormatError
from memoir_edge.memory import Base, Entry, Probe, from_bytes, to_bytes

# --- Tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns",
    [[0, 5, 12], [-1, 5, 11], [0, 5, 5], [5, 0, 11], [0, 11, 5], [2**31 - 1, -(2**31), 0]],
)
def test_columns(columns: list[int]) -> None:
    refused(module.ColumnsError, columns=np.array(columns, np.int32))


@pytest.mark.parametrize("row", range(4))
def test_mask_of_another_weight(row: int) -> None:
    for change in (0x00, 0xFF):
        bank = MEMORY.bank.copy()
        bank[row] = change
        refused(module.MaskError, f"row {row} has", bank=bank)


def test_mask_with_padding_bits() -> None:
    """The weight is right, but a bit stands beyond D; also in a guard's mask."""
    for row, byte in ((0, 0b1_0000), (3, 0b1000_0000)):
        bank = MEMORY.bank.copy()
        bank[row] = [0b11, byte]
        refused(module.MaskError, "beyond D = 12", bank=bank)


@pytest.mark.parametrize("change", [[1, 1], [-1, 0], [12, 0], [2**31 - 1, 0]])
def test_permutation(change: list[int]) -> None:
    permutation = MEMORY.permutation.copy()
    permutation[:2] = change
    refused(module.PermutationError, permutation=permutation)


@pytest.mark.parametrize(
    "owner",
    [[0, 3, 2, -1], [0, 1 + 3, 2, -1], [0, -2, 2, -1], [0, 0, 2, 1], [0, 2**31 - 1, 2, -1]],
)
def test_owner(owner: list[int]) -> None:
    refused(module.OwnerError, owner=np.array(owner, np.int32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["scales", "thresholds", "center", "scale"])
def test_not_finite(name: str, value: float) -> None:
    array = getattr(MEMORY, name).copy()
    array[-1] = value
    refused(module.NotFiniteError, **{name: array})


@pytest.mark.parametrize(
    "bad",
    [
        np.float32(np.nan),
        np.float16(np.inf),
        np.uint16(0x7F80),
        np.uint16(0xFFC0),
        np.uint16(0x7F81),
    ],
)
def test_values_not_finite(bad: np.generic) -> None:
    values = np.zeros((3, d), bad.dtype)
    values[1, 1] = bad
    with pytest.raises(module.NotFiniteError, match="values"):
        to_bytes(replace(MEMORY, values=values, scales=None))
    stored = tensors(scales=None)
    code = {"float32": "F32", "float16": "F16", "uint16": "BF16"}[bad.dtype.name]
    stored["values"] = (code, [3, d], values.tobytes())
    with pytest.raises(module.NotFiniteError, match="values"):
        from_bytes(forge(stored=stored))


def test_scales_that_carry_values_beyond_float32() -> None:
    refused(module.NotFiniteError, "values", scales=np.full(3, 3e38, np.float32))


# --- Codes and tiles -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [16, 25, 0, -20, 12, D])
def test_keys_of_another_width(bits: int) -> None:
    """The keys' bytes are those of P bits, neither more nor less."""
    refused_codes(module.DisagreementError, "3 bytes", bits=bits)


@pytest.mark.parametrize("width", [0, 2, 4])
def test_keys_with_bytes_that_P_does_not_have(width: int) -> None:
    keys = np.resize(held(KEYED, "keys"), (4, width))
    refused(module.DisagreementError, f"{width} bytes, P is 20", KEYED, keys=keys)


@pytest.mark.parametrize("weight", [0, -1, P + 1])
def test_a_weight_that_no_code_has(weight: int) -> None:
    refused_codes(module.DisagreementError, f"weight is {weight}, expected from 1", weight=weight)


def test_a_key_of_another_weight() -> None:
    refused_codes(module.MaskError, "keys row 0 has 4 bits set, expected weight = 5", weight=5)
    for row in range(4):
        keys = held(KEYED, "keys").copy()
        keys[row] = 0
        refused(module.MaskError, f"keys row {row} has 0", KEYED, keys=keys)


def test_a_key_with_padding_bits() -> None:
    """The weight is right, but a bit stands beyond P; also in a guard's key."""
    for row, byte in ((0, 0b1_0000), (3, 0b1000_0000)):
        keys = held(KEYED, "keys").copy()
        keys[row] = [0b11, 0b1, byte]
        refused(module.MaskError, "beyond P = 20", KEYED, keys=keys)
    refused_codes(module.MaskError, "beyond P = 19", bits=19)


def test_masks_are_checked_as_a_bank_is() -> None:
    for change in ([0b11, 0], [0b11, 0b1_0000]):
        masks = np.array([KEYED.bank[0], change], np.uint8)
        refused(module.MaskError, "masks row 1 has", KEYED, masks=masks)


@pytest.mark.parametrize(
    ("owner", "match"),
    [
        ([0, 0, 2, -1], "key 2 has owner 2"),
        ([0, 1, -2, -1], "key 2 has owner -2"),
        ([2**31 - 1, 0, 1, -1], "key 0 has owner"),
        ([0, 0, 0, -1], "masks row 1 owns no key"),
        ([-1, -1, -1, -1], "masks row 0 owns no key"),
    ],
)
def test_owner_of_a_code(owner: list[int], match: str) -> None:
    refused(module.OwnerError, match, KEYED, owner=np.array(owner, np.int32))


def test_a_mask_of_no_tile() -> None:
    for tile in (-1, -(2**31)):
        found = np.array([0, tile], np.int32)
        refused(module.TileError, f"tile {tile}, expected 0 or more", TILED, tile=found)
    for tile in (2**10, 2**31 - 1):  # what it costs does not depend on the file's size
        refused(module.LimitError, "tiles", TILED, tile=np.array([0, tile], np.int32))


def test_a_mask_whose_tiles_begin_at_another_site() -> None:
    refused(module.TileError, "no multiple of the 2 sites", SITED, tile=np.array([0, 1], np.int32))


def test_a_column_of_no_tile() -> None:
    for memory, tiles in ((KEYED, 1), (TILED, 2), (SITED, 4)):
        columns = np.array([0, 5, tiles * D], np.int32)
        refused(module.ColumnsError, rf"within 0\.\.{tiles * D - 1}", memory, columns=columns)


def test_a_bank_of_another_form_beside_codes() -> None:
    """In hand: with codes the bank is one mask an edit, which nothing reaches by itself."""
    for changes in (
        {"owner": np.array([0, 0], np.int32)},
        {"owner": np.array([0, -1], np.int32)},
        {"owner": np.arange(3, dtype=np.int32)},
        {"owner": np.zeros(1, np.int32)},
        {"thresholds": np.array([2, 0.5], np.float32)},
        {"thresholds": np.full(1, 2, np.float32)},
    ):
        with pytest.raises(module.OwnerError, match="one edit's"):
            to_bytes(replace(KEYED, **changes))  # type: ignore[arg-type]


def test_an_unknown_router() -> None:
    for kind in ("activations", "Encoder", "x" * 999):
        refused_codes(module.RouterError, "known: encoder", kind=kind)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_texts_of_other_keys(count: int) -> None:
    refused_codes(module.DisagreementError, f"{count} texts of 4 keys", texts=["t"] * count)


@pytest.mark.parametrize("name", ["thresholds", "center"])
def test_numbers_beside_codes_are_finite(name: str) -> None:
    array = held(KEYED, name).copy()
    array[0] = np.nan
    refused(module.NotFiniteError, name, KEYED, **{name: array})


# --- The document --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"D": 13},
        {"d": 3},
        {"k": 0},
        {"k": -3},
        {"k": 13},
        {"k": 10**1000},
        {"edits": []},
        {"edits": [{"id": "a", "row": 0}]},
        {"edits": [{"id": "a", "row": 0}, {"id": "a", "row": 2}]},
        {"edits": [{"id": "a", "row": 0}, {"id": "b", "row": 0}]},
        {"edits": [{"id": "a", "row": 0}, {"id": "b", "row": 1}]},
        {"edits": [{"id": "a", "row": 0}, {"id": "b", "row": 3}]},
        {"edits": [{"id": "a", "row": 0}, {"id": "b", "row": 10**30}]},
        {"edits": [{"id": n, "row": row} for n, row in (("a", 0), ("b", 2), ("c", 2))]},
        {"probes": [{"prompt": "p", "text": "t", "edit": "none"}]},
    ],
)
def test_a_document_at_odds_with_the_tensors(changes: dict[str, Any]) -> None:
    with pytest.raises(module.DisagreementError):
        from_bytes(forge(json.dumps(document(**({"probes": []} | changes)))))


def test_an_unknown_feature() -> None:
    with pytest.raises(module.FeatureError, match="known: mean, last"):
        from_bytes(forge(json.dumps(document(feature="median"))))
    with pytest.raises(module.FeatureError):
        to_bytes(replace(MEMORY, feature=""))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"site": ""}, module.MetadataError),
        ({"site": None}, module.MetadataError),
        ({"k": np.int64(3)}, module.MetadataError),
        ({"base": Base("tiny", "short")}, module.MetadataError),
        ({"base": Base("tiny", None, ("short",))}, module.MetadataError),
        ({"base": Base("tiny", None, ("",))}, module.MetadataError),
        ({"evaluation": {"x": float("nan")}}, module.MetadataError),
        ({"evaluation": {"x": np.float32(1)}}, module.MetadataError),
        ({"evaluation": {"x": {1, 2}}}, module.MetadataError),
        ({"tool": "\udc80"}, module.MetadataError),
        ({"edits": (Entry("a", 0), Entry("a", 2))}, module.DisagreementError),
        ({"edits": ()}, module.DisagreementError),
        ({"probes": (Probe("p", "t", "none"),)}, module.DisagreementError),
        ({"k": 4}, module.MaskError),
        ({"k": 0}, module.DisagreementError),
    ],
)
def test_what_is_not_written(changes: dict[str, Any], error: type[MemoryFormatError]) -> None:
    with pytest.raises(error):
        to_bytes(replace(MEMORY, **({"probes": ()} | changes)))
