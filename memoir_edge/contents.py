"""What is in a memory, as plain values: its edits with their keys, their neighbours, their bytes.

Knows nothing of how it is shown.
"""

import json
from typing import Any, NamedTuple

import numpy as np

from memoir_edge import tophash
from memoir_edge.memory import Entry, Memory

_TOGETHER = 64  # edits that are compared with all others at a time


def contents(memory: Memory) -> dict[str, Any]:
    """A memory as a JSON document; withheld records have neither prompt nor target."""
    held, nearest = memory.rows, nearest_edits(memory)
    return {
        "digest": memory.digest,
        "site": memory.site,
        "sites": list(memory.sites),
        "D": memory.D,
        "d": memory.d,
        "k": memory.k,
        "tiles": memory.tiles,
        "feature": memory.feature,
        "base": memory.base._asdict(),
        "columns": len(memory.columns),
        "router": memory.codes.router._asdict() if memory.codes else None,
        "keys": len(held.packed),
        "guards": int((held.owner < 0).sum()),
        "chance_overlap": held.weight / held.bits,
        "created": memory.created,
        "tool": memory.tool,
        "parent": memory.parent,
        "evaluation": memory.evaluation,
        "edits": [
            {
                "id": entry.id,
                "keys": len(held.of(entry)),
                "threshold": float(held.thresholds[held.of(entry)[0]]),
                "prompt": field(entry, "prompt"),
                "target": field(entry, "target"),
                "nearest": nearest[entry.id],
            }
            for entry in memory.edits
        ],
    }


def field(entry: Entry, name: str) -> Any:
    """A field of an edit's record; None where it is not there."""
    return (entry.record or {}).get(name)


def nearest_edits(memory: Memory) -> dict[str, dict[str, object] | None]:
    """For each edit the other edit whose own prompt is most like its own, and their overlap."""
    if len(memory.edits) < 2:
        return {entry.id: None for entry in memory.edits}
    held, edits = memory.rows, memory.edits
    own = held.packed[[held.of(entry)[0] for entry in edits]]
    best: list[tuple[int, float]] = []
    for begin in range(0, len(own), _TOGETHER):  # N x N overlaps would be too many
        R = tophash.overlap(own[begin : begin + _TOGETHER], own, held.weight)
        np.fill_diagonal(R[:, begin:], -1)  # an edit's with itself
        best += zip(R.argmax(axis=1).tolist(), R.max(axis=1).tolist(), strict=True)
    return {
        entry.id: {"id": edits[i].id, "overlap": round(overlap, 4)}
        for entry, (i, overlap) in zip(edits, best, strict=True)
    }


# --- Edits that came, went and changed -----------------------------------------------------------


class Change(NamedTuple):
    """What became of an edit from one memory to another."""

    what: str  # came, went or changed
    id: str
    prompt: str | None
    target: str | None
    bytes: int  # the edit's own
    was: str | None = None  # the target before, of an edit that changed


def changes(old: Memory, new: Memory) -> list[Change]:
    """The edits that came, went or changed, in this order."""
    was, now = ({entry.id: entry for entry in memory.edits} for memory in (old, new))
    common = [id for id in now if id in was]
    changed = [id for id in common if _other(old, was[id], new, now[id])]
    before, after = costs(old), costs(new)
    return [
        *(_change("came", now[id], after) for id in now if id not in was),
        *(_change("went", was[id], before) for id in was if id not in now),
        *(_change("changed", now[id], after, was[id]) for id in changed),
    ]


def _change(what: str, entry: Entry, cost: dict[str, int], before: Entry | None = None) -> Change:
    prompt, target = field(entry, "prompt"), field(entry, "target")
    was = field(before, "target") if before else None
    return Change(what, entry.id, prompt, target, cost[entry.id], was)


def _other(old: Memory, was: Entry, new: Memory, now: Entry) -> bool:
    """Whether an edit's record, keys or thresholds differ."""
    return was.record != now.record or _keys(old, was) != _keys(new, now)


def _keys(memory: Memory, entry: Entry) -> list[tuple[bytes, float]]:
    held = memory.rows
    return [(held.packed[row].tobytes(), float(held.thresholds[row])) for row in held.of(entry)]


def same_model(old: Memory, new: Memory) -> bool:
    """Whether two memories edit the same layers of the same model."""
    if (old.base.digest is None) != (new.base.digest is None):
        return False
    same = old.base.is_of(new.base.digest, new.base.former)
    return same and (old.sites, old.D, old.d) == (new.sites, new.D, new.d)


# --- Bytes ---------------------------------------------------------------------------------------


def costs(memory: Memory) -> dict[str, int]:
    """Own bytes of each edit: its keys, its record, and the columns that no other edit reads."""
    readers = np.zeros(memory.tiles * memory.D, np.int64)  # edits that read each column
    reads = {entry.id: memory.reads(entry.row) for entry in memory.edits}
    for columns in reads.values():
        readers[columns] += 1
    alone = np.zeros(len(readers), np.bool_)
    alone[memory.columns] = readers[memory.columns] == 1
    held, key, column = memory.rows, _per_key(memory), _per_column(memory)
    return {
        e.id: len(held.of(e)) * key + _document(e)
        + int(alone[reads[e.id]].sum()) * column
        for e in memory.edits
    }  # fmt: skip


def _per_key(memory: Memory) -> int:
    held = memory.rows
    return int(held.packed.shape[1] + held.owner.itemsize + held.thresholds.itemsize)


def _per_column(memory: Memory) -> int:
    scales = 0 if memory.scales is None else memory.scales.itemsize
    return int(memory.d * memory.values.itemsize + memory.columns.itemsize + scales)


def _document(entry: Entry) -> int:
    return len(json.dumps(entry._asdict(), ensure_ascii=False, separators=(",", ":")).encode())


def sizes(memory: Memory) -> dict[str, int]:
    """Bytes of a memory's parts; what several edits share is counted once."""
    return {
        "keys": len(memory.rows.packed) * _per_key(memory),
        "masks": memory.bank.nbytes if memory.codes else 0,
        "columns": len(memory.columns) * _per_column(memory),
        "records": sum(map(_document, memory.edits)),
    }
