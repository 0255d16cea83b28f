"""`memoir-edge rollback`: a memory as it was."""

import itertools
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

from memoir_edge.cli.journals import opened
from memoir_edge.cli.output import Output
from memoir_edge.errors import InputError
from memoir_edge.history import Frame, RolledBack


def command(
    file: Path,
    /,
    *,
    to: str | None = None,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Bring a memory back to how it was after a step of its journal, byte for byte.

    The journal forgets nothing: a rollback is one more step, and can be taken back like any other.
    Without --to, the steps are listed and nothing is done.

    Args:
        file: A memory file with its journal beside it.
        to: The number of a step, or a date or time (ISO 8601, UTC unless it says): the last step
            up to it. A date means the end of that day.
    """
    with opened(file, output, write=to is not None) as journal:
        if to is None:
            steps = [_listed(list(group)) for _, group in itertools.groupby(journal.frames, _kind)]
            output.table("steps", ["step", "time", "what"], [list(s.values()) for s in steps])
            output.result({"memory": str(file), "steps": steps})
            return 0
        number = _number(to, journal.frames)
        journal.record(RolledBack(number))
        made = journal.write(file)
        step = journal.frames[number]
    output.say(
        f"{file} is as it was after step {number} ({step.at}): {len(made.edits)} edits, "
        f"sha256 {made.digest}"
    )
    output.result(
        {"memory": str(file), "to": number, "edits": len(made.edits), "digest": made.digest}
    )
    return 0


def _kind(frame: Frame) -> Any:
    return frame.kind if frame.kind in ("made", "again") else frame.number


def _listed(group: list[Frame]) -> dict[str, str]:
    first, last = group[0], group[-1]
    steps = str(first.number) if first is last else f"{first.number}-{last.number}"
    return {"step": steps, "time": last.at, "what": _WHAT[first.kind](group)}


def _edits(ids: list[str], what: str) -> str:
    return f"{what} {', '.join(ids)}" if len(ids) <= 3 else f"{what} {len(ids)} edits"


_WHAT: dict[str, Any] = {
    "begin": lambda group: "began",
    "made": lambda group: _edits([e["id"] for f in group for e in f.data["edits"]], "made"),
    "again": lambda group: _edits([f.data["edit"] for f in group], "trained again"),
    "audit": lambda group: "asked what may have changed of {checked} edits: {n} do not hold".format(
        **group[0].data, n=len(group[0].data["failed"])
    ),
    "thresholds": lambda group: "gave each key its threshold",
    "keys": lambda group: _edits(group[0].data["edits"], "made keys and guards of"),
    "written": lambda group: "wrote memory {}{}".format(
        group[0].data["digest"][:12], "" if group[0].data["finished"] else " (interrupted)"
    ),
    "deleted": lambda group: _edits(group[0].data["edits"], "deleted"),
    "rollback": lambda group: f"went back to step {group[0].data['to']}",
}


def _number(to: str, frames: list[Frame]) -> int:
    if to.isdecimal():
        return int(to)
    try:
        when = datetime.fromisoformat(to)
    except ValueError as error:
        raise InputError(
            f"--to is {to!r}, expected the number of a step or a date",
            hint="memoir-edge rollback FILE lists the steps",
        ) from error
    if len(to) <= len("2026-01-31"):
        when = datetime.combine(when, time.max)
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    before = [f.number for f in frames if datetime.fromisoformat(f.at) <= when]
    if not before:
        raise InputError(f"the journal begins at {frames[0].at}, after {to}")
    return before[-1]
