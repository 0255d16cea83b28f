"""The memory file: what is written is read back, byte for byte as the specification says."""

import hashlib
import json
import os
import re
import stat
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_edge import memory as module
from memoir_edge import tophash
from memoir_edge.errors import InputError, MemoryFormatError
from memoir_edge.memory import (
    Base,
    Codes,
    Entry,
    Memory,
    Probe,
    Router,
    by_codes,
    from_bytes,
    from_dense,
    limits,
    read,
    to_bytes,
    to_dense,
    validate,
    write,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
DIGEST = st.none() | st.just("0123456789abcdef" * 4)


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """Any memory: all formats, every type, several keys per edit, guards, any remainder, empty."""
    D, d = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    k = draw(st.integers(1, D))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    owner: list[int] = []
    for kind in draw(st.lists(st.sampled_from(["edit", "key", "guard"]), max_size=6)):
        primary = [row for row, own in enumerate(owner) if own == row]
        extra = rng.choice(primary) if primary else -1
        owner.append({"edit": len(owner), "key": extra, "guard": -1}[kind])
    R = len(owner)
    rows = [row for row in range(R) if owner[row] == row]
    codes = draw(st.none() | codes_of(owner, rng))
    sites = draw(st.lists(TEXT.filter(bool), min_size=1, max_size=3, unique=True))
    S = tiles = len(sites)
    if codes:
        rows = list(range(len(rows)))
        last = draw(st.integers(0, 2)) if rows else 0
        tile = S * rng.integers(0, last + 1, len(rows)).astype(np.int32)
        tile[:1] = S * last
        tiles = S * (last + 1)
        routing = by_codes(masks(rng, len(rows), D, k)) | {"tile": tile if last else None}
    else:
        thresholds = rng.random(draw(st.sampled_from([R, 1])), np.float32)
        routing = {
            "bank": masks(rng, R, D, k),
            "owner": np.array(owner, np.int32),
            "thresholds": thresholds,
        }
    C = draw(st.integers(0, tiles * D))
    code = draw(st.sampled_from(["float32", "float16", "int8", "uint16"]))
    values = rng.normal(size=(C, d)).astype(np.float32)
    if code == "uint16":
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    edits = tuple(Entry(f"{draw(TEXT)}-{row}", row, draw(st.none() | OBJECT)) for row in rows)
    edit = st.sampled_from([None, *(entry.id for entry in edits)])
    return Memory(
        site=sites[0],
        later=tuple(sites[1:]),
        feature=draw(st.sampled_from(sorted(tophash.FEATURES))),
        k=k,
        base=Base(draw(TEXT), draw(DIGEST), draw(st.sampled_from([(), ("ab" * 32,)]))),
        columns=np.sort(rng.permutation(tiles * D)[:C]).astype(np.int32),
        values=values.astype(code),
        center=rng.normal(size=D).astype(np.float32),
        scale=rng.random(D, np.float32),
        permutation=rng.permutation(D).astype(np.int32),
        edits=edits,
        scales=rng.random(C, np.float32) if code == "int8" else None,
        parent=draw(DIGEST),
        probes=tuple(draw(st.lists(st.builds(Probe, TEXT, TEXT, edit), max_size=2))),
        created=draw(TEXT),
        tool=draw(TEXT),
        evaluation=draw(OBJECT),
        codes=codes,
        **routing,
    )


def masks(rng: np.random.Generator, rows: int, bits: int, weight: int) -> tophash.Bytes:
    """Packed rows of one weight: `[rows, ceil(bits/8)]`."""
    return tophash.pack(rng.permuted(np.tile(np.arange(bits) < weight, (rows, 1)), axis=1))


@st.composite
def codes_of(draw: st.DrawFn, owner: list[int], rng: np.random.Generator) -> Codes:
    """Codes of any width for keys that have owners as a bank of masks has them."""
    P, R = draw(st.integers(1, 40)), len(owner)
    weight = draw(st.integers(1, P))
    edits = [own for row, own in enumerate(owner) if own == row]
    return Codes(
        router=Router("encoder", "0123456789abcdef" * 4, P, weight),
        keys=masks(rng, R, P, weight),
        owner=np.array([own if own < 0 else edits.index(own) for own in owner], np.int32),
        thresholds=rng.random(R, np.float32),
        texts=tuple(draw(st.sampled_from([[], draw(st.lists(TEXT, min_size=R, max_size=R))]))),
    )


def content(found: Memory | Codes) -> dict[str, Any]:
    """Everything in a memory, comparable; arrays with their types."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return str(value.dtype), value.shape, value.tobytes()
        return content(value) if isinstance(value, Codes) else value

    return {f.name: plain(getattr(found, f.name)) for f in fields(found) if f.name != "digest"}


def stored(memory: Memory) -> dict[str, np.ndarray]:
    """The arrays that are tensors of its file, by their names there."""
    names = ["columns", "values", "scales", "center", "scale", "permutation"]
    found = {name: getattr(memory, name) for name in names}
    keyed = memory.codes or memory
    found |= {name: getattr(keyed, name) for name in ("owner", "thresholds")}
    if memory.codes:
        found |= {"masks": memory.bank, "keys": memory.codes.keys, "tile": memory.tile}
    else:
        found["bank"] = memory.bank
    return {name: array for name, array in found.items() if array is not None}


def small(**changes: Any) -> Memory:
    """D 10, d 2, k 3; an edit with a second key, and a guard."""
    bank = np.zeros((3, 10), np.bool_)
    for row, ones in enumerate(([0, 1, 9], [0, 1, 8], [2, 3, 4])):
        bank[row, ones] = True
    given = {
        "site": "layer",
        "feature": "last",
        "k": 3,
        "base": Base("tiny"),
        "columns": np.array([0, 9], np.int32),
        "values": np.array([[1, -2], [0.5, 0]], np.float32),
        "bank": tophash.pack(bank),
        "owner": np.array([0, 0, -1], np.int32),
        "thresholds": np.array([0.5], np.float32),
        "center": np.zeros(10, np.float32),
        "scale": np.ones(10, np.float32),
        "permutation": np.arange(10, dtype=np.int32),
        "edits": (Entry("a", 0, {"prompt": "Où ?", "target": "Rome"}),),
    }
    return Memory(**(given | changes))


def coded(tile: np.ndarray | None = None, **changes: Any) -> Memory:
    """That memory with a second edit and a router; P 12, weight 6; three keys and a guard."""
    keys = np.zeros((4, 12), np.bool_)
    for row, ones in enumerate(([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 11], [6, 7, 8, 9, 10, 11],
                                [0, 2, 4, 6, 8, 10])):  # fmt: skip
        keys[row, ones] = True
    given = {
        "router": Router("encoder", "0123456789abcdef" * 4, 12, 6),
        "keys": tophash.pack(keys),
        "owner": np.array([0, 0, 1, -1], np.int32),
        "thresholds": np.array([0.5, 0.75, 0.5, 1], np.float32),
        "texts": ("Où ?", "Où", "Qui ?", "Quand ?"),
    }
    edits = (Entry("a", 0, {"prompt": "Où ?", "target": "Rome"}), Entry("b", 1))
    routing = by_codes(small().bank[:2])
    return small(**routing, tile=tile, edits=edits, codes=Codes(**(given | changes)))


def sited() -> Memory:
    """That memory at two sites: its edits read tiles 0 and 1, and 2 and 3."""
    return replace(
        coded(np.array([0, 2], np.int32)),
        later=("next",),
        columns=np.array([0, 19, 20, 31], np.int32),
        values=np.array([[1, -2], [0.5, 0], [0, 1], [2, 3]], np.float32),
    )


# --- Round trips ---------------------------------------------------------------------------------


@settings(max_examples=200)
@given(memories())
def test_what_was_written_is_read(memory: Memory) -> None:
    data = to_bytes(memory)
    found = from_bytes(data)
    assert content(found) == content(memory)
    assert found.digest == hashlib.sha256(data).hexdigest()
    assert to_bytes(found) == data


@settings(max_examples=50)
@given(memories())
def test_the_library_reads_the_same(memory: Memory) -> None:
    """The file is plain safetensors: tensors lie where the library puts them, aligned."""
    data, arrays = to_bytes(memory), stored(memory)
    found = dict(safetensors.deserialize(data))
    assert set(found) == set(arrays)
    for name, tensor in found.items():
        assert bytes(tensor["data"]) == arrays[name].tobytes()
        assert tuple(tensor["shape"]) == arrays[name].shape
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]
    assert length % 8 == 0
    for name, entry in header.items():
        assert entry["data_offsets"][0] % arrays[name].itemsize == 0


@pytest.mark.parametrize(
    ("memory", "version", "owner"),
    [
        (small(), "1", [0, 0, -1]),
        (coded(), "2", [0, 0, 1, -1]),
        (small(later=("next",)), "4", [0, 0, -1]),
        (sited(), "4", [0, 0, 1, -1]),
    ],
    ids=["without a router", "with one", "without one, of two sites", "with one, of two sites"],
)
def test_the_library_opens_it(
    tmp_path: Path, memory: Memory, version: str, owner: list[int]
) -> None:
    path = tmp_path / "memory.safetensors"
    write(memory, path)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata()["memoir_edge.format"] == version
        assert (file.get_tensor("owner") == owner).all()


def test_the_file_does_not_depend_on_the_order_of_anything() -> None:
    one, two = {"b": [1, {"y": 1, "x": 2}], "a": "é"}, {"a": "é", "b": [1, {"x": 2, "y": 1}]}
    owner = np.array([0, 1, -1], np.int32)
    a, b = Entry("a", 0, one), Entry("b", 1, two)
    first = small(owner=owner, edits=(a, b), evaluation=one)
    second = small(
        owner=owner, edits=(b._replace(record=one), a._replace(record=two)), evaluation=two
    )
    assert to_bytes(first) == to_bytes(second)
    strided = replace(
        first, center=np.zeros(20, np.float32)[::2], values=np.asfortranarray(first.values)
    )
    assert to_bytes(strided) == to_bytes(first)


def test_codes_are_written_the_same_however_they_lie() -> None:
    first = coded()
    assert first.codes
    strided = replace(
        first.codes,
        keys=np.asfortranarray(first.codes.keys),
        thresholds=np.repeat(first.codes.thresholds, 2)[::2],
    )
    second = replace(first, codes=strided, edits=first.edits[::-1])
    assert to_bytes(second) == to_bytes(first)


def test_an_empty_memory() -> None:
    memory = small(
        columns=np.zeros(0, np.int32),
        values=np.zeros((0, 2), np.float32),
        bank=np.zeros((0, 2), np.uint8),
        owner=np.zeros(0, np.int32),
        thresholds=np.zeros(0, np.float32),
        edits=(),
    )
    found = from_bytes(to_bytes(memory))
    assert (found.D, found.d, found.entry(0)) == (10, 2, None)
    assert not to_dense(found).any()


def test_a_withheld_record_leaves_no_trace() -> None:
    memory = small(edits=(Entry("a", 0),))
    assert b"record" not in to_bytes(memory)
    assert from_bytes(to_bytes(memory)).edits == (Entry("a", 0, None),)


def test_an_empty_memory_with_a_router() -> None:
    keys, none = np.zeros((0, 2), np.uint8), np.zeros(0, np.float32)
    memory = coded(keys=keys, owner=none.astype(np.int32), thresholds=none, texts=())
    memory = replace(memory, edits=(), **by_codes(memory.bank[:0]))
    found = from_bytes(to_bytes(memory))
    assert found.codes
    assert found.codes.router.bits == 12
    assert content(found) == content(memory)


def test_a_withheld_text_leaves_no_trace() -> None:
    memory = coded(texts=())
    assert b"Quand" in to_bytes(coded())
    assert b"Quand" not in to_bytes(memory)
    assert content(from_bytes(to_bytes(memory))) == content(memory)


# --- Literal bytes -------------------------------------------------------------------------------

HEADER = (
    '{"__metadata__":{"memoir_edge.format":"1","memoir_edge.memory":"'
    r"{\"D\":10,\"base\":{\"digest\":null,\"model_id\":\"tiny\"},\"created\":\"\",\"d\":2,"
    r"\"edits\":[{\"id\":\"a\",\"record\":{\"prompt\":\"Où ?\",\"target\":\"Rome\"},\"row\":0}],"
    r"\"evaluation\":{},\"feature\":\"last\",\"k\":3,\"parent\":null,\"probes\":[],"
    r"\"site\":\"layer\",\"tool\":\"\"}"
    '","memoir_edge.sha256":"918d388ad794271d787923b49182f4532006fb849835ba2c1223d0e45ba556a9"},'
    '"bank":{"data_offsets":[160,166],"dtype":"U8","shape":[3,2]},'
    '"center":{"data_offsets":[0,40],"dtype":"F32","shape":[10]},'
    '"columns":{"data_offsets":[40,48],"dtype":"I32","shape":[2]},'
    '"owner":{"data_offsets":[48,60],"dtype":"I32","shape":[3]},'
    '"permutation":{"data_offsets":[60,100],"dtype":"I32","shape":[10]},'
    '"scale":{"data_offsets":[100,140],"dtype":"F32","shape":[10]},'
    '"thresholds":{"data_offsets":[140,144],"dtype":"F32","shape":[1]},'
    '"values":{"data_offsets":[144,160],"dtype":"F32","shape":[2,2]}}    '
)
BODY = (
    "00000000" * 10  # center
    + "00000000 09000000"  # columns
    + "00000000 00000000 ffffffff"  # owner
    + "00000000 01000000 02000000 03000000 04000000"  # permutation
    + "05000000 06000000 07000000 08000000 09000000"
    + "0000803f" * 10  # scale
    + "0000003f"  # thresholds: .5
    + "0000803f 000000c0 0000003f 00000000"  # values: 1, -2, .5, 0
    + "0302 0301 1c00"  # bank: bits {0, 1, 9}, {0, 1, 8}, {2, 3, 4}
)
LITERAL = b"\xb0\x03\0\0\0\0\0\0" + HEADER.encode() + bytes.fromhex(BODY)
SHA256 = "618a507d171a88f168ffe135e43f798b7a064ed97f6a645c130d2c6624a34327"

CODED_HEADER = (
    '{"__metadata__":{"memoir_edge.format":"2","memoir_edge.memory":"'
    r"{\"D\":10,\"base\":{\"digest\":null,\"model_id\":\"tiny\"},\"created\":\"\",\"d\":2,"
    r"\"edits\":[{\"id\":\"a\",\"record\":{\"prompt\":\"Où ?\",\"target\":\"Rome\"},\"row\":0},"
    r"{\"id\":\"b\",\"row\":1}],"
    r"\"evaluation\":{},\"feature\":\"last\",\"k\":3,\"parent\":null,\"probes\":[],"
    r"\"router\":{\"bits\":12,"
    r"\"digest\":\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\","
    r"\"kind\":\"encoder\",\"weight\":6},"
    r"\"site\":\"layer\",\"texts\":[\"Où ?\",\"Où\",\"Qui ?\",\"Quand ?\"],\"tool\":\"\"}"
    '","memoir_edge.sha256":"6bab016340477b2051aa53addcd912b604a15f86d3066466dbd53c26fd927b9e"},'
    '"center":{"data_offsets":[0,40],"dtype":"F32","shape":[10]},'
    '"columns":{"data_offsets":[40,48],"dtype":"I32","shape":[2]},'
    '"keys":{"data_offsets":[176,184],"dtype":"U8","shape":[4,2]},'
    '"masks":{"data_offsets":[184,188],"dtype":"U8","shape":[2,2]},'
    '"owner":{"data_offsets":[48,64],"dtype":"I32","shape":[4]},'
    '"permutation":{"data_offsets":[64,104],"dtype":"I32","shape":[10]},'
    '"scale":{"data_offsets":[104,144],"dtype":"F32","shape":[10]},'
    '"thresholds":{"data_offsets":[144,160],"dtype":"F32","shape":[4]},'
    '"values":{"data_offsets":[160,176],"dtype":"F32","shape":[2,2]}}      '
)
CODED_BODY = (
    "00000000" * 10  # center
    + "00000000 09000000"  # columns
    + "00000000 00000000 01000000 ffffffff"  # owner
    + "00000000 01000000 02000000 03000000 04000000"  # permutation
    + "05000000 06000000 07000000 08000000 09000000"
    + "0000803f" * 10  # scale
    + "0000003f 0000403f 0000003f 0000803f"  # thresholds: .5, .75, .5, 1
    + "0000803f 000000c0 0000003f 00000000"  # values: 1, -2, .5, 0
    + "3f00 1f08 c00f 5505"  # keys: bits {0..5}, {0..4, 11}, {6..11}, {0, 2, 4, 6, 8, 10}
    + "0302 0301"  # masks: bits {0, 1, 9}, {0, 1, 8}
)
CODED_LITERAL = b"\xc8\x04\0\0\0\0\0\0" + CODED_HEADER.encode() + bytes.fromhex(CODED_BODY)
CODED_SHA256 = "d3aeb5ecba22744283d55616a5e7549faa2be4e09151c8523e5533bf8038e024"

SITED_HEADER = (
    '{"__metadata__":{"memoir_edge.format":"4","memoir_edge.memory":"'
    r"{\"D\":10,\"base\":{\"digest\":null,\"model_id\":\"tiny\"},\"created\":\"\",\"d\":2,"
    r"\"edits\":[{\"id\":\"a\",\"record\":{\"prompt\":\"Où ?\",\"target\":\"Rome\"},\"row\":0},"
    r"{\"id\":\"b\",\"row\":1}],"
    r"\"evaluation\":{},\"feature\":\"last\",\"k\":3,\"parent\":null,\"probes\":[],"
    r"\"router\":{\"bits\":12,"
    r"\"digest\":\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\","
    r"\"kind\":\"encoder\",\"weight\":6},"
    r"\"site\":\"layer\",\"sites\":[\"layer\",\"next\"],"
    r"\"texts\":[\"Où ?\",\"Où\",\"Qui ?\",\"Quand ?\"],\"tool\":\"\"}"
    '","memoir_edge.sha256":"23294c6426014a013f07ecbf07c39b8a19adb73b35f7b406999c49932ec85cc3"},'
    '"center":{"data_offsets":[0,40],"dtype":"F32","shape":[10]},'
    '"columns":{"data_offsets":[40,56],"dtype":"I32","shape":[4]},'
    '"keys":{"data_offsets":[208,216],"dtype":"U8","shape":[4,2]},'
    '"masks":{"data_offsets":[216,220],"dtype":"U8","shape":[2,2]},'
    '"owner":{"data_offsets":[56,72],"dtype":"I32","shape":[4]},'
    '"permutation":{"data_offsets":[72,112],"dtype":"I32","shape":[10]},'
    '"scale":{"data_offsets":[112,152],"dtype":"F32","shape":[10]},'
    '"thresholds":{"data_offsets":[152,168],"dtype":"F32","shape":[4]},'
    '"tile":{"data_offsets":[168,176],"dtype":"I32","shape":[2]},'
    '"values":{"data_offsets":[176,208],"dtype":"F32","shape":[4,2]}}   '
)
SITED_BODY = (
    "00000000" * 10  # center
    + "00000000 13000000 14000000 1f000000"  # columns: 0, 19, 20, 31
    + "00000000 00000000 01000000 ffffffff"  # owner
    + "00000000 01000000 02000000 03000000 04000000"  # permutation
    + "05000000 06000000 07000000 08000000 09000000"
    + "0000803f" * 10  # scale
    + "0000003f 0000403f 0000003f 0000803f"  # thresholds: .5, .75, .5, 1
    + "00000000 02000000"  # tile
    + "0000803f 000000c0 0000003f 00000000"  # values: 1, -2, .5, 0, 0, 1, 2, 3
    + "00000000 0000803f 00000040 00004040"
    + "3f00 1f08 c00f 5505"  # keys: bits {0..5}, {0..4, 11}, {6..11}, {0, 2, 4, 6, 8, 10}
    + "0302 0301"  # masks: bits {0, 1, 9}, {0, 1, 8}
)
SITED_LITERAL = b"\x20\x05\0\0\0\0\0\0" + SITED_HEADER.encode() + bytes.fromhex(SITED_BODY)
SITED_SHA256 = "3f85e8af324f0d459989eab9d955eb2546d9b39bd72f114da67dac13cfd1deec"

EXAMPLES = pytest.mark.parametrize(
    ("memory", "literal", "digest"),
    [
        (small(), LITERAL, SHA256),
        (coded(), CODED_LITERAL, CODED_SHA256),
        (sited(), SITED_LITERAL, SITED_SHA256),
    ],
    ids=["format 1", "format 2", "format 4"],
)


@EXAMPLES
def test_literal_bytes_are_what_is_written(memory: Memory, literal: bytes, digest: str) -> None:
    assert to_bytes(memory) == literal
    assert hashlib.sha256(literal).hexdigest() == digest


@EXAMPLES
def test_literal_bytes_are_read(memory: Memory, literal: bytes, digest: str) -> None:
    """A file written today must be read by every later reader."""
    found = from_bytes(literal)
    assert content(found) == content(memory)
    assert found.digest == digest


def test_a_reader_ignores_what_later_minor_versions_add() -> None:
    """Unknown keys in the document and beside it; a null record is a withheld one."""
    header = HEADER.replace(r"{\"D\"", r"{\"A\":[{}],\"D\"").replace(
        r"{\"id\"", r"{\"new\":1,\"id\""
    )
    header = header.replace('{"memoir_edge.format"', '{"another":"key","memoir_edge.format"')
    header = re.sub(r"{.\"prompt.*?}", "null", header).replace("918d", "0000")
    stated = re.search('sha256":"([0-9a-f]{64})', header)
    assert stated is not None
    blank = header.replace(stated[1], "0" * 64).encode()
    parts = len(blank).to_bytes(8, "little"), blank, bytes.fromhex(BODY)
    digest = hashlib.sha256(b"".join(parts)).hexdigest().encode()
    data = b"".join(parts).replace(b"0" * 64, digest)
    assert content(from_bytes(data)) == content(small(edits=(Entry("a", 0),)))


# --- What a memory gives -------------------------------------------------------------------------


@given(memories(), st.integers(0, 2**32))
def test_from_dense_stores_what_masks_touch(memory: Memory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width = memory.tiles * memory.D
    Wm = rng.normal(size=(memory.d, width)).astype(np.float32)
    Wm[:, rng.random(width) < 0.3] = 0
    rest = {
        f.name: getattr(memory, f.name)
        for f in fields(memory)
        if f.name not in ("columns", "values", "scales", "bank")
    }
    sparse = from_dense(Wm, bank=memory.bank, **rest)
    validate(sparse)
    touched = np.zeros(width, np.bool_)
    for row, bits in enumerate(tophash.unpack(memory.bank, memory.D)):
        first = 0 if memory.tile is None else memory.tile[row]
        places = [t * memory.D + np.flatnonzero(bits) for t in first + np.arange(len(memory.sites))]
        touched[np.concatenate(places)] = True
        assert memory.reads(row).tolist() == np.concatenate(places).tolist()
    assert (to_dense(sparse) == np.where(touched, Wm, 0)).all()
    assert sparse.columns.tolist() == np.flatnonzero(touched & (Wm != 0).any(axis=0)).tolist()


def test_values_of_every_type_become_float32() -> None:
    plain = np.array([[1, -2], [0.5, 0]], np.float32)
    assert np.shares_memory(small(values=plain).values_f32(), plain)
    assert (small(values=plain.astype(np.float16)).values_f32() == plain).all()
    bits = np.array([[0x3F80, 0xC000], [0x3F00, 0]], np.uint16)  # bfloat16
    assert (small(values=bits).values_f32() == plain).all()
    steps, scales = np.array([[1, -2], [1, 0]], np.int8), np.array([1, 0.5], np.float32)
    found = small(values=steps, scales=scales).values_f32()
    assert found.dtype == np.float32
    assert (found == plain).all()


def test_entry_is_the_edit_that_owns_a_row() -> None:
    memory = small()
    [edit] = memory.edits
    assert [memory.entry(row) for row in (0, 1, 2, 3, -1)] == [edit, edit, None, None, None]


def test_with_codes_a_row_is_that_of_the_edit_s_mask() -> None:
    memory = coded()
    assert [memory.entry(row) for row in (0, 1, 2, -1)] == [*memory.edits, None, None]


# --- Files ---------------------------------------------------------------------------------------


def test_write_and_read(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    written = write(small(), path)
    assert path.read_bytes() == LITERAL
    assert written.digest == hashlib.sha256(LITERAL).hexdigest() == read(str(path)).digest
    write(small(site="other"), str(path))
    assert read(path).site == "other"
    assert list(tmp_path.iterdir()) == [path]


def test_other_users_may_read_as_far_as_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(small(), tmp_path / "memory")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "memory").stat().st_mode) == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "memory"
    write(small(), path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync", full), "replace": (Path, "replace", full)}[step])
    with pytest.raises(InputError, match=r"cannot write memory .*: No space left on device"):
        write(small(site="other"), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == LITERAL


def test_an_invalid_memory_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(MemoryFormatError):
        write(small(k=4), tmp_path / "memory")
    assert not any(tmp_path.iterdir())


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match=r"cannot read memory .*none: No such file or directory"):
        read(tmp_path / "none")
    with pytest.raises(InputError, match=r"cannot read memory .*: not a file"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"cannot read memory .*: not a file"):
        read("/dev/zero")
    with pytest.raises(InputError, match=r"cannot write memory .*: No such file or directory"):
        write(small(), tmp_path / "none" / "memory")
    with pytest.raises(InputError, match=r"cannot write memory .*: Is a directory"):
        write(small(), folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(LITERAL[:-1])
    with pytest.raises(MemoryFormatError, match=r"bad: ") as caught:
        read(tmp_path / "bad")
    assert caught.value.hint


# --- The specification ---------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "memory-format.md").read_text(encoding="utf-8")


def test_the_page_names_every_error() -> None:
    errors = {
        name
        for name, found in vars(module).items()
        if isinstance(found, type)
        and issubclass(found, MemoryFormatError)
        and found is not MemoryFormatError
    }
    assert set(re.findall(r"`(\w+Error)`", PAGE)) == errors | {"MemoryFormatError", "InputError"}
    assert set(re.findall(r"── (\w+Error)", module.__doc__ or "")) == errors


def test_the_page_names_every_limit() -> None:
    held = {name: value for name, value in vars(limits).items() if name.startswith("MAX_")}
    stated = dict(re.findall(r"^\| `(MAX_\w+)` \| ([\d,]+) \|", PAGE, re.MULTILINE))
    assert {name: int(value.replace(",", "")) for name, value in stated.items()} == held


def test_the_page_names_every_tensor_and_field() -> None:
    tiled = coded(tile=np.array([0, 1], np.int32))
    named = {*stored(small(scales=np.ones(2, np.float32))), *stored(tiled)}
    named |= {f.name for f in (*fields(Memory), *fields(Codes))} | {*Router._fields, "sites"}
    named.remove("later")  # in a file the sites are named together
    assert {name for name in named if f"`{name}`" not in PAGE} == set()


@EXAMPLES
def test_the_page_s_examples_are_the_literal_files(
    memory: Memory, literal: bytes, digest: str
) -> None:
    """Header, body and sizes as the page has them."""
    texts = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    which = 0 if memory.codes is None else 4 if memory.later else 2
    header, body = texts[which : which + 2]
    end = 8 + int.from_bytes(literal[:8], "little")
    assert "".join(header.split("\n")) == literal[8:end].decode().rstrip()
    assert bytes.fromhex(body) == literal[end:]
    assert f"`{literal[:8].hex(' ')}` ({end - 8})" in PAGE
    assert f"has {len(literal)} bytes, and its SHA-256 is `{digest}`" in PAGE


@EXAMPLES
def test_the_page_s_digest_procedure_finds_damage(
    memory: Memory, literal: bytes, digest: str
) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    space: dict[str, Any] = {}
    exec(code, space)
    assert space["intact"](literal)
    assert not space["intact"](literal[:-1] + b"\xff")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Base("a", "1"), Base("b", "1"), True),
        (Base("a", "1"), Base("a", "2"), False),
        (Base("a", "1"), Base("a"), True),
        (Base("a", "2", ("1",)), Base("a", "1"), True),
        (Base("a", "2", ("1",)), Base("a", "2"), True),
        (Base("a", "2", ("1",)), Base("a", "3", ("1",)), False),
        (Base("a", "2", ("1",)), Base("a", "3"), False),
    ],
)
def test_a_base_model_is_known_by_any_of_its_digests(one: Base, other: Base, same: bool) -> None:
    assert one.is_of(other.digest, other.former) == other.is_of(one.digest, one.former) == same
