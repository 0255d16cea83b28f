"""The memory file: the one home of its format. `docs/memory-format.md` is the specification.

Knows nothing of models or text: arrays and metadata in, one safetensors file out, and back. A file
is untrusted input: everything is checked before use, and each refusal has its own error:

    MemoryFormatError
    ├── NotAMemoryError     no safetensors file, cut short, or without the metadata of a memory
    ├── DigestError         the bytes are not the ones that were written
    ├── VersionError        a format version that this reader does not know
    ├── LimitError          larger than the named limits
    ├── TensorSetError      a tensor is missing, or there is one that does not belong
    ├── DtypeError          a tensor of the wrong type
    ├── ShapeError          a tensor of the wrong shape
    ├── ColumnsError        columns out of range or not strictly increasing
    ├── MaskError           a mask whose weight is not k, or with bits beyond D
    ├── OwnerError          an owner that is no edit's row
    ├── PermutationError    the permutation is not one
    ├── NotFiniteError      NaN or infinity
    ├── FeatureError        a routing feature that this version cannot form
    └── MetadataError       metadata malformed, or at odds with the tensors
"""

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from memoir_edge.errors import InputError, MemoryFormatError
from memoir_edge.tophash import FEATURES, Bits, Bytes, Floats, unpack

FORMAT = 1
FORMAT_KEY, MEMORY_KEY, DIGEST_KEY = (
    "memoir_edge.format",
    "memoir_edge.memory",
    "memoir_edge.sha256",
)

# Limits, each checked before anything of that size is allocated.
MAX_HEADER_BYTES = 100_000_000
MAX_D = 1 << 20
MAX_ROWS = 1 << 21
MAX_FILE_BYTES = 1 << 38
MAX_JSON_DEPTH = 64

_BLANK = b"0" * 64
_ALIGN = 8
_REMAKE = "the file was made by something else or damaged on its way: fetch or make it again"


class NotAMemoryError(MemoryFormatError):
    """No safetensors file, cut short, or without the metadata of a memory."""


class DigestError(MemoryFormatError):
    """The bytes are not the ones that were written."""


class VersionError(MemoryFormatError):
    """A format version that this reader does not know."""


class LimitError(MemoryFormatError):
    """Larger than the named limits."""


class TensorSetError(MemoryFormatError):
    """A tensor is missing, or there is one that does not belong."""


class DtypeError(MemoryFormatError):
    """A tensor of the wrong type."""


class ShapeError(MemoryFormatError):
    """A tensor of the wrong shape."""


class ColumnsError(MemoryFormatError):
    """Columns out of range or not strictly increasing."""


class MaskError(MemoryFormatError):
    """A mask whose weight is not k, or with bits beyond D."""


class OwnerError(MemoryFormatError):
    """An owner that is no edit's row."""


class PermutationError(MemoryFormatError):
    """The permutation is not one."""


class NotFiniteError(MemoryFormatError):
    """NaN or infinity."""


class FeatureError(MemoryFormatError):
    """A routing feature that this version cannot form."""


class MetadataError(MemoryFormatError):
    """Metadata malformed, or at odds with the tensors."""


class Base(NamedTuple):
    """The model that the memory belongs to; digest as `memoir_edge.base.weights_digest`."""

    model_id: str
    digest: str | None = None


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Memory:
    """One memory, as it lies in the file.

    C columns, R keys; D and d are the site's input and output width. numpy has no bfloat16, so
    values of that type are held as their bits (uint16) and `bf16` says so.
    """

    site: str
    feature: str
    k: int
    base: Base
    columns: npt.NDArray[np.int32]  # [C], strictly increasing
    values: npt.NDArray[Any]  # [C, d] float32, float16, int8 (with scales) or uint16 (bf16)
    bank: Bytes  # [R, ceil(D/8)]
    owner: npt.NDArray[np.int32]  # [R]
    thresholds: Floats  # [R] or [1]
    center: Floats  # [D]
    scale: Floats  # [D]
    permutation: npt.NDArray[np.int32]  # [D]
    edits: tuple[Entry, ...]
    scales: Floats | None = None  # [C]
    bf16: bool = False
    parent: str | None = None
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

    def values_f32(self) -> Floats:
        """The columns as float32 `[C, d]`, scales applied."""
        if self.bf16:
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        values = self.values.astype(np.float32)
        return values if self.scales is None else values * self.scales[:, None]

    def entry(self, row: int) -> Entry | None:
        """The edit whose primary key is in this bank row."""
        return next((entry for entry in self.edits if entry.row == row), None)


def from_dense(Wm: Floats, *, bank: Bytes, **rest: Any) -> Memory:
    """A memory of the columns of `Wm` `[d, D]` that some mask touches and that are not all zero."""
    D = Wm.shape[1]
    touched: Bits = unpack(np.bitwise_or.reduce(bank, axis=0, initial=0), D)
    columns = np.flatnonzero(touched & Wm.any(axis=0)).astype(np.int32)
    values = np.ascontiguousarray(Wm[:, columns].T, dtype=np.float32)
    return Memory(columns=columns, values=values, bank=bank, **rest)


def to_dense(memory: Memory) -> Floats:
    """The residual memory Wm `[d, D]`, float32."""
    Wm = np.zeros((memory.d, memory.D), np.float32)
    Wm[:, memory.columns] = memory.values_f32().T
    return Wm


# --- Writing -------------------------------------------------------------------------------------


def to_bytes(memory: Memory) -> bytes:
    """The file's bytes; equal memories give equal bytes.

    Raises:
        MemoryFormatError: The memory is none that a reader would take.
    """
    validate(memory)
    tensors = {name: np.ascontiguousarray(array) for name, array in _tensors(memory).items()}
    metadata = {
        FORMAT_KEY: str(FORMAT),
        MEMORY_KEY: _json(_document(memory)),
        DIGEST_KEY: _BLANK.decode(),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    # Larger elements first: every tensor is aligned without a hole (safetensors allows none).
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        dtype = "BF16" if name == "values" and memory.bf16 else _NAMES[tensors[name].dtype.name]
        header[name] = {"dtype": dtype, "shape": tensors[name].shape, "data_offsets": [begin, end]}
    text = _json(header).encode()
    text += b" " * (-len(text) % _ALIGN)
    data = struct.pack("<Q", len(text)) + text + b"".join(tensors[name].tobytes() for name in order)
    return data.replace(_stamp(_BLANK), _stamp(hashlib.sha256(data).hexdigest().encode()), 1)


def write(memory: Memory, path: Path) -> Memory:
    """Write a memory so that a reader finds the old file or the new one, never a mixture.

    Returns:
        The memory with the digest of its file.

    Raises:
        MemoryFormatError: The memory is none that a reader would take.
        InputError: The folder cannot be written to.
    """
    data = to_bytes(memory)
    try:
        _replace(path, data)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return replace(memory, digest=hashlib.sha256(data).hexdigest())


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101 - mkstemp's 0600 would lock the server out
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        os.unlink(name)  # noqa: PTH108
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _stamp(digest: bytes) -> bytes:
    return b'"' + DIGEST_KEY.encode() + b'":"' + digest + b'"'


def _json(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _tensors(memory: Memory) -> dict[str, npt.NDArray[Any]]:
    found = {name: getattr(memory, name) for name in (*_DTYPES, "values", "scales")}
    return {name: array for name, array in found.items() if array is not None}


def _document(memory: Memory) -> dict[str, Any]:
    return {
        "site": memory.site,
        "D": memory.D,
        "d": memory.d,
        "k": memory.k,
        "feature": memory.feature,
        "base": memory.base._asdict(),
        "edits": [
            {"id": e.id, "row": e.row} | ({} if e.record is None else {"record": e.record})
            for e in memory.edits
        ],
        "parent": memory.parent,
        "probes": [probe._asdict() for probe in memory.probes],
        "created": memory.created,
        "tool": memory.tool,
        "evaluation": memory.evaluation,
    }


# --- Reading -------------------------------------------------------------------------------------


def read(path: Path) -> Memory:
    """Read and check a memory file.

    Raises:
        InputError: The file cannot be read.
        MemoryFormatError: It is no valid memory; the subclass says why.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise LimitError(f"{path} is over {MAX_FILE_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read memory {path}: {error.strerror}") from error
    try:
        return from_bytes(data)
    except MemoryFormatError as error:
        raise type(error)(f"{path}: {error}", hint=error.hint) from error


def from_bytes(data: bytes) -> Memory:
    """The memory in a file's bytes.

    Raises:
        MemoryFormatError: They are no valid memory; the subclass says why.
    """
    metadata = _metadata(data)
    _check_digest(data, metadata)
    if metadata[FORMAT_KEY] != str(FORMAT):
        raise VersionError(
            f"format version {metadata[FORMAT_KEY]!r}, this reader knows {FORMAT}",
            hint="update memoir-edge, or make the memory again",
        )
    arrays, bf16 = _arrays(data)
    memory = _memory(_parse(metadata[MEMORY_KEY]), arrays, bf16)
    validate(memory)
    return replace(memory, digest=hashlib.sha256(data).hexdigest())


def _metadata(data: bytes) -> dict[str, str]:
    """The header's metadata, from a header of bounded size."""
    if len(data) < _ALIGN:
        raise NotAMemoryError(f"{len(data)} bytes, no header", hint=_REMAKE)
    (length,) = struct.unpack_from("<Q", data)
    if length > min(MAX_HEADER_BYTES, len(data) - _ALIGN):
        raise NotAMemoryError(f"a header of {length} bytes in a file of {len(data)}", hint=_REMAKE)
    try:
        metadata = json.loads(data[_ALIGN : _ALIGN + length])["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotAMemoryError("no safetensors header with metadata", hint=_REMAKE) from error
    keys = {FORMAT_KEY, MEMORY_KEY, DIGEST_KEY}
    if not isinstance(metadata, dict) or metadata.keys() != keys:
        raise NotAMemoryError(f"the metadata is not that of a memory ({', '.join(sorted(keys))})")
    return metadata


def _check_digest(data: bytes, metadata: dict[str, str]) -> None:
    """The whole file, with the digest's own digits blanked, must hash to the digest."""
    stamp = _stamp(str(metadata[DIGEST_KEY]).encode("utf-8", "replace"))
    blank = data.replace(stamp, _stamp(_BLANK), 1)
    if hashlib.sha256(blank).hexdigest() != metadata[DIGEST_KEY]:
        raise DigestError("the bytes are not the ones that were written", hint=_REMAKE)


def _arrays(data: bytes) -> tuple[dict[str, npt.NDArray[Any]], bool]:
    """The tensors by name, and whether the values are bfloat16 bits."""
    try:
        found = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise NotAMemoryError(f"no safetensors file: {error}", hint=_REMAKE) from error
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in found:
        if tensor["dtype"] not in _SAFETENSORS:
            raise DtypeError(f"{name} is {tensor['dtype']}, expected one of {sorted(_SAFETENSORS)}")
        flat = np.frombuffer(tensor["data"], _SAFETENSORS[tensor["dtype"]])
        arrays[name] = flat.reshape(tensor["shape"])
    dtypes = {name: tensor["dtype"] for name, tensor in found}
    return arrays, dtypes.get("values") == "BF16"


def _memory(document: Any, arrays: dict[str, npt.NDArray[Any]], bf16: bool) -> Memory:
    known = {*_DTYPES, "values", "scales"}
    if not {*_DTYPES, "values"} <= arrays.keys() <= known:
        raise TensorSetError(
            f"tensors {sorted(arrays)}, expected {sorted(known)} (scales optional)"
        )
    if arrays["values"].ndim != 2 or arrays["permutation"].ndim != 1:
        raise ShapeError("values must have two dimensions and permutation one")
    _check_document(document)
    memory = Memory(
        **arrays,  # type: ignore[arg-type]
        bf16=bf16,
        base=Base(document["base"]["model_id"], document["base"]["digest"]),
        edits=tuple(Entry(e["id"], e["row"], e.get("record")) for e in document["edits"]),
        probes=tuple(Probe(p["prompt"], p["text"], p["edit"]) for p in document["probes"]),
        **{name: document[name] for name in _SCALARS if name not in ("D", "d")},
    )
    if (document["D"], document["d"]) != (memory.D, memory.d):
        raise MetadataError(
            f"the metadata says D, d = {document['D']}, {document['d']}; "
            f"the tensors have {memory.D}, {memory.d}"
        )
    return memory


def _parse(text: object) -> Any:
    if not isinstance(text, str):
        raise MetadataError(f"{MEMORY_KEY} is no string")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{MEMORY_KEY} is no JSON: {error}") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


_SCALARS: dict[str, Callable[[Any], bool]] = {
    "site": lambda v: isinstance(v, str) and bool(v),
    "feature": lambda v: isinstance(v, str),
    "D": lambda v: _is_int(v) and 0 < v <= MAX_D,
    "d": lambda v: _is_int(v) and 0 < v <= MAX_D,
    "k": lambda v: _is_int(v) and 0 < v <= MAX_D,
    "parent": lambda v: v is None or isinstance(v, str),
    "created": lambda v: isinstance(v, str),
    "tool": lambda v: isinstance(v, str),
    "evaluation": lambda v: isinstance(v, dict),
}
_LISTS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "edits": {
        "id": lambda v: isinstance(v, str) and bool(v),
        "row": lambda v: _is_int(v) and 0 <= v < MAX_ROWS,
        "record": lambda v: v is None or isinstance(v, dict),
    },
    "probes": {
        "prompt": lambda v: isinstance(v, str),
        "text": lambda v: isinstance(v, str),
        "edit": lambda v: v is None or isinstance(v, str),
    },
}
_BASE: dict[str, Callable[[Any], bool]] = {
    "model_id": lambda v: isinstance(v, str),
    "digest": lambda v: v is None or isinstance(v, str),
}


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_document(document: Any) -> None:
    """Types of the metadata document; fields it does not know are ignored."""
    _check_fields(document, _SCALARS, "the document")
    _check_fields(document.get("base"), _BASE, "base")
    for name, checks in _LISTS.items():
        if not isinstance(document.get(name), list) or len(document[name]) > MAX_ROWS:
            raise MetadataError(f"{name} is missing or no list of at most {MAX_ROWS}")
        for i, item in enumerate(document[name]):
            _check_fields(item, checks, f"{name}[{i}]")
    _check_depth(document)


def _check_fields(found: Any, checks: dict[str, Callable[[Any], bool]], where: str) -> None:
    if not isinstance(found, dict):
        raise MetadataError(f"{where} is missing or no object")
    for name, good in checks.items():
        if not good(found.get(name)):
            raise MetadataError(f"{where} has {name} = {str(found.get(name))[:80]!r}")


def _check_depth(document: Any) -> None:
    """Records and evaluations are handed on to JSON writers, so their nesting is bounded."""
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise LimitError(f"metadata nested deeper than {MAX_JSON_DEPTH}")
        values = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        level = [item for group in values for item in group]


# --- Checks of the tensors -----------------------------------------------------------------------

_SAFETENSORS = {
    "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "|i1", "I32": "<i4", "U8": "|u1",
}  # fmt: skip
_NAMES = {"float32": "F32", "float16": "F16", "int8": "I8", "int32": "I32", "uint8": "U8"}
_VALUES = ("float32", "float16", "int8")
_DTYPES = {
    "columns": "int32",
    "bank": "uint8",
    "owner": "int32",
    "thresholds": "float32",
    "center": "float32",
    "scale": "float32",
    "permutation": "int32",
}


def validate(memory: Memory) -> None:
    """Check a memory as a reader does.

    Raises:
        MemoryFormatError: The subclass says why.
    """
    _check_dtypes(memory)
    _check_shapes(memory)
    _check_finite(memory)
    if memory.feature not in FEATURES:
        raise FeatureError(f"feature {memory.feature!r}, known: {', '.join(FEATURES)}")
    if not 0 < memory.k <= memory.D:
        raise MetadataError(f"k is {memory.k}, expected from 1 to D = {memory.D}")
    columns = memory.columns
    if len(columns) and (
        columns[0] < 0 or columns[-1] >= memory.D or (np.diff(columns) <= 0).any()
    ):
        raise ColumnsError(f"columns must rise strictly within 0..{memory.D - 1}")
    if (np.sort(memory.permutation) != np.arange(memory.D)).any():
        raise PermutationError(f"the permutation does not hold each of 0..{memory.D - 1} once")
    _check_masks(memory)
    _check_owners(memory)


def _check_dtypes(memory: Memory) -> None:
    values = ("uint16",) if memory.bf16 else _VALUES
    wants = {name: (dtype,) for name, dtype in _DTYPES.items()} | {
        "values": values,
        "scales": ("float32",),
    }
    for name, array in _tensors(memory).items():
        if array.dtype.name not in wants[name]:
            raise DtypeError(f"{name} is {array.dtype.name}, expected {' or '.join(wants[name])}")
    if (memory.scales is not None) != (memory.values.dtype == np.int8):
        raise TensorSetError("scales belong to int8 values, and int8 values need them")


def _check_shapes(memory: Memory) -> None:
    C, R = len(memory.columns), len(memory.bank)
    if memory.permutation.ndim != 1 or memory.values.ndim != 2:
        raise ShapeError("values must have two dimensions and permutation one")
    D, d = memory.D, memory.d
    if not 0 < D <= MAX_D or not 0 < d <= MAX_D or R > MAX_ROWS:
        raise LimitError(f"D, d, R = {D}, {d}, {R}; at most {MAX_D}, {MAX_D}, {MAX_ROWS}")
    wants: dict[str, tuple[int, ...]] = {
        "columns": (C,),
        "values": (C, d),
        "scales": (C,),
        "bank": (R, -(-D // 8)),
        "owner": (R,),
        "thresholds": memory.thresholds.shape if memory.thresholds.shape == (1,) else (R,),
        "center": (D,),
        "scale": (D,),
    }
    for name, array in _tensors(memory).items():
        if array.shape != wants.get(name, array.shape):
            raise ShapeError(f"{name} has shape {list(array.shape)}, expected {list(wants[name])}")


def _check_finite(memory: Memory) -> None:
    for name, array in _tensors(memory).items():
        found = memory.values_f32() if name == "values" else array
        if not np.isfinite(found).all():
            raise NotFiniteError(f"{name} holds NaN or infinity")


def _check_masks(memory: Memory) -> None:
    weight = np.bitwise_count(memory.bank).sum(axis=1, dtype=np.int64)
    wrong = np.flatnonzero(weight != memory.k)
    if len(wrong):
        row = int(wrong[0])
        raise MaskError(f"bank row {row} has {int(weight[row])} bits set, expected k = {memory.k}")
    beyond = 0xFF << (memory.D % 8) & 0xFF if memory.D % 8 else 0
    if len(memory.bank) and (memory.bank[:, -1] & beyond).any():
        raise MaskError(f"a mask has bits beyond D = {memory.D}")


def _check_owners(memory: Memory) -> None:
    R, rows = len(memory.bank), np.array([e.row for e in memory.edits], np.int64)
    ids = {entry.id for entry in memory.edits}
    if len(ids) < len(memory.edits):
        raise MetadataError("two edits have the same id")
    primary = np.flatnonzero(memory.owner == np.arange(R))
    if not np.array_equal(np.sort(rows), primary):
        raise MetadataError(
            f"the edits name {len(rows)} rows, the owners {len(primary)} primary keys: not the same"
        )
    strangers = np.setdiff1d(memory.owner, [*primary, -1])
    if len(strangers):
        raise OwnerError(f"owner {int(strangers[0])} is no edit's row and no guard (-1)")
