"""Every file that is no memory is refused, each case by its own error; a kill leaves a whole file.

`forge` writes a file as the specification says, without the library and without our writer, and
gives it a digest that is right: what is refused is refused for its content.
"""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoir_edge import memory as module
from memoir_edge import tophash
from memoir_edge.errors import MemoryFormatError
from memoir_edge.memory import (
    Base,
    Codes,
    Entry,
    Memory,
    Probe,
    Router,
    by_codes,
    from_bytes,
    limits,
    read,
    to_bytes,
    write,
)

D, d, k = 12, 2, 3
P, WEIGHT = 20, 4


def _bank(*rows: list[int], bits: int = D) -> np.ndarray:
    found = np.zeros((len(rows), bits), np.bool_)
    for row, ones in enumerate(rows):
        found[row, ones] = True
    return tophash.pack(found)


MEMORY = Memory(
    site="layer",
    feature="mean",
    k=k,
    base=Base("tiny", "ab" * 32),
    columns=np.array([0, 5, 11], np.int32),
    values=np.array([[1, 2], [3, 4], [5, 6]], np.int8),
    scales=np.array([1, 0.5, 2], np.float32),
    bank=_bank([0, 1, 11], [0, 1, 2], [5, 6, 7], [3, 4, 5]),
    owner=np.array([0, 0, 2, -1], np.int32),
    thresholds=np.array([0.5, 0.5, 0.6, 0.9], np.float32),
    center=np.zeros(D, np.float32),
    scale=np.ones(D, np.float32),
    permutation=np.arange(D, dtype=np.int32)[::-1].copy(),
    edits=(Entry("a", 0, {"prompt": "p"}), Entry("b", 2)),
    probes=(Probe("p", "t", "a"), Probe("q", "u")),
)
KEYED = replace(  # the same edits, found by a router's codes
    MEMORY,
    **by_codes(MEMORY.bank[[0, 2]]),
    edits=(Entry("a", 0, {"prompt": "p"}), Entry("b", 1)),
    codes=Codes(
        router=Router("encoder", "cd" * 32, P, WEIGHT),
        keys=_bank([0, 1, 2, 19], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], bits=P),
        owner=np.array([0, 0, 1, -1], np.int32),
        thresholds=np.array([0.5, 0.5, 0.75, 1], np.float32),
        texts=("p", "p'", "q", "no"),
    ),
)
TILED = replace(  # its second edit reads another tile
    KEYED, tile=np.array([0, 1], np.int32), columns=np.array([0, 11, 18], np.int32)
)
SITED = replace(  # the same at two sites: its edits read tiles 0 and 1, and 2 and 3
    TILED, later=("next",), tile=np.array([0, 2], np.int32), columns=np.array([0, 23, 30], np.int32)
)
MEMORIES = [MEMORY, KEYED, TILED, SITED, replace(MEMORY, later=("next",))]
NAMES = ["format 1", "format 2", "format 3", "format 4", "format 4, as 1"]
EACH = pytest.mark.parametrize("memory", MEMORIES, ids=NAMES)
CODES = {"i": "I32", "b": "I8", "f": "F32", "B": "U8"}
# As a forged file has them: in no special order.
SHARED = ["center", "columns", "permutation", "scale", "scales", "values"]
PLAIN = ["bank", "owner", "thresholds"]
CODED = ["keys", "masks", "owner", "thresholds"]
EVERY = [(MEMORY, name) for name in [*PLAIN, *SHARED]] + [(KEYED, name) for name in CODED]
EVERY += [(TILED, "tile")]
EVERY_TENSOR = pytest.mark.parametrize(
    ("memory", "name"), EVERY, ids=[f"{name} of {MEMORIES.index(m) + 1}" for m, name in EVERY]
)
FORMAT, DOCUMENT, DIGEST = "memoir_edge.format", "memoir_edge.memory", "memoir_edge.sha256"

Tensors = dict[str, tuple[str, list[int], bytes]]


def held(memory: Memory, name: str) -> np.ndarray:
    """The array that is a tensor of the memory's file."""
    own = memory.codes if memory.codes and name in ("keys", "owner", "thresholds") else memory
    found: np.ndarray = getattr(own, "bank" if name == "masks" else name)
    return found


def tensors(
    memory: Memory = MEMORY, **changes: np.ndarray | tuple[str, list[int], bytes] | None
) -> Tensors:
    """dtype, shape and bytes of each tensor; a change of None takes one out."""
    found: Tensors = {}
    names = [*(CODED if memory.codes else PLAIN), *SHARED]
    names += [] if memory.tile is None else ["tile"]
    for name, value in ({n: held(memory, n) for n in names} | changes).items():
        if isinstance(value, np.ndarray):
            found[name] = (CODES[value.dtype.char], list(value.shape), value.tobytes())
        elif value is not None:
            found[name] = value
    return found


def document(memory: Memory = MEMORY, **changes: Any) -> dict[str, Any]:
    coded = {
        "router": {"kind": "encoder", "digest": "cd" * 32, "bits": P, "weight": WEIGHT},
        "texts": ["p", "p'", "q", "no"],
    }
    row = 1 if memory.codes else 2
    sites = {"sites": ["layer", "next"]} if memory.later else {}
    return {
        "site": "layer", "feature": "mean", "D": D, "d": d, "k": k,
        "base": {"model_id": "tiny", "digest": "ab" * 32},
        "edits": [{"id": "a", "row": 0, "record": {"prompt": "p"}}, {"id": "b", "row": row}],
        "parent": None, "created": "", "tool": "", "evaluation": {},
        "probes": [
            {"prompt": "p", "text": "t", "edit": "a"}, {"prompt": "q", "text": "u", "edit": None},
        ],
    } | (coded if memory.codes else {}) | sites | changes  # fmt: skip


def seal(head: bytes, body: bytes) -> bytes:
    """The bytes, with the right digest in place of its 64 zeros."""
    data = len(head).to_bytes(8, "little") + head + body
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


def forge(
    text: str | None = None,
    stored: Tensors | None = None,
    without: str = "",
    memory: Memory = MEMORY,
    **metadata: str,
) -> bytes:
    """A file of the memory's format with the document `text` and the tensors `stored`.

    Not canonical but for the bytes.
    """
    header: dict[str, Any] = {}
    body = b""
    for name, (code, shape, data) in (tensors(memory) if stored is None else stored).items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": offsets}
        body += data
    text = json.dumps(document(memory)) if text is None else text
    version = str(1 + (memory.codes is not None) + (memory.tile is not None))
    version = "4" if memory.later else version
    given = {DIGEST: "0" * 64, FORMAT: version, DOCUMENT: text}
    header["__metadata__"] = {n: v for n, v in (given | metadata).items() if n != without}
    return seal(json.dumps(header, indent=1).encode(), body)


@EACH
def test_what_another_writer_made_is_read(memory: Memory) -> None:
    """The forger follows the page; if this fails, the refusals below mean nothing."""
    found = from_bytes(forge(memory=memory))
    assert to_bytes(found) == to_bytes(memory)


# --- Damage --------------------------------------------------------------------------------------

WHOLE = to_bytes(MEMORY)


@EACH
def test_every_altered_byte_is_refused(memory: Memory) -> None:
    whole = to_bytes(memory)
    for position in range(len(whole)):
        for pattern in (0x01, 0x20, 0x80, 0xFF):
            data = bytearray(whole)
            data[position] ^= pattern
            with pytest.raises(MemoryFormatError):
                from_bytes(bytes(data))


@EACH
def test_every_cut_is_refused(memory: Memory) -> None:
    whole = to_bytes(memory)
    for length in range(len(whole)):
        with pytest.raises(MemoryFormatError):
            from_bytes(whole[:length])


@pytest.mark.parametrize("more", [b"\0", b" ", b"\0" * 8, WHOLE])
def test_appended_bytes_are_refused(more: bytes) -> None:
    with pytest.raises(module.NotSafetensorsError):
        from_bytes(WHOLE + more)
    with pytest.raises(module.NotSafetensorsError):
        from_bytes(more + WHOLE)


@pytest.mark.parametrize(
    "stated", ["", "1" * 64, "AB" * 32, "é" * 32, "0" * 63, json.dumps("0" * 64)]
)
def test_a_digest_that_is_none(stated: str) -> None:
    with pytest.raises(module.DigestError):
        from_bytes(forge(**{DIGEST: stated}))


def test_a_digest_that_stands_twice() -> None:
    """Which of the two were to be blanked? Neither: it cannot happen by an honest writer."""
    data = forge(json.dumps(document(tool="1" * 64)), **{DIGEST: "1" * 64})
    with pytest.raises(module.DigestError, match="once"):
        from_bytes(data)


# --- The container -------------------------------------------------------------------------------


def raw(head: str | bytes, body: bytes = b"") -> bytes:
    head = head.encode() if isinstance(head, str) else head
    return len(head).to_bytes(8, "little") + head + body


ONE = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        bytes(8),
        b"PK\3\4" + bytes(100),
        b"\x80\x04\x95" + bytes(100),  # a pickle
        b"\xff" * 8 + b"{}",
        (2**63).to_bytes(8, "little") + b"{}",
        raw("[]"),
        raw("null"),
        raw("{"),
        raw(b'{"__metadata__":{"\xff":"1"}}'),
        raw('{"__metadata__":{"a":"\\ud800"}}'),
        *(raw(f'{{"__metadata__":{what}}}') for what in ("[]", "[[]]", "1", "true", '"a"')),
        *(raw(f'{{"__metadata__":{{"a":{what}}}}}') for what in ("1", "null", "[]", "{}")),
        raw('{"__metadata__":{"a":"1","a":"2"}}'),
        raw('{"__metadata__":{},"__metadata__":{}}'),
        raw('{"__metadata__":' + '{"a":' * 50_000 + "1" + "}" * 50_001),
        raw("[" * 100_000),
        raw(f'{{"a":{ONE},"a":{ONE}}}', b"x"),
        raw(f'{{"a":{ONE},"b":{ONE}}}', b"x"),
        raw(f'{{"a":{ONE}}}', b"xx"),
        raw(f'{{"a":{ONE}}}'),
        raw('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xx"),
        raw('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', b"x"),
        raw('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', b"x"),
        raw('{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', b"x"),
        raw('{"a":{"dtype":"Z9","shape":[1],"data_offsets":[0,1]}}', b"x"),
        raw(f'{{"a":{{"dtype":"F32","shape":[{2**62},8],"data_offsets":[0,0]}}}}'),
        raw(f'{{"a":{{"dtype":"F32","shape":[{10**40}],"data_offsets":[0,0]}}}}'),
    ],
)
def test_no_safetensors_file(data: bytes) -> None:
    with pytest.raises(module.NotSafetensorsError):
        from_bytes(data)


@pytest.mark.parametrize(
    "head",
    [
        "{}",
        f'{{"a":{ONE}}}',
        '{"__metadata__":{"format":"pt"}}',
        '{"__metadata__":null}',
        f'{{"__metadata__":null,"a":{ONE}}}',
    ],
)
def test_another_safetensors_file(head: str) -> None:
    with pytest.raises(module.NotAMemoryError) as caught:
        from_bytes(raw(head, b"x" if "a" in head and "shape" in head else b""))
    assert "model's weights" in str(caught.value.hint)


@pytest.mark.parametrize("key", [FORMAT, DOCUMENT, DIGEST])
def test_without_a_metadata_key(key: str) -> None:
    with pytest.raises(module.NotAMemoryError, match=key):
        from_bytes(forge(without=key))


@pytest.mark.parametrize(
    "version", ["5", "0", "10", "-1", "1.0", " 1", "01", "", "one", "1" * 9999]
)
def test_an_unknown_version(version: str) -> None:
    """Also where a later version has another digest: the version is looked at first."""
    for digest in ("0" * 64, "sha512:"):
        with pytest.raises(module.VersionError) as caught:
            from_bytes(forge(**{FORMAT: version, DIGEST: digest}))
    assert len(str(caught.value)) < 100


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: raw(b"{" + b, b)))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(MemoryFormatError):
        from_bytes(data)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
ANY = st.recursive(
    SCALARS,
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=4), x, max_size=4),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.sampled_from(EVERY), st.sampled_from(["dtype", "shape", "data_offsets", ""]), ANY)
def test_noise_in_the_header_is_refused(tensor: tuple[Memory, str], part: str, value: Any) -> None:
    """Any JSON in place of any part of a tensor's entry."""
    memory, name = tensor
    whole = to_bytes(memory)
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    if part:
        header[name][part] = value
    else:
        header[name] = value
    if header == json.loads(whole[8:end]):
        return
    header["__metadata__"][DIGEST] = "0" * 64
    with pytest.raises(MemoryFormatError):
        from_bytes(seal(json.dumps(header).encode(), whole[end:]))


@settings(max_examples=300)
@given(
    st.sampled_from(
        [(n,) for n in document(KEYED)]
        + [("base", "digest"), ("edits", 0), ("probes", 0)]
        + [("router", n) for n in Router._fields]
        + [("texts", 0)]
    ),
    ANY,
)
def test_noise_in_the_document_is_refused_or_read(path: tuple[Any, ...], value: Any) -> None:
    """Whatever stands there: a memory that can be written again, or a named error."""
    memory = KEYED if path[0] in ("router", "texts") else MEMORY
    found = document(memory)
    inner = found
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    try:
        memory = from_bytes(forge(json.dumps(found), memory=memory))
    except MemoryFormatError:
        return
    assert from_bytes(to_bytes(memory)).digest == hashlib.sha256(to_bytes(memory)).hexdigest()


# --- Tensors: each refusal, in a file and in a memory that is to be written -----------------------


def refused(
    error: type[MemoryFormatError], match: str = ".", memory: Memory = MEMORY, **changes: Any
) -> None:
    """The same change is refused on reading a forged file and on writing."""
    with pytest.raises(error, match=match):
        from_bytes(forge(stored=tensors(memory, **changes), memory=memory))
    if all(isinstance(value, np.ndarray) for value in changes.values()):
        with pytest.raises(error, match=match):
            to_bytes(with_arrays(memory, **changes))


def with_arrays(memory: Memory, **changes: np.ndarray) -> Memory:
    """The memory in hand with other arrays, named as the tensors of its file."""
    if memory.codes is None:
        return replace(memory, **changes)
    masks = changes.pop("masks", memory.bank)
    codes = {name: changes.pop(name) for name in CODED if name in changes}
    rows = by_codes(masks) if masks.ndim else {"bank": masks}
    return replace(memory, **rows, codes=replace(memory.codes, **codes), **changes)


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


# --- Codes ---------------------------------------------------------------------------------------


def refused_codes(error: type[MemoryFormatError], match: str = ".", **changes: Any) -> None:
    """Another router, or other texts, are refused on reading and on writing."""
    assert KEYED.codes
    found = document(KEYED)
    router = {name: changes[name] for name in Router._fields if name in changes}
    found |= {"router": found["router"] | router}
    found |= {name: value for name, value in changes.items() if name not in router}
    with pytest.raises(error, match=match):
        from_bytes(forge(json.dumps(found), memory=KEYED))
    codes = replace(
        KEYED.codes,
        router=KEYED.codes.router._replace(**router),
        texts=tuple(changes.get("texts", KEYED.codes.texts)),
    )
    with pytest.raises(error, match=match):
        to_bytes(replace(KEYED, codes=codes))


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


def test_a_column_of_no_tile() -> None:
    for memory, tiles in ((KEYED, 1), (TILED, 2), (SITED, 4)):
        columns = np.array([0, 5, tiles * D], np.int32)
        refused(module.ColumnsError, rf"within 0\.\.{tiles * D - 1}", memory, columns=columns)


def test_tiles_of_masks_that_are_keys() -> None:
    """In hand: where the graph routes by the masks, there is one tile."""
    with pytest.raises(module.UnexpectedTensorError, match="tile"):
        to_bytes(replace(MEMORY, tile=np.zeros(4, np.int32)))


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


@pytest.mark.parametrize("count", [1, 3, 5])
def test_texts_of_other_keys(count: int) -> None:
    refused_codes(module.DisagreementError, f"{count} texts of 4 keys", texts=["t"] * count)


@pytest.mark.parametrize("name", ["thresholds", "center"])
def test_numbers_beside_codes_are_finite(name: str) -> None:
    array = held(KEYED, name).copy()
    array[0] = np.nan
    refused(module.NotFiniteError, name, KEYED, **{name: array})


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


# --- Limits --------------------------------------------------------------------------------------


LIMITS = {
    "MAX_FILE_BYTES": lambda whole: len(whole),
    "MAX_HEADER_BYTES": lambda whole: int.from_bytes(whole[:8], "little"),
    "MAX_DOCUMENT_BYTES": lambda whole: len(text_of(whole)),
    "MAX_JSON_DEPTH": lambda _: 5,
    "MAX_INPUT_WIDTH": lambda _: D,
    "MAX_OUTPUT_WIDTH": lambda _: d,
    "MAX_COLUMNS": lambda _: 3,
    "MAX_TILES": lambda _: 4,
    "MAX_KEYS": lambda _: 4,
    "MAX_EDITS": lambda _: 2,
    "MAX_CODE_BITS": lambda _: P,
}


def text_of(whole: bytes) -> str:
    """The document of a file."""
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    found: str = header["__metadata__"][DOCUMENT]
    return found


@EACH
@pytest.mark.parametrize("name", LIMITS)
def test_each_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, memory: Memory
) -> None:
    """At the limit a memory is read and written; one beyond, neither."""
    whole = to_bytes(memory)
    found = memory.tiles if name == "MAX_TILES" else LIMITS[name](whole)
    (tmp_path / "memory").write_bytes(whole)
    monkeypatch.setattr(limits, name, found)
    assert to_bytes(read(tmp_path / "memory")) == whole
    monkeypatch.setattr(limits, name, found - 1)
    if name == "MAX_CODE_BITS" and memory.codes is None:
        assert to_bytes(read(tmp_path / "memory")) == whole
        return
    with pytest.raises(module.LimitError, match=f"at most {found - 1}"):
        read(tmp_path / "memory")
    with pytest.raises(module.LimitError, match=f"at most {found - 1}"):
        from_bytes(whole)
    with pytest.raises(module.LimitError, match=f"at most {found - 1}"):
        write(memory, tmp_path / "other")


def test_every_limit_is_tested() -> None:
    assert set(LIMITS) == {name for name in vars(limits) if name.startswith("MAX_")}


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "memory").open("wb") as file:
        file.truncate(limits.MAX_FILE_BYTES + 1)  # a hole: it takes no room
    with pytest.raises(module.LimitError):
        read(tmp_path / "memory")


@pytest.mark.parametrize("depth", [65, 1000, 200_000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_deep_documents(depth: int, left: str, right: str) -> None:
    deep = left * depth + ("1" if left != "[" else "") + right * depth
    text = json.dumps(document()).replace('"evaluation": {', '"evaluation": {"x": ' + deep)
    with pytest.raises(module.LimitError, match="nest"):
        from_bytes(forge(text))


# --- A kill --------------------------------------------------------------------------------------

WRITER = """
import sys
from dataclasses import replace
from memoir_edge.memory import read, write
one, path = read(sys.argv[1]), sys.argv[2]
two = replace(one, site="two")
print("ready", flush=True)
while True:
    write(one, path)
    write(two, path)
"""


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """SIGKILL at a random moment of endless writes: the file is always whole."""
    rng = np.random.default_rng(0)
    C = 4096
    big = replace(
        MEMORY,
        columns=np.arange(C, dtype=np.int32),
        values=rng.normal(size=(C, 64)).astype(np.float32),
        scales=None,
        bank=tophash.pack(np.arange(C) < np.full((4, 1), k)),
        center=np.zeros(C, np.float32),
        scale=np.ones(C, np.float32),
        permutation=np.arange(C, dtype=np.int32),
    )
    first = write(big, tmp_path / "one")
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "memory"
    states = {first.digest, write(replace(big, site="two"), path).digest}
    seen: list[str | None] = []
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "one"), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(float(rng.uniform(0, 0.03)))
            writer.kill()
        seen.append(read(path).digest)
    left = sum(file.name.endswith(".tmp") for file in folder.iterdir())
    print(f"old or new: {[sorted(map(str, states)).index(str(s)) for s in seen]}, {left} cut short")
    assert set(seen) <= states
    assert {file.name for file in folder.iterdir() if file.suffix != ".tmp"} == {"memory"}
