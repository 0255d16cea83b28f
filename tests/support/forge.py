"""Memory files made by the specification, without the library and without our writer.

`forge` gives a file a digest that is right: what is refused is refused for its content.
"""

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

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
    to_bytes,
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
