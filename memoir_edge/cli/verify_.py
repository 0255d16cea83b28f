"""`memoir-edge verify`: replay every edit of a memory on the exported graph."""

from pathlib import Path
from typing import NamedTuple

from memoir_edge.cli.output import Output
from memoir_edge.cli.runtime_ import open_session
from memoir_edge.memory import Memory

SLACK = 4  # tokens that an answer may run past its target
GROUP = 32  # edits asked together


class Case(NamedTuple):
    """What an edit's prompt must give."""

    id: str
    prompt: str
    target: str


def verify_(
    directory: Path,
    /,
    *,
    memory: Path,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Replay every edit on the exported graph; exit code 1 if one does not hold.

    An edit holds when its own prompt reaches it and the free answer is its target.

    Args:
        directory: An export directory.
        memory: The memory to verify.
    """
    session = open_session(directory, memory)
    loaded = session.generation.memory
    assert loaded is not None
    cases = _cases(loaded)
    rows: list[tuple[Case, str, str | None, float, bool]] = []
    with output.progress("verifying", len(cases)) as bar:
        for start in range(0, len(cases), GROUP):
            part = cases[start : start + GROUP]
            encode = session.language.tokenizer.encode
            room = max(len(encode(f" {case.target}")) for case in part) + SLACK
            results = session.generate([case.prompt for case in part], max_new_tokens=room)
            for case, result in zip(part, results, strict=True):
                text, fired = result.text.strip(), result.fired
                held = text == case.target and fired == case.id
                rows.append((case, text, fired, result.routing.overlap, held))
            bar.advance(len(part))
    failed = [case.id for case, *_, held in rows if not held]
    output.table(
        "edits",
        ["id", "prompt", "answer", "target", "fired", "overlap", "holds"],
        [
            [case.id, case.prompt, text, case.target, fired, overlap, "yes" if held else "no"]
            for case, text, fired, overlap, held in rows
        ],
    )
    withheld = len(loaded.edits) - len({case.id for case in cases})
    note = f"; {withheld} without a record could not be asked" if withheld else ""
    output.say(f"{len(rows) - len(failed)} of {len(rows)} edits hold{note}")
    output.result(
        {
            "memory": str(memory),
            "digest": loaded.digest,
            "checked": len(rows),
            "withheld": withheld,
            "failed": failed,
        }
    )
    return 1 if failed else 0


def _cases(memory: Memory) -> list[Case]:
    """Every edit that can be asked: by its record, or where that is withheld by its probes."""
    recorded = [
        Case(entry.id, str(entry.record["prompt"]), str(entry.record["target"]))
        for entry in memory.edits
        if entry.record and {"prompt", "target"} <= entry.record.keys()
    ]
    known = {case.id for case in recorded}
    probed = [
        Case(p.edit, p.prompt, p.text) for p in memory.probes if p.edit and p.edit not in known
    ]
    return recorded + probed
