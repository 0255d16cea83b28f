"""`memoir-edge diff`: which edits came, went and changed between two memory files."""

from collections import Counter
from pathlib import Path

from memoir_edge import memory as memory_file
from memoir_edge.cli.output import Output
from memoir_edge.contents import Change, changes, same_model, sizes


def command(a: Path, b: Path, /, *, output: Output = Output()) -> int:  # noqa: B008 - frozen
    """Show which edits came, went and changed from one memory file to another, and their bytes.

    An edit's own bytes are its keys, its record, and the columns that no other edit reads; columns
    that several read are counted once, as shared.

    Args:
        a: The memory before.
        b: The memory after.
    """
    old, new = memory_file.read(a), memory_file.read(b)
    listed = changes(old, new)
    counts = Counter(change.what for change in listed)
    bytes_of = {name: [sizes(memory)[name] for memory in (old, new)] for name in sizes(old)}
    bytes_of["file"] = [a.stat().st_size, b.stat().st_size]
    output.table(
        "edits",
        ["", "id", "prompt", "target", "own bytes"],
        [change[:5] for change in listed],
    )
    output.table(
        "bytes",
        ["", "before", "after", "change"],
        [[name, x, y, y - x] for name, (x, y) in bytes_of.items()],
    )
    same = len(new.edits) - counts["came"] - counts["changed"]
    kin = same_model(old, new)
    output.say(
        f"{counts['came']} came, {counts['went']} went, {counts['changed']} changed, "
        f"{same} are the same" + ("" if kin else "; the memories are of different models or layers")
    )
    document = {"before": old.digest, "after": new.digest, "same_model": kin}
    shown = [dict(zip(Change._fields[:5], change[:5], strict=True)) for change in listed]
    output.result(document | {"edits": shown, "same": same, "bytes": bytes_of})
    return 0
