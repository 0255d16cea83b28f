"""Tensors and documents that no format has: a name, type or shape, in a file and in hand."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forge import (
    EVERY_TENSOR,
    KEYED,
    MEMORY,
    SITED,
    WEIGHT,
    D,
    P,
    d,
    document,
    forge,
    held,
    refused,
    refused_codes,
    tensors,
    with_arrays,
)
from memoir_edge import memory as module
from memoir_edge.errors import MemoryFormatError
from memoir_edge.memory import Memory, Router, from_bytes, to_bytes

# --- Tensors -------------------------------------------------------------------------------------


@EVERY_TENSOR
def test_missing_tensor(memory: Memory, name: str) -> None:
    refused(module.MissingTensorError, f"no tensor {name}", memory, **{name: None})


def test_missing_scales_in_hand() -> None:
    with pytest.raises(module.MissingTensorError):
        to_bytes(replace(MEMORY, scales=None))


@pytest.mark.parametrize(
    ("memory", "other", "missing", "surplus"),
    [(MEMORY, KEYED, "bank", "keys, masks"), (KEYED, MEMORY, "keys, masks", "bank")],
    ids=["format 1", "format 2"],
)
def test_tensors_of_the_other_format(
    memory: Memory, other: Memory, missing: str, surplus: str
) -> None:
    """A file has the tensors of the format that it names, whatever its document says."""
    with pytest.raises(module.MissingTensorError, match=f"no tensor {missing}$"):
        from_bytes(forge(json.dumps(document(other)), tensors(other), memory=memory))
    both = tensors(other) | tensors(memory)
    with pytest.raises(module.UnexpectedTensorError, match=f"tensor {surplus} does"):
        from_bytes(forge(stored=both, memory=memory))


def test_unexpected_tensor() -> None:
    for memory in (MEMORY, KEYED):
        refused(module.UnexpectedTensorError, "extra", memory, extra=("U8", [0], b""))
    refused(module.UnexpectedTensorError, "scales", values=np.ones((3, d), np.float32))


def test_tiles_of_masks_that_are_keys() -> None:
    """In hand: where the graph routes by the masks, there is one tile."""
    with pytest.raises(module.UnexpectedTensorError, match="tile"):
        to_bytes(replace(MEMORY, tile=np.zeros(4, np.int32)))


@EVERY_TENSOR
@pytest.mark.parametrize("code", ["F64", "I64", "BOOL", "F8_E4M3"])
def test_wrong_dtype(memory: Memory, name: str, code: str) -> None:
    size = {"F64": 8, "I64": 8}.get(code, 1)
    shape = list(held(memory, name).shape)
    change = (code, shape, bytes(size * int(np.prod(shape))))
    stored = tensors(memory, **{name: change})
    if name == "values":  # or the scales would be the surplus
        del stored["scales"]
    with pytest.raises(module.DtypeError, match=f"{name} is {code}"):
        from_bytes(forge(stored=stored, memory=memory))


def test_wrong_dtype_in_hand() -> None:
    for array in (MEMORY.owner.astype(np.int64), MEMORY.owner.astype(">i4")):
        with pytest.raises(module.DtypeError, match="owner"):
            to_bytes(replace(MEMORY, owner=array))
    with pytest.raises(module.DtypeError, match="center is BF16"):
        to_bytes(replace(MEMORY, center=np.zeros(D, np.uint16)))
    with pytest.raises(module.DtypeError, match="keys is I32"):
        to_bytes(with_arrays(KEYED, keys=held(KEYED, "keys").astype(np.int32)))


@EVERY_TENSOR
@pytest.mark.parametrize("how", ["one more", "one less", "one dimension more", "flat", "none"])
def test_wrong_shape(memory: Memory, name: str, how: str) -> None:
    array = held(memory, name)
    changed = {
        "one more": lambda: np.concatenate([array, array[-1:]]),
        "one less": lambda: array[:-1].copy(),
        "one dimension more": lambda: array[..., None],
        "flat": lambda: array.reshape(-1) if array.ndim > 1 else array[None],
        "none": lambda: np.zeros((), array.dtype),
    }[how]()
    if name == "masks" and how in ("one more", "one less"):  # their number is that of the edits
        owner = np.full(4, -1, np.int32) if how == "one more" else np.zeros(4, np.int32)
        owner[: len(changed)] = np.arange(len(changed))
        refused(module.DisagreementError, "masks", memory, masks=changed, owner=owner)
    else:
        refused(module.ShapeError, ".", memory, **{name: changed})


def test_a_shape_that_only_one_threshold_may_have() -> None:
    to_bytes(replace(MEMORY, thresholds=np.ones(1, np.float32)))
    refused(module.ShapeError, "thresholds", thresholds=np.ones(2, np.float32))
    refused(module.ShapeError, "thresholds", KEYED, thresholds=np.ones(1, np.float32))


def test_widths_of_nothing() -> None:
    refused(module.ShapeError, "at least 1", values=np.zeros((3, 0), np.int8))
    nothing = {n: getattr(MEMORY, n)[:0] for n in ("center", "scale", "permutation")}
    refused(module.ShapeError, "at least 1", bank=np.zeros((4, 0), np.uint8), **nothing)


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**40, 2**40], [0] * 70, [2**64 - 1, 0]])
def test_huge_shapes_of_nothing(shape: list[int]) -> None:
    with pytest.raises((module.LimitError, module.ShapeError)):
        from_bytes(forge(stored=tensors(values=("I8", shape, b""))))


# --- The document --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "pickle",
        json.dumps(document()) + "x",
        json.dumps(document(evaluation={"x": float("nan")})),
        json.dumps(document(evaluation={"x": float("-inf")})),
        json.dumps(document()).replace('"tool": ""', '"tool": "", "x": 1e999'),
        json.dumps(document()).replace('"tool": ""', '"tool": "", "tool": ""'),
        json.dumps(document(tool="\ud800")),
        json.dumps(document()).replace('"D": 12', '"D": ' + "1" * 5000),
    ],
)
def test_no_json_document(text: str) -> None:
    with pytest.raises(module.MetadataError):
        from_bytes(forge(text))


@pytest.mark.parametrize("name", list(document()))
def test_a_field_missing_or_of_another_type(name: str) -> None:
    found = document()
    del found[name]
    with pytest.raises(module.MetadataError, match=f"no {name}"):
        from_bytes(forge(json.dumps(found)))
    for wrong in ([[]], True, 1.0, {"a": 1} if name == "base" else 12.0):
        with pytest.raises(module.MetadataError, match=f"{name}|base|edits|probes"):
            from_bytes(forge(json.dumps(document(**{name: wrong}))))


@pytest.mark.parametrize(
    "changes",
    [
        {"site": ""},
        {"parent": "ab"},
        {"parent": "AB" * 32},
        {"base": {"model_id": "tiny", "digest": "ab"}},
        {"base": {"model_id": None, "digest": None}},
        {"base": {"digest": None}},
        {"edits": [1]},
        {"edits": [{"id": "a"}]},
        {"edits": [{"row": 0}]},
        {"edits": [{"id": "", "row": 0}]},
        {"edits": [{"id": 1, "row": 0}]},
        {"edits": [{"id": "a", "row": "0"}]},
        {"edits": [{"id": "a", "row": True}]},
        {"edits": [{"id": "a", "row": 0.0}]},
        {"edits": [{"id": "a", "row": 0, "record": "text"}]},
        {"probes": [{"prompt": "p", "text": "t"}]},
        {"probes": [{"prompt": 1, "text": "t", "edit": None}]},
        {"probes": [{"prompt": "p", "text": "t", "edit": 0}]},
        {"probes": ["p"]},
        {"evaluation": []},
    ],
)
def test_malformed_document(changes: dict[str, Any]) -> None:
    with pytest.raises(module.MetadataError) as caught:
        from_bytes(forge(json.dumps(document(**changes))))
    assert len(str(caught.value)) < 160


# --- What it says of codes and sites -------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": ""},
        {"kind": 1},
        {"digest": None},
        {"digest": "cd"},
        {"digest": "CD" * 32},
        {"bits": 20.0},
        {"bits": True},
        {"weight": None},
        {"texts": [1, 2, 3, 4]},
    ],
)
def test_malformed_codes(changes: dict[str, Any]) -> None:
    refused_codes(module.MetadataError, next(iter(changes)), **changes)


@pytest.mark.parametrize("name", Router._fields)
def test_a_router_without_a_field(name: str) -> None:
    found = document(KEYED)
    del found["router"][name]
    with pytest.raises(module.MetadataError, match=f"router has no {name}"):
        from_bytes(forge(json.dumps(found), memory=KEYED))


@pytest.mark.parametrize("name", ["router", "texts"])
def test_codes_without_a_field(name: str) -> None:
    found = document(KEYED)
    del found[name]
    with pytest.raises(module.MetadataError, match=f"no {name}"):
        from_bytes(forge(json.dumps(found), memory=KEYED))
    for wrong in ("text", None, 1, {"a": 1} if name == "texts" else [[]]):
        with pytest.raises(module.MetadataError, match=name):
            from_bytes(forge(json.dumps(document(KEYED, **{name: wrong})), memory=KEYED))


def test_what_a_later_version_adds_to_a_router_is_ignored() -> None:
    found = document(KEYED, texts=[])
    found["router"]["language"] = "en"
    memory = from_bytes(forge(json.dumps(found), memory=KEYED))
    assert memory.codes
    assert memory.codes.router == Router("encoder", "cd" * 32, P, WEIGHT)


def test_a_document_of_format_1_may_name_a_router() -> None:
    """It is a key that this format does not know, and the graph routes as ever."""
    found = from_bytes(forge(json.dumps(document(router={"kind": "other"}))))
    assert found.codes is None


@pytest.mark.parametrize(
    ("sites", "error"),
    [
        (None, module.MetadataError),
        ("layer", module.MetadataError),
        (["layer"], module.MetadataError),
        (["layer", ""], module.MetadataError),
        (["layer", 5], module.MetadataError),
        (["layer", "layer"], module.DisagreementError),
        (["next", "layer"], module.DisagreementError),
    ],
)
def test_sites_that_are_none(sites: Any, error: type[MemoryFormatError]) -> None:
    with pytest.raises(error, match="sites"):
        from_bytes(forge(json.dumps(document(SITED, sites=sites)), memory=SITED))
    said = document(SITED)
    del said["sites"]
    with pytest.raises(module.MetadataError, match="has no sites"):
        from_bytes(forge(json.dumps(said), memory=SITED))
