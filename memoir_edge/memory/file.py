"""How a memory is written and read.

A file is untrusted input: everything is checked before use.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from memoir_edge import files
from memoir_edge.errors import InputError, MemoryFormatError
from memoir_edge.memory import limits, schema
from memoir_edge.memory.checks import check_content, validate
from memoir_edge.memory.memory import Base, Codes, Entry, Memory, Probe, Router, by_codes
from memoir_edge.memory.refusals import (
    REMAKE,
    DigestError,
    DisagreementError,
    LimitError,
    MetadataError,
    NotAMemoryError,
    NotSafetensorsError,
    VersionError,
)

FORMAT_KEY = "memoir_edge.format"
DOCUMENT_KEY = "memoir_edge.memory"
DIGEST_KEY = "memoir_edge.sha256"
_BLANK = b"0" * 64
_PREFIX = 8  # bytes that hold the header's length; the header is padded to a multiple, too


# --- Writing -------------------------------------------------------------------------------------


def to_bytes(memory: Memory) -> bytes:
    """The file's bytes; equal memories give equal bytes.

    The header is ours: the library writes metadata in a random order.

    Raises:
        MemoryFormatError: The memory is none that a reader would take.
    """
    validate(memory)
    metadata = {
        FORMAT_KEY: str(schema.format_of(memory)),
        DOCUMENT_KEY: schema.canonical(schema.document_of(memory)),
        DIGEST_KEY: _BLANK.decode(),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    tensors = schema.tensors_of(memory)
    # Larger elements first, as safetensors does: every tensor is aligned, without a hole.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        dtype, shape = schema.spec_of(tensors[name])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = schema.to_json(header).encode()
    text += b" " * (-len(text) % _PREFIX)
    limits.check("a header of", len(text), limits.MAX_HEADER_BYTES, "bytes")
    limits.check("a file of", _PREFIX + len(text) + end, limits.MAX_FILE_BYTES, "bytes")
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
        limits.check(f"{path}:", path.stat().st_size, limits.MAX_FILE_BYTES, "bytes")
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
    known = schema.of_format(version, specs)
    schema.check_specs(specs, known)
    document = _parse(metadata[DOCUMENT_KEY])
    coded, sited = known is not schema.PLAIN, version == schema.SITED
    schema.check_document(document, coded=coded, sited=sited)
    arrays: dict[str, Any] = {
        name: np.frombuffer(t["data"], schema.DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in stored.items()
    }
    if coded:
        arrays |= _decoded(arrays, document)
    fields = {name: document[name] for name in schema.DOCUMENT if name not in ("D", "d")} | {
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
    check_content(memory)
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


def _open(data: bytes) -> tuple[dict[str, Any], dict[str, str], bytes]:
    """Tensors by name (dtype, shape, data), metadata, and the header's own bytes."""
    limits.check("a file of", len(data), limits.MAX_FILE_BYTES, "bytes")
    length = int.from_bytes(data[:_PREFIX], "little")
    if len(data) < _PREFIX + length:
        raise NotSafetensorsError(f"{len(data)} bytes with a header of {length}", hint=REMAKE)
    limits.check("a header of", length, limits.MAX_HEADER_BYTES, "bytes")
    header = data[_PREFIX : _PREFIX + length]
    try:
        stored = dict(deserialize(data))  # type: ignore[no-untyped-call, unused-ignore]
        metadata = json.loads(header, object_pairs_hook=unique).get("__metadata__") or {}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise NotSafetensorsError(f"no safetensors file: {error}", hint=REMAKE) from error
    return stored, metadata, header


def _check_metadata(metadata: Mapping[str, str]) -> None:
    hint = "this looks like another safetensors file, such as a model's weights"
    if FORMAT_KEY not in metadata:
        raise NotAMemoryError(f"no memory: the metadata has no {FORMAT_KEY}", hint=hint)
    if metadata[FORMAT_KEY] not in map(str, schema.FORMATS):
        raise VersionError(
            f"format version {metadata[FORMAT_KEY][:20]!r}, this reader knows "
            f"{' and '.join(map(str, schema.FORMATS))}",
            hint="update memoir-edge, or make the memory again with this version",
        )
    for key in (DOCUMENT_KEY, DIGEST_KEY):
        if key not in metadata:
            raise NotAMemoryError(f"no memory: the metadata has no {key}", hint=hint)


def _check_digest(data: bytes, header: bytes, stated: str) -> None:
    """The whole file, the digest's own digits as zeros, must hash to the digest."""
    digits = stated.encode()
    if not schema.HEX.fullmatch(stated) or header.count(digits) != 1:
        raise DigestError(f"{DIGEST_KEY} is not 64 lower-case hex digits, once", hint=REMAKE)
    rest = memoryview(data)[_PREFIX + len(header) :]
    found = _sha256(data[:_PREFIX], header.replace(digits, _BLANK), rest)
    if found != stated:
        raise DigestError(
            f"altered: the bytes hash to {found[:12]}…, the file says {stated[:12]}…",
            hint=REMAKE,
        )


def _parse(text: str) -> Any:
    limits.check("a document of", len(text.encode()), limits.MAX_DOCUMENT_BYTES, "bytes")
    try:
        document = json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise LimitError(f"the document is nested deeper than {limits.MAX_JSON_DEPTH}") from error
    except ValueError as error:
        raise MetadataError(f"{DOCUMENT_KEY} is no JSON: {error}") from error
    schema.canonical(document)
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
