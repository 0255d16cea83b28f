"""The memory file: what a memory is, how it is written, read and refused. Its one home.

Knows nothing of models, devices or text. The specification is docs/memory-format.md; the digest
below covers every byte, so a damaged file is refused before its content is looked at.

    memory = from_dense(Wm, site=..., bank=..., ...)     the editor's dense change, made sparse
    memory = write(memory, "facts.safetensors")          atomic; memory.digest is the file's SHA-256
    memory = read("facts.safetensors")                   or one of these, all MemoryFormatError:

    MemoryFormatError
    ├── NotSafetensorsError     cut off, or no safetensors file at all
    ├── NotMemoryError          a safetensors file, but no memory
    ├── VersionError            written by a later format
    ├── DigestError             altered since it was written
    ├── LimitError              larger than a limit below
    ├── MissingTensorError      a tensor is not there
    ├── UnexpectedTensorError   a tensor that the format does not know
    ├── DtypeError              a tensor of another type
    ├── ShapeError              a tensor of another shape
    ├── ColumnsError            columns unsorted or outside 0..D-1
    ├── MaskError               a mask whose weight is not k, or with padding bits set
    ├── PermutationError        not a permutation of 0..D-1
    ├── OwnerError              an owner that is no primary key's row
    ├── NonFiniteError          NaN or infinity
    ├── MetadataError           the JSON document is malformed
    ├── DisagreementError       the JSON document says something else than the tensors
    └── FeatureError            a routing feature that this version cannot form
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import safetensors

from memoir_edge import tophash
from memoir_edge.errors import InputError, MemoryFormatError

FORMAT = 1

# Limits: far beyond any real memory, so that a hostile file costs little before it is refused.
MAX_FILE_BYTES = 2**35
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own
MAX_DOCUMENT_BYTES = 2**25  # two of it, for the escapes, fit into a header
MAX_JSON_DEPTH = 64
MAX_INPUT_WIDTH = 2**20  # D
MAX_OUTPUT_WIDTH = 2**20  # d
MAX_COLUMNS = 2**20  # C
MAX_KEYS = 2**20  # R

_FORMAT_KEY = "memoir_edge.format"
_DOCUMENT_KEY = "memoir_edge.memory"
_DIGEST_KEY = "memoir_edge.sha256"
_ZEROS = "0" * 64

# safetensors' name of a type and ours. numpy has no bfloat16: uint16 holds its bits.
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "|i1", "U8": "|u1", "I32": "<i4"}
_CODES = {np.dtype(name): code for code, name in _DTYPES.items()}

# Tensor: permitted types, dimensions. W is ceil(D/8). thresholds may also be [1].
_TENSORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bank": (("U8",), ("R", "W")),
    "center": (("F32",), ("D",)),
    "columns": (("I32",), ("C",)),
    "owner": (("I32",), ("R",)),
    "permutation": (("I32",), ("D",)),
    "scale": (("F32",), ("D",)),
    "scales": (("F32",), ("C",)),
    "thresholds": (("F32",), ("R",)),
    "values": (("F32", "F16", "BF16", "I8"), ("C", "d")),
}

_OPTIONAL_TEXT = (str, type(None))
_DOCUMENT: dict[str, tuple[type, ...]] = {
    "D": (int,),
    "base": (dict,),
    "created": (str,),
    "d": (int,),
    "edits": (list,),
    "evaluation": (dict,),
    "feature": (str,),
    "k": (int,),
    "parent": _OPTIONAL_TEXT,
    "probes": (list,),
    "site": (str,),
    "tool": (str,),
}
_BASE: dict[str, tuple[type, ...]] = {"digest": _OPTIONAL_TEXT, "model_id": (str,)}
_ENTRY: dict[str, tuple[type, ...]] = {"id": (str,), "record": (dict, type(None)), "row": (int,)}
_PROBE: dict[str, tuple[type, ...]] = {"edit": _OPTIONAL_TEXT, "prompt": (str,), "text": (str,)}

_RECOPY = "copy the file again, or make it again with memoir-edge apply"
_REMAKE = "make the file again with memoir-edge apply"


class NotSafetensorsError(MemoryFormatError):
    """The bytes are no complete safetensors file."""


class NotMemoryError(MemoryFormatError):
    """A safetensors file without a memory's metadata keys."""


class VersionError(MemoryFormatError):
    """The file's format version is not one that this code reads."""


class DigestError(MemoryFormatError):
    """The file's bytes are not those that were written."""


class LimitError(MemoryFormatError):
    """Something is larger than its named limit."""


class MissingTensorError(MemoryFormatError):
    """A tensor is not there."""


class UnexpectedTensorError(MemoryFormatError):
    """A tensor is there that the format does not know."""


class DtypeError(MemoryFormatError):
    """A tensor has a type that the format does not permit."""


class ShapeError(MemoryFormatError):
    """A tensor's shape does not fit the others."""


class ColumnsError(MemoryFormatError):
    """Columns are not strictly increasing within 0..D-1."""


class MaskError(MemoryFormatError):
    """A mask does not have exactly k ones within its first D bits."""


class PermutationError(MemoryFormatError):
    """The permutation is not one of 0..D-1."""


class OwnerError(MemoryFormatError):
    """An owner is neither -1 nor the row of a primary key."""


class NonFiniteError(MemoryFormatError):
    """NaN or infinity among the numbers."""


class MetadataError(MemoryFormatError):
    """The JSON document is malformed."""


class DisagreementError(MemoryFormatError):
    """The JSON document contradicts the tensors or itself."""


class FeatureError(MemoryFormatError):
    """The routing feature has a name that this version does not know."""


@dataclass(frozen=True)
class Base:
    """The model that the memory was made for."""

    model_id: str
    digest: str | None  # SHA-256 of its weight files, None if unknown


@dataclass(frozen=True)
class Entry:
    """An edit: its id, the bank row of its primary key, its record unless withheld."""

    id: str
    row: int
    record: dict[str, Any] | None


@dataclass(frozen=True)
class Probe:
    """A prompt, what the edited model must answer, and the edit that must fire (None: base)."""

    prompt: str
    text: str
    edit: str | None


@dataclass(frozen=True, eq=False)
class Memory:
    """One memory. C stored columns, R keys, D and d the site's input and output width."""

    site: str
    feature: str
    k: int
    base: Base
    columns: npt.NDArray[np.int32]  # [C] strictly increasing
    values: npt.NDArray[Any]  # [C, d] float32, float16, int8, or uint16: the bits of bfloat16
    bank: npt.NDArray[np.uint8]  # [R, ceil(D/8)] packed masks
    owner: npt.NDArray[np.int32]  # [R] row of the edit's primary key, -1 for a guard
    thresholds: npt.NDArray[np.float32]  # [R] or [1]
    center: npt.NDArray[np.float32]  # [D]
    scale: npt.NDArray[np.float32]  # [D]
    permutation: npt.NDArray[np.int32]  # [D]
    edits: tuple[Entry, ...]
    scales: npt.NDArray[np.float32] | None = None  # [C], with int8 values only
    parent: str | None = None  # SHA-256 of the file that this one was made from
    probes: tuple[Probe, ...] = ()
    created: str = ""
    tool: str = ""
    evaluation: dict[str, Any] = field(default_factory=dict)
    digest: str | None = None  # SHA-256 of the file it was read from or written to

    @property
    def D(self) -> int:  # noqa: N802 (the paper's name)
        """Input width of the site."""
        return len(self.permutation)

    @property
    def d(self) -> int:
        """Output width of the site."""
        return int(self.values.shape[1])

    def values_f32(self) -> npt.NDArray[np.float32]:
        """`[C, d]` float32, scales applied. Stored float32 values are returned, not copied."""
        if self.values.dtype == np.uint16:
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        values = self.values.astype(np.float32, copy=False)
        return values if self.scales is None else values * self.scales[:, None]

    def entry(self, row: int) -> Entry | None:
        """The edit that owns a bank row; None for a guard's row and for a row that is not there."""
        return self._entries.get(int(self.owner[row])) if 0 <= row < len(self.owner) else None

    @functools.cached_property
    def _entries(self) -> dict[int, Entry]:
        return {entry.row: entry for entry in self.edits}


def from_dense(
    Wm: npt.NDArray[np.float32],
    *,
    site: str,
    feature: str,
    k: int,
    base: Base,
    bank: npt.NDArray[np.uint8],
    owner: npt.NDArray[np.int32],
    thresholds: npt.NDArray[np.float32],
    center: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    permutation: npt.NDArray[np.int32],
    edits: tuple[Entry, ...],
    values_dtype: str = "F32",
    parent: str | None = None,
    probes: tuple[Probe, ...] = (),
    created: str = "",
    tool: str = "",
    evaluation: dict[str, Any] | None = None,
) -> Memory:
    """A valid memory of a dense change: the columns that a mask touches and that are not all zero.

    Args:
        Wm: `[d, D]` float32, the change of the site's weight.
        values_dtype: `F32`, `F16`, `BF16` or `I8` (one scale a column).
        site, feature, k, base, bank, owner, thresholds, center, scale, permutation, edits, parent,
            probes, created, tool, evaluation: As in `Memory`.
    """
    _finite("Wm", Wm)
    touched = tophash.unpack(np.bitwise_or.reduce(bank, axis=0), Wm.shape[1])
    columns = np.flatnonzero(touched & Wm.any(axis=0)).astype(np.int32)
    values, scales = _encode(np.ascontiguousarray(Wm.T[columns]), values_dtype)
    memory = Memory(
        site=site,
        feature=feature,
        k=k,
        base=base,
        columns=columns,
        values=values,
        bank=bank,
        owner=owner,
        thresholds=thresholds,
        center=center,
        scale=scale,
        permutation=permutation,
        edits=edits,
        scales=scales,
        parent=parent,
        probes=probes,
        created=created,
        tool=tool,
        evaluation=evaluation or {},
    )
    kept = memory.values_f32().any(axis=1)  # a narrow type may have rounded a column to zero
    memory = dataclasses.replace(
        memory,
        columns=columns[kept],
        values=values[kept],
        scales=None if scales is None else scales[kept],
    )
    validate(memory)
    return memory


def to_dense(memory: Memory) -> npt.NDArray[np.float32]:
    """`[d, D]` float32: the change of the site's weight, zero in columns that are not stored."""
    Wm = np.zeros((memory.d, memory.D), np.float32)
    Wm[:, memory.columns] = memory.values_f32().T
    return Wm


def _encode(
    values: npt.NDArray[np.float32], code: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]:
    """`[C, d]` float32 to the stored type, and its scales if that is int8."""
    if code == "I8":
        scales = np.abs(values).max(axis=1, initial=0) / np.float32(127)
        steps = np.rint(values / np.where(scales > 0, scales, 1)[:, None])
        return np.clip(steps, -127, 127).astype(np.int8), scales
    if code == "BF16":  # round to nearest, ties to even, on the bits
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16), None
    if code not in ("F32", "F16"):
        raise InputError(f"values type {code!r}, expected one of {', '.join(_TENSORS['values'][0])}")
    with np.errstate(over="ignore"):  # infinity is refused later, with the tensor's name
        return values.astype(_DTYPES[code]), None


def validate(memory: Memory) -> None:
    """Raise the `MemoryFormatError` that says what is wrong with a memory, if anything is."""
    _check_tensors({name: (_code(name, array), array.shape) for name, array in _tensors(memory)})
    _check_document(_document(memory))
    _check_content(memory)


def to_bytes(memory: Memory) -> bytes:
    """The memory's file. The same memory always gives the same bytes."""
    validate(memory)
    return b"".join(_parts(memory))


def from_bytes(data: bytes) -> Memory:
    """Read a memory from a file's bytes, or raise the `MemoryFormatError` that refuses it."""
    stored, metadata, header = _unpack(data)
    _check_version(metadata)
    _check_digest(data, metadata, header)
    _check_tensors({name: (t["dtype"], tuple(t["shape"])) for name, t in stored.items()})
    document = _parse(metadata[_DOCUMENT_KEY])
    _check_document(document)
    arrays: dict[str, npt.NDArray[Any]] = {
        name: np.frombuffer(t["data"], _DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in stored.items()
    }
    memory = Memory(
        **arrays,
        site=document["site"],
        feature=document["feature"],
        k=document["k"],
        base=_make(Base, document["base"]),
        edits=tuple(_make(Entry, entry) for entry in document["edits"]),
        parent=document["parent"],
        probes=tuple(_make(Probe, probe) for probe in document["probes"]),
        created=document["created"],
        tool=document["tool"],
        evaluation=document["evaluation"],
        digest=hashlib.sha256(data).hexdigest(),
    )
    for name, found, expected in (("D", document["D"], memory.D), ("d", document["d"], memory.d)):
        if found != expected:
            _refuse(DisagreementError, f"{name} is {found}, but the tensors have {expected}")
    _check_content(memory)
    return memory
