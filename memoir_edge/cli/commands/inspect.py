"""`memoir-edge inspect`: what is in a memory file."""

from pathlib import Path
from typing import Any

import numpy as np

from memoir_edge import memory as memory_file
from memoir_edge import tophash
from memoir_edge.cli.output import Output, size
from memoir_edge.memory import Memory, Rows, rows


def command(file: Path, /, *, output: Output = Output()) -> int:  # noqa: B008 - frozen
    """Show a memory's site, sizes, edits, and how much the edits' masks overlap.

    Args:
        file: A memory file; it is checked in full.
    """
    memory = memory_file.read(file)
    held, nearest = rows(memory), nearest_edits(memory)
    document = {
        "file": str(file),
        "digest": memory.digest,
        "bytes": file.stat().st_size,
        "site": memory.site,
        "D": memory.D,
        "d": memory.d,
        "k": memory.k,
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
                "prompt": (entry.record or {}).get("prompt"),
                "target": (entry.record or {}).get("target"),
                "nearest": nearest[entry.id],
            }
            for entry in memory.edits
        ],
    }
    _show(memory, held, document, nearest, output)
    output.result(document)
    return 0


def _show(
    memory: Memory,
    held: Rows,
    document: dict[str, Any],
    nearest: dict[str, dict[str, object] | None],
    output: Output,
) -> None:
    facts = [(name, value) for name, value in document.items() if name not in ("edits", "base")]
    facts.insert(3, ("base", f"{memory.base.model_id} {memory.base.digest or ''}".strip()))
    shown = [(n, size(v) if n == "bytes" and isinstance(v, int) else v) for n, v in facts]
    output.table(
        "memory",
        ["", "value"],
        [[n, str(v) if v not in (None, "", {}) else None] for n, v in shown],
    )
    output.table(
        "edits",
        ["id", "prompt", "target", "keys", "threshold", "nearest edit"],
        [
            [
                entry.id,
                (entry.record or {}).get("prompt", "(withheld)"),
                (entry.record or {}).get("target", ""),
                len(held.of(entry)),
                float(held.thresholds[held.of(entry)[0]]),
                near["overlap"] if (near := nearest[entry.id]) else None,
            ]
            for entry in memory.edits
        ],
    )


def nearest_edits(memory: Memory) -> dict[str, dict[str, object] | None]:
    """For each edit the other edit whose own prompt is most like its own, and their overlap."""
    if len(memory.edits) < 2:
        return {entry.id: None for entry in memory.edits}
    held = rows(memory)
    own = held.packed[[held.of(entry)[0] for entry in memory.edits]]
    found: dict[str, dict[str, object] | None] = {}
    for i, entry in enumerate(memory.edits):  # a row at a time: N x N x D/8 bytes would be too many
        R = tophash.overlap(own[[i]], own, held.weight)[0]
        R[i] = -1
        best = int(np.argmax(R))
        found[entry.id] = {"id": memory.edits[best].id, "overlap": round(float(R[best]), 4)}
    return found
