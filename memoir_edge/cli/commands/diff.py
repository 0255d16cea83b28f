"""`memoir-edge diff`: which edits came, went and changed between two memory files."""

import json
from pathlib import Path

import numpy as np

from memoir_edge import memory as memory_file
from memoir_edge.cli.output import Output
from memoir_edge.memory import Entry, Memory, rows
from memoir_edge.tophash import unpack


def command(a: Path, b: Path, /, *, output: Output = Output()) -> int:  # noqa: B008 - frozen
    """Show which edits came, went and changed from one memory file to another, and their bytes.

    An edit's own bytes are its keys, its record, and the columns that no other edit reads; columns
    that several read are counted once, as shared.

    Args:
        a: The memory before.
        b: The memory after.
    """
    old, new = memory_file.read(a), memory_file.read(b)
    was, now = ({entry.id: entry for entry in memory.edits} for memory in (old, new))
    cost = {"came": _costs(new), "changed": _costs(new), "went": _costs(old)}
    changed = [id for id in now if id in was and _other(old, was[id], new, now[id])]
    groups = {
        "came": [now[id] for id in now if id not in was],
        "went": [was[id] for id in was if id not in now],
        "changed": [now[id] for id in changed],
    }
    listed = [
        {"what": what, "id": e.id, "prompt": _field(e, "prompt"), "target": _field(e, "target"),
         "bytes": cost[what][e.id]}
        for what, entries in groups.items() for e in entries
    ]  # fmt: skip
    sizes = {name: [_size(memory)[name] for memory in (old, new)] for name in _size(old)}
    sizes["file"] = [a.stat().st_size, b.stat().st_size]
    output.table(
        "edits", ["", "id", "prompt", "target", "own bytes"], [list(r.values()) for r in listed]
    )
    output.table(
        "bytes",
        ["", "before", "after", "change"],
        [[name, x, y, y - x] for name, (x, y) in sizes.items()],
    )
    same = len(now) - len(groups["came"]) - len(changed)
    output.say(
        f"{len(groups['came'])} came, {len(groups['went'])} went, {len(changed)} changed, "
        f"{same} are the same" + ("" if _kin(old, new) else "; the memories are of other models")
    )
    document = {"before": old.digest, "after": new.digest, "same_model": _kin(old, new)}
    output.result(document | {"edits": listed, "same": same, "bytes": sizes})
    return 0


def _kin(old: Memory, new: Memory) -> bool:
    if (old.base.digest is None) != (new.base.digest is None):
        return False
    same = old.base.is_of(new.base.digest, new.base.former)
    return same and (old.site, old.D, old.d) == (new.site, new.D, new.d)


def _field(entry: Entry, name: str) -> str | None:
    return (entry.record or {}).get(name)


def _other(old: Memory, was: Entry, new: Memory, now: Entry) -> bool:
    """Whether an edit's record, keys or thresholds differ."""
    return was.record != now.record or _keys(old, was) != _keys(new, now)


def _keys(memory: Memory, entry: Entry) -> list[tuple[bytes, float]]:
    held = rows(memory)
    return [(held.packed[row].tobytes(), float(held.thresholds[row])) for row in held.of(entry)]


def _costs(memory: Memory) -> dict[str, int]:
    """Own bytes of each edit."""
    readers = np.zeros(memory.D, np.int64)  # edits that read each column
    reads = {}
    for entry in memory.edits:
        reads[entry.id] = unpack(memory.bank[entry.row], memory.D)
        readers += reads[entry.id]
    alone = np.zeros(memory.D, np.bool_)
    alone[memory.columns] = readers[memory.columns] == 1
    held, key, column = rows(memory), _per_key(memory), _per_column(memory)
    return {
        e.id: len(held.of(e)) * key + _document(e)
        + int((reads[e.id] & alone).sum()) * column
        for e in memory.edits
    }  # fmt: skip


def _per_key(memory: Memory) -> int:
    held = rows(memory)
    return int(held.packed.shape[1] + held.owner.itemsize + held.thresholds.itemsize)


def _per_column(memory: Memory) -> int:
    scales = 0 if memory.scales is None else memory.scales.itemsize
    return int(memory.d * memory.values.itemsize + memory.columns.itemsize + scales)


def _document(entry: Entry) -> int:
    return len(json.dumps(entry._asdict(), ensure_ascii=False, separators=(",", ":")).encode())


def _size(memory: Memory) -> dict[str, int]:
    return {
        "keys": len(rows(memory).packed) * _per_key(memory),
        "masks": memory.bank.nbytes if memory.codes else 0,
        "columns": len(memory.columns) * _per_column(memory),
        "records": sum(map(_document, memory.edits)),
    }
