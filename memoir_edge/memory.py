"""The memory file: what a memory is, how it is written, read and refused. Its one home.

Knows nothing of models, devices or text. The specification is docs/memory-format.md. A file is
untrusted input: everything is checked before use, and each refusal has its own error.

    memory = from_dense(Wm, bank=bank, ...)         the editor's dense change, made sparse
    memory = write(memory, "facts.safetensors")     atomic; memory.digest is the file's SHA-256
    memory = read("facts.safetensors")              that memory, or one of these:

    MemoryFormatError
    ├── NotSafetensorsError     cut short, or no safetensors file at all
    ├── NotAMemoryError         a safetensors file without the metadata of a memory
    ├── VersionError            a format version that this reader does not know
    ├── DigestError             the bytes are not the ones that were written
    ├── LimitError              larger than the named limits
    ├── MissingTensorError      a tensor is not there
    ├── UnexpectedTensorError   a tensor that does not belong
    ├── DtypeError              a tensor of the wrong type
    ├── ShapeError              a tensor of the wrong shape
    ├── ColumnsError            columns out of range or not strictly increasing
    ├── MaskError               a mask or key of another weight, or with bits beyond its width
    ├── OwnerError              an owner that is no edit's row, or an edit without a key
    ├── TileError               a mask of no tile, or whose tiles begin at another site's
    ├── RouterError             codes that no router of this version makes
    ├── PermutationError        the permutation is not one
    ├── NotFiniteError          NaN or infinity
    ├── MetadataError           the JSON document is malformed
    ├── DisagreementError       the JSON document contradicts the tensors or itself
    └── FeatureError            a routing feature that this version cannot form
"""

import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from memoir_edge import files
from memoir_edge.errors import InputError, MemoryFormatError
from memoir_edge.notebook import table
from memoir_edge.tophash import FEATURES, Bytes, Floats, unpack

FORMAT = 1  # whose keys are the masks themselves: the graph routes by its own activations
CODED = 2  # whose keys are a router's codes
TILED = 3  # the same, with more than one tile of columns
SITED = 4  # any of these, at several sites
FORMATS = (FORMAT, CODED, TILED, SITED)
FORMAT_KEY = "memoir_edge.format"
DOCUMENT_KEY = "memoir_edge.memory"
DIGEST_KEY = "memoir_edge.sha256"

# Limits, far beyond any real memory: a hostile file is refused before it costs more than its size.
MAX_FILE_BYTES = 2**36
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own
MAX_DOCUMENT_BYTES = 2**26
MAX_JSON_DEPTH = 64
MAX_INPUT_WIDTH = 2**20  # D
MAX_OUTPUT_WIDTH = 2**20  # d
MAX_COLUMNS = 2**20  # C
MAX_TILES = 2**10
MAX_KEYS = 2**21  # R: a million edits with a paraphrase each
MAX_EDITS = 2**20
MAX_CODE_BITS = 2**16  # P

_REMAKE = "made by something else, or damaged on its way: fetch the file or make it again"
_BLANK = b"0" * 64
_PREFIX = 8  # bytes that hold the header's length; the header is padded to a multiple, too


class NotSafetensorsError(MemoryFormatError):
    """Cut short, or no safetensors file at all."""


class NotAMemoryError(MemoryFormatError):
    """A safetensors file without the metadata of a memory."""


class VersionError(MemoryFormatError):
    """A format version that this reader does not know."""


class DigestError(MemoryFormatError):
    """The bytes are not the ones that were written."""


class LimitError(MemoryFormatError):
    """Larger than the named limits."""


class MissingTensorError(MemoryFormatError):
    """A tensor is not there."""


class UnexpectedTensorError(MemoryFormatError):
    """A tensor that does not belong."""


class DtypeError(MemoryFormatError):
    """A tensor of the wrong type."""


class ShapeError(MemoryFormatError):
    """A tensor of the wrong shape."""


class ColumnsError(MemoryFormatError):
    """Columns out of range or not strictly increasing."""


class MaskError(MemoryFormatError):
    """A mask or key of another weight, or with bits beyond its width."""


class OwnerError(MemoryFormatError):
    """An owner that is no edit's row, or an edit without a key."""


class TileError(MemoryFormatError):
    """A mask of no tile, or whose tiles begin at another site's."""


class RouterError(MemoryFormatError):
    """Codes that no router of this version makes."""


class PermutationError(MemoryFormatError):
    """The permutation is not one."""


class NotFiniteError(MemoryFormatError):
    """NaN or infinity."""


class MetadataError(MemoryFormatError):
    """The JSON document is malformed."""


class DisagreementError(MemoryFormatError):
    """The JSON document contradicts the tensors or itself."""


class FeatureError(MemoryFormatError):
    """A routing feature that this version cannot form."""


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


ROUTERS = ("encoder",)
UNREACHABLE = 2.0  # no overlap reaches it: the threshold of a mask that codes route to


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


# --- Writing -------------------------------------------------------------------------------------


def to_bytes(memory: Memory) -> bytes:
    """The file's bytes; equal memories give equal bytes.

    The header is ours: the library writes metadata in a random order.

    Raises:
        MemoryFormatError: The memory is none that a reader would take.
    """
    validate(memory)
    metadata = {
        FORMAT_KEY: str(_format(memory)),
        DOCUMENT_KEY: _canonical(_document(memory)),
        DIGEST_KEY: _BLANK.decode(),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    tensors = _tensors(memory)
    # Larger elements first, as safetensors does: every tensor is aligned, without a hole.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        dtype, shape = _spec(tensors[name])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = _json(header).encode()
    text += b" " * (-len(text) % _PREFIX)
    _limit("a header of", len(text), MAX_HEADER_BYTES, "bytes")
    _limit("a file of", _PREFIX + len(text) + end, MAX_FILE_BYTES, "bytes")
    body = [tensors[name].tobytes() for name in order]
    prefix = len(text).to_bytes(_PREFIX, "little")
    stamp = b'"' + DIGEST_KEY.encode() + b'":"'  # not in the document: its quotes are escaped
    text = text.replace(stamp + _BLANK, stamp + _sha256(prefix, text, *body).encode())
    return b"".join((prefix, text, *body))


def write(
    memory: Memory, path: str | Path, announce: Callable[[str], None] = lambda digest: None
) -> Memory:
    """Write a memory so that a reader finds the old file or the new one, never a mixture.

    Args:
        memory: What to write.
        path: The file; a link stays, and the file that it leads to is written.
        announce: Told the digest that the file is about to have.

    Returns:
        The memory with the digest of its file.

    Raises:
        MemoryFormatError: The memory is none that a reader would take.
        InputError: The file cannot be written.
    """
    data = to_bytes(memory)
    digest = _sha256(data)
    announce(digest)
    try:
        files.write(Path(path), data)
    except OSError as error:
        raise InputError(f"cannot write memory {path}: {error.strerror}") from error
    return replace(memory, digest=digest)


def _format(memory: Memory) -> int:
    if memory.later:
        return SITED
    if memory.codes is None:
        return FORMAT
    return CODED if memory.tile is None else TILED


def _tensors(memory: Memory) -> dict[str, npt.NDArray[Any]]:
    found = {name: getattr(memory, name) for name in (*_SHARED, *_MASKS)} | {"tile": memory.tile}
    if memory.codes is not None:
        found = {name: found[name] for name in (*_SHARED, "tile")} | {"masks": memory.bank}
        found |= {name: getattr(memory.codes, name) for name in ("keys", "owner", "thresholds")}
    return {name: array for name, array in found.items() if array is not None}


def _document(memory: Memory) -> dict[str, Any]:
    edits = sorted(memory.edits, key=lambda entry: entry.row)
    further: dict[str, Any] = {"sites": list(memory.sites)} if memory.later else {}
    if memory.codes is not None:
        further |= {"router": memory.codes.router._asdict(), "texts": list(memory.codes.texts)}
    return (
        {name: getattr(memory, name) for name in _DOCUMENT}
        | further
        | {
            "base": _base_document(memory.base),
            "edits": [{n: v for n, v in e._asdict().items() if v is not None} for e in edits],
            "probes": [probe._asdict() for probe in memory.probes],
        }
    )


def _base_document(base: Base) -> dict[str, Any]:
    former = {"former": list(base.former)} if base.former else {}
    return {"model_id": base.model_id, "digest": base.digest} | former


def _json(document: object) -> str:
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def _canonical(document: object) -> str:
    """The document's one text; refuses what no other program could take."""
    _check_depth(document)
    try:
        text = _json(document)
        _limit("a document of", len(text.encode()), MAX_DOCUMENT_BYTES, "bytes")
    except (TypeError, ValueError) as error:  # UnicodeEncodeError of a lone surrogate is one
        raise MetadataError(f"the document is no JSON: {error}") from error
    return text


def _sha256(*parts: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# --- Reading -------------------------------------------------------------------------------------


def read(path: str | Path) -> Memory:
    """Read and check a memory file.

    Raises:
        InputError: The file cannot be read.
        MemoryFormatError: It is no valid memory; the subclass says why.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"cannot read memory {path}: not a file")
        _limit(f"{path}:", path.stat().st_size, MAX_FILE_BYTES, "bytes")
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
    stored, metadata, header = _open(data)
    _check_metadata(metadata)
    _check_digest(data, header, metadata[DIGEST_KEY])
    version = int(metadata[FORMAT_KEY])
    specs = {name: (t["dtype"], tuple(t["shape"])) for name, t in stored.items()}
    known = _of_format(version, specs)
    _check_specs(specs, known)
    document = _parse(metadata[DOCUMENT_KEY])
    coded, sited = known is not _PLAIN, version == SITED
    _check_document(document, coded=coded, sited=sited)
    arrays: dict[str, Any] = {
        name: np.frombuffer(t["data"], _DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in stored.items()
    }
    if coded:
        arrays |= _decoded(arrays, document)
    fields = {name: document[name] for name in _DOCUMENT if name not in ("D", "d")} | {
        "base": _base(**_only(Base._fields, document["base"])),
        "edits": tuple(Entry(**_only(Entry._fields, edit)) for edit in document["edits"]),
        "probes": tuple(Probe(**_only(Probe._fields, probe)) for probe in document["probes"]),
    }
    if sited:
        fields["later"] = tuple(document["sites"][1:])
    memory = Memory(**arrays, **fields, digest=_sha256(data))
    if (document["D"], document["d"]) != (memory.D, memory.d):
        raise DisagreementError(
            f"the document says D, d = {document['D']}, {document['d']}; "
            f"the tensors have {memory.D}, {memory.d}"
        )
    _check_content(memory)
    return memory


def _decoded(arrays: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """The fields of a memory with codes; takes the tensors that only such a file has."""
    codes = Codes(
        router=Router(**_only(Router._fields, document["router"])),
        keys=arrays.pop("keys"),
        owner=arrays.pop("owner"),
        thresholds=arrays.pop("thresholds"),
        texts=tuple(document["texts"]),
    )
    return {"codes": codes, **by_codes(arrays.pop("masks"))}


def by_codes(masks: Bytes) -> dict[str, Any]:
    """`bank`, `owner` and `thresholds` of a memory whose masks `[E, ceil(D/8)]` codes route to."""
    E = len(masks)
    return {
        "bank": masks,
        "owner": np.arange(E, dtype=np.int32),
        "thresholds": np.full(E, UNREACHABLE, np.float32),
    }


def _open(data: bytes) -> tuple[dict[str, Any], dict[str, str], bytes]:
    """Tensors by name (dtype, shape, data), metadata, and the header's own bytes."""
    _limit("a file of", len(data), MAX_FILE_BYTES, "bytes")
    length = int.from_bytes(data[:_PREFIX], "little")
    if len(data) < _PREFIX + length:
        raise NotSafetensorsError(f"{len(data)} bytes with a header of {length}", hint=_REMAKE)
    _limit("a header of", length, MAX_HEADER_BYTES, "bytes")
    header = data[_PREFIX : _PREFIX + length]
    try:
        stored = dict(deserialize(data))  # type: ignore[no-untyped-call, unused-ignore]
        metadata = json.loads(header, object_pairs_hook=unique).get("__metadata__") or {}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise NotSafetensorsError(f"no safetensors file: {error}", hint=_REMAKE) from error
    return stored, metadata, header


def _check_metadata(metadata: Mapping[str, str]) -> None:
    hint = "this looks like another safetensors file, such as a model's weights"
    if FORMAT_KEY not in metadata:
        raise NotAMemoryError(f"no memory: the metadata has no {FORMAT_KEY}", hint=hint)
    if metadata[FORMAT_KEY] not in map(str, FORMATS):
        raise VersionError(
            f"format version {metadata[FORMAT_KEY][:20]!r}, this reader knows "
            f"{' and '.join(map(str, FORMATS))}",
            hint="update memoir-edge, or make the memory again with this version",
        )
    for key in (DOCUMENT_KEY, DIGEST_KEY):
        if key not in metadata:
            raise NotAMemoryError(f"no memory: the metadata has no {key}", hint=hint)


def _check_digest(data: bytes, header: bytes, stated: str) -> None:
    """The whole file, the digest's own digits as zeros, must hash to the digest."""
    digits = stated.encode()
    if not _HEX.fullmatch(stated) or header.count(digits) != 1:
        raise DigestError(f"{DIGEST_KEY} is not 64 lower-case hex digits, once", hint=_REMAKE)
    rest = memoryview(data)[_PREFIX + len(header) :]
    found = _sha256(data[:_PREFIX], header.replace(digits, _BLANK), rest)
    if found != stated:
        raise DigestError(
            f"altered: the bytes hash to {found[:12]}…, the file says {stated[:12]}…", hint=_REMAKE
        )


def _parse(text: str) -> Any:
    _limit("a document of", len(text.encode()), MAX_DOCUMENT_BYTES, "bytes")
    try:
        document = json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise LimitError(f"the document is nested deeper than {MAX_JSON_DEPTH}") from error
    except ValueError as error:
        raise MetadataError(f"{DOCUMENT_KEY} is no JSON: {error}") from error
    _canonical(document)
    return document


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, from its keys and values.

    Raises:
        ValueError: A key stands twice, so that readers would differ in what it means.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return found


def _base(model_id: str, digest: str | None, former: Sequence[str] = ()) -> Base:
    return Base(model_id, digest, tuple(former))


def _only(names: Iterable[str], found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in names if name in found}


# --- Checks --------------------------------------------------------------------------------------

# numpy has no bfloat16: uint16 holds its bits, and no other tensor has that type.
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "|i1", "I32": "<i4", "U8": "|u1"}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
_Tensors = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
_SHARED: _Tensors = {
    "columns": (("I32",), ("C",)),
    "values": (("F32", "F16", "BF16", "I8"), ("C", "d")),
    "scales": (("F32",), ("C",)),
    "center": (("F32",), ("D",)),
    "scale": (("F32",), ("D",)),
    "permutation": (("I32",), ("D",)),
}
_MASKS: _Tensors = {
    "bank": (("U8",), ("R", "ceil(D/8)")),
    "owner": (("I32",), ("R",)),
    "thresholds": (("F32",), ("R",)),
}
_PLAIN = _SHARED | _MASKS
_CODED: _Tensors = _SHARED | {
    "masks": (("U8",), ("E", "ceil(D/8)")),
    "keys": (("U8",), ("R", "ceil(P/8)")),
    "owner": (("I32",), ("R",)),
    "thresholds": (("F32",), ("R",)),
}
_TILED = _CODED | {"tile": (("I32",), ("E",))}
_OF_FORMAT = {FORMAT: _PLAIN, CODED: _CODED, TILED: _TILED}


def _of_format(version: int, names: Collection[str]) -> _Tensors:
    """The tensors of a version; of format 4 those of the one that names say it is of."""
    if version == SITED:
        version = FORMAT if "bank" in names else TILED if "tile" in names else CODED
    return _OF_FORMAT[version]


# Their last dimensions are C, d, R, D and ceil(P/8), and the first one of masks is E.
_SIZING = ("columns", "values", "owner", "permutation", "keys")
_HEX = re.compile("[0-9a-f]{64}")
_Spec = tuple[str, tuple[int, ...]]
_Checks = dict[str, Callable[[Any], bool]]


def validate(memory: Memory) -> None:
    """Check a memory as a reader does.

    Raises:
        MemoryFormatError: The subclass says why.
    """
    coded = memory.codes is not None
    specs = {name: _spec(array) for name, array in _tensors(memory).items()}
    _check_specs(specs, _of_format(_format(memory), specs))
    document = _document(memory)
    _check_document(document, coded=coded, sited=bool(memory.later))
    _canonical(document)
    _check_content(memory)


def _spec(array: npt.NDArray[Any]) -> _Spec:
    return _CODES.get(array.dtype, str(array.dtype)), array.shape


def _limit(what: str, found: int, limit: int, unit: str = "") -> None:
    if found > limit:
        raise LimitError(f"{what} {found} {unit}".rstrip() + f", at most {limit} are read")


def _check_specs(specs: Mapping[str, _Spec], known: _Tensors) -> None:
    """Names, types and shapes of all tensors."""
    wanted = set(known)
    if "values" in specs and specs["values"][0] != "I8":
        wanted.remove("scales")
    if missing := sorted(wanted - set(specs)):
        raise MissingTensorError(f"no tensor {', '.join(missing)}", hint=_REMAKE)
    if unexpected := sorted(set(specs) - wanted):
        raise UnexpectedTensorError(f"tensor {', '.join(unexpected)[:80]} does not belong")
    sizes: dict[str, int] = {}
    for name, (code, shape) in specs.items():
        codes, letters = known[name]
        if code not in codes:
            raise DtypeError(f"{name} is {code}, expected {' or '.join(codes)}")
        if len(shape) != len(letters):
            raise ShapeError(f"{name} has {len(shape)} dimensions, expected {list(letters)}")
        if name in _SIZING:
            sizes[letters[-1]] = shape[-1]
        if name == "masks":
            sizes["E"] = shape[0]
    _limit("columns:", sizes["C"], MAX_COLUMNS)
    _limit("keys:", sizes["R"], MAX_KEYS)
    _limit("D is", sizes["D"], MAX_INPUT_WIDTH)
    _limit("d is", sizes["d"], MAX_OUTPUT_WIDTH)
    sizes["ceil(D/8)"] = -(-sizes["D"] // 8)
    for name, (_, shape) in specs.items():
        expected = tuple(sizes[letter] for letter in known[name][1])
        if shape != expected and not (name == "thresholds" and shape == (1,) and known is _PLAIN):
            raise ShapeError(f"{name} has shape {list(shape)}, expected {list(expected)}")
    if not sizes["D"] or not sizes["d"]:
        raise ShapeError(f"D, d = {sizes['D']}, {sizes['d']}, expected at least 1")


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in types


def _is_name(value: Any) -> bool:
    return type(value) is str and value != ""


def _is_digest(value: Any) -> bool:
    return value is None or (type(value) is str and _HEX.fullmatch(value) is not None)


_NONE = type(None)
_DOCUMENT: _Checks = {
    "site": _is_name,
    "feature": _is(str),
    "D": _is(int),
    "d": _is(int),
    "k": _is(int),
    "base": _is(dict),
    "edits": _is(list),
    "parent": _is_digest,
    "probes": _is(list),
    "created": _is(str),
    "tool": _is(str),
    "evaluation": _is(dict),
}
_ROUTER: _Checks = {
    "kind": _is_name,
    "digest": lambda value: type(value) is str and _HEX.fullmatch(value) is not None,
    "bits": _is(int),
    "weight": _is(int),
}
_BASE: _Checks = {
    "model_id": _is(str),
    "digest": _is_digest,
    "former": lambda value: type(value) is list and all(v and _is_digest(v) for v in value),
}
_EDIT: _Checks = {"id": _is_name, "row": _is(int), "record": _is(dict, _NONE)}
_CODES_SAY: _Checks = {
    "router": _is(dict),
    "texts": lambda value: type(value) is list and all(type(text) is str for text in value),
}
_SITES_SAY: _Checks = {
    "sites": lambda value: type(value) is list and len(value) > 1 and all(map(_is_name, value)),
}
_PROBE: _Checks = {"prompt": _is(str), "text": _is(str), "edit": _is(str, _NONE)}


def _check_document(document: Any, *, coded: bool, sited: bool) -> None:
    """Types and lengths in the document; keys it does not know are ignored."""
    further = (_CODES_SAY if coded else {}) | (_SITES_SAY if sited else {})
    _check_object(document, _DOCUMENT | further, "the document")
    if sited and (document["sites"][0] != document["site"] or _twice(document["sites"])):
        raise DisagreementError("sites begin with another than site, or name one twice")
    if coded:
        _check_object(document["router"], _ROUTER, "router")
    _check_object(document["base"], _BASE, "base", optional="former")
    _limit("edits:", len(document["edits"]), MAX_EDITS)
    for i, edit in enumerate(document["edits"]):
        _check_object(edit, _EDIT, f"edits[{i}]", optional="record")
    for i, probe in enumerate(document["probes"]):
        _check_object(probe, _PROBE, f"probes[{i}]")


def _twice(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


def _check_object(found: Any, checks: _Checks, where: str, optional: str = "") -> None:
    if type(found) is not dict:
        raise MetadataError(f"{where} is no JSON object")
    for name, good in checks.items():
        if name not in found:
            if name == optional:
                continue
            raise MetadataError(f"{where} has no {name}")
        if not good(found[name]):
            raise MetadataError(f"{where} has {name} = {repr(found[name])[:80]}")


def _check_depth(document: object) -> None:
    """Records and evaluations are handed on to JSON writers, so their nesting is bounded."""
    level, depth = [document], 0
    while level:
        depth += 1
        _limit("the document's nesting:", depth, MAX_JSON_DEPTH)
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]


def _check_content(memory: Memory) -> None:
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
        for name, array in _tensors(memory).items():
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
    _limit("tiles:", memory.tiles, MAX_TILES)


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
    _limit("P is", router.bits, MAX_CODE_BITS)
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
