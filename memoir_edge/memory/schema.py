"""What a file of each format holds: its tensors and its JSON document, by name and type."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memoir_edge.memory import limits
from memoir_edge.memory.memory import Base, Memory
from memoir_edge.memory.refusals import (
    REMAKE,
    DisagreementError,
    DtypeError,
    MetadataError,
    MissingTensorError,
    ShapeError,
    UnexpectedTensorError,
)

FORMAT = 1  # whose keys are the masks themselves: the graph routes by its own activations
CODED = 2  # whose keys are a router's codes
TILED = 3  # the same, with more than one tile of columns
SITED = 4  # any of these, at several sites
FORMATS = (FORMAT, CODED, TILED, SITED)

HEX = re.compile("[0-9a-f]{64}")

# --- Tensors -------------------------------------------------------------------------------------

# numpy has no bfloat16: uint16 holds its bits, and no other tensor has that type.
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "|i1", "I32": "<i4", "U8": "|u1"}
_CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
Tensors = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
_SHARED: Tensors = {
    "columns": (("I32",), ("C",)),
    "values": (("F32", "F16", "BF16", "I8"), ("C", "d")),
    "scales": (("F32",), ("C",)),
    "center": (("F32",), ("D",)),
    "scale": (("F32",), ("D",)),
    "permutation": (("I32",), ("D",)),
}
_MASKS: Tensors = {
    "bank": (("U8",), ("R", "ceil(D/8)")),
    "owner": (("I32",), ("R",)),
    "thresholds": (("F32",), ("R",)),
}
PLAIN = _SHARED | _MASKS
_CODED: Tensors = _SHARED | {
    "masks": (("U8",), ("E", "ceil(D/8)")),
    "keys": (("U8",), ("R", "ceil(P/8)")),
    "owner": (("I32",), ("R",)),
    "thresholds": (("F32",), ("R",)),
}
_TILED = _CODED | {"tile": (("I32",), ("E",))}
_OF_FORMAT = {FORMAT: PLAIN, CODED: _CODED, TILED: _TILED}

# Their last dimensions are C, d, R, D and ceil(P/8), and the first one of masks is E.
_SIZING = ("columns", "values", "owner", "permutation", "keys")
Spec = tuple[str, tuple[int, ...]]


def format_of(memory: Memory) -> int:
    """The earliest version that can hold a memory."""
    if memory.later:
        return SITED
    if memory.codes is None:
        return FORMAT
    return CODED if memory.tile is None else TILED


def tensors_of(memory: Memory) -> dict[str, npt.NDArray[Any]]:
    """A memory's tensors, by the names that they have in its file."""
    found = {name: getattr(memory, name) for name in (*_SHARED, *_MASKS)} | {"tile": memory.tile}
    if memory.codes is not None:
        found = {name: found[name] for name in (*_SHARED, "tile")} | {"masks": memory.bank}
        found |= {name: getattr(memory.codes, name) for name in ("keys", "owner", "thresholds")}
    return {name: array for name, array in found.items() if array is not None}


def of_format(version: int, names: Collection[str]) -> Tensors:
    """The tensors of a version; of format 4 those of the one that names say it is of."""
    if version == SITED:
        version = FORMAT if "bank" in names else TILED if "tile" in names else CODED
    return _OF_FORMAT[version]


def spec_of(array: npt.NDArray[Any]) -> Spec:
    """How a file calls an array's type, and its shape."""
    return _CODES.get(array.dtype, str(array.dtype)), array.shape


def check_specs(specs: Mapping[str, Spec], known: Tensors) -> None:
    """Names, types and shapes of all tensors."""
    wanted = set(known)
    if "values" in specs and specs["values"][0] != "I8":
        wanted.remove("scales")
    if missing := sorted(wanted - set(specs)):
        raise MissingTensorError(f"no tensor {', '.join(missing)}", hint=REMAKE)
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
    limits.check("columns:", sizes["C"], limits.MAX_COLUMNS)
    limits.check("keys:", sizes["R"], limits.MAX_KEYS)
    limits.check("D is", sizes["D"], limits.MAX_INPUT_WIDTH)
    limits.check("d is", sizes["d"], limits.MAX_OUTPUT_WIDTH)
    sizes["ceil(D/8)"] = -(-sizes["D"] // 8)
    for name, (_, shape) in specs.items():
        expected = tuple(sizes[letter] for letter in known[name][1])
        if shape != expected and not (name == "thresholds" and shape == (1,) and known is PLAIN):
            raise ShapeError(f"{name} has shape {list(shape)}, expected {list(expected)}")
    if not sizes["D"] or not sizes["d"]:
        raise ShapeError(f"D, d = {sizes['D']}, {sizes['d']}, expected at least 1")


# --- The document --------------------------------------------------------------------------------


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in types


def _is_name(value: Any) -> bool:
    return type(value) is str and value != ""


def _is_digest(value: Any) -> bool:
    return value is None or (type(value) is str and HEX.fullmatch(value) is not None)


_Checks = dict[str, Callable[[Any], bool]]
_NONE = type(None)
DOCUMENT: _Checks = {
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
    "digest": lambda value: type(value) is str and HEX.fullmatch(value) is not None,
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


def document_of(memory: Memory) -> dict[str, Any]:
    """What is said of a memory beside its tensors."""
    edits = sorted(memory.edits, key=lambda entry: entry.row)
    further: dict[str, Any] = {"sites": list(memory.sites)} if memory.later else {}
    if memory.codes is not None:
        further |= {"router": memory.codes.router._asdict(), "texts": list(memory.codes.texts)}
    return (
        {name: getattr(memory, name) for name in DOCUMENT}
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


def check_document(document: Any, *, coded: bool, sited: bool) -> None:
    """Types and lengths in the document; keys it does not know are ignored."""
    further = (_CODES_SAY if coded else {}) | (_SITES_SAY if sited else {})
    _check_object(document, DOCUMENT | further, "the document")
    if sited and (document["sites"][0] != document["site"] or _twice(document["sites"])):
        raise DisagreementError("sites begin with another than site, or name one twice")
    if coded:
        _check_object(document["router"], _ROUTER, "router")
    _check_object(document["base"], _BASE, "base", optional="former")
    limits.check("edits:", len(document["edits"]), limits.MAX_EDITS)
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
        limits.check("the document's nesting:", depth, limits.MAX_JSON_DEPTH)
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]


def to_json(document: object) -> str:
    """The same text for equal documents."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def canonical(document: object) -> str:
    """The document's one text; refuses what no other program could take."""
    _check_depth(document)
    try:
        text = to_json(document)
        limits.check("a document of", len(text.encode()), limits.MAX_DOCUMENT_BYTES, "bytes")
    except (TypeError, ValueError) as error:  # UnicodeEncodeError of a lone surrogate is one
        raise MetadataError(f"the document is no JSON: {error}") from error
    return text
