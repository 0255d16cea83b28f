"""`memoir-edge inspect`: what is in a memory file."""

from pathlib import Path
from typing import Any

from memoir_edge import memory as memory_file
from memoir_edge.cli.output import Output, size
from memoir_edge.contents import contents
from memoir_edge.memory import Memory


def command(file: Path, /, *, output: Output = Output()) -> int:  # noqa: B008 - frozen
    """Show a memory's sites, sizes, edits, and how much the edits' masks overlap.

    Args:
        file: A memory file; it is checked in full.
    """
    memory = memory_file.read(file)
    document = {"file": str(file), "bytes": file.stat().st_size} | contents(memory)
    _show(memory, document, output)
    output.result(document)
    return 0


def _show(memory: Memory, document: dict[str, Any], output: Output) -> None:
    left_out = ("edits", "site")  # which is among the sites
    told = {
        "bytes": size(document["bytes"]),
        "sites": ", ".join(memory.sites),
        "base": f"{memory.base.model_id} {memory.base.digest or ''}".strip(),
    }
    shown = [(n, told.get(n, value)) for n, value in document.items() if n not in left_out]
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
                edit["id"],
                "(withheld)" if edit["prompt"] is None else edit["prompt"],
                edit["target"] or "",
                edit["keys"],
                edit["threshold"],
                edit["nearest"] and edit["nearest"]["overlap"],
            ]
            for edit in document["edits"]
        ],
    )
