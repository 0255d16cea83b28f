"""What was done to one edit of a memory, in order, as plain values.

Knows nothing of what an edit is or who asks.
"""

import math
from typing import Any

from memoir_edge.history.events import Again, Audit, Together, Written
from memoir_edge.history.frames import Frame
from memoir_edge.history.journal import Journal


def past(journal: Journal, edit: str, digest: str) -> list[dict[str, Any]]:
    """What was done to an edit up to the memory of a digest; what was undone since is left out.

    Args:
        journal: The memory's.
        edit: Its id.
        digest: SHA-256 of the memory file.

    Returns:
        Of each step its number, its time (ISO 8601, UTC) and what was done: `made` and `again` with
        `loss` (nats a target token) and `steps`; `audit` with `held`, `asked` (by sort of text, how
        many and how many of them held) and `wrong` (the texts that did not); `written` with the
        memory's `digest`. Nothing of an edit that the journal began with, until it is asked for.

    Raises:
        JournalError: It is no journal of that memory, or a frame is malformed.
    """
    found: list[dict[str, Any]] = []
    for frame in journal.way_to(journal.place_of(digest)):
        with journal.reading(frame):
            told = _told(frame, edit)
        if told is not None and (found or frame.kind != Written.kind):
            found.append({"step": frame.number, "at": str(frame.at), "what": frame.kind, **told})
    return found


def _told(frame: Frame, edit: str) -> dict[str, Any] | None:
    data = frame.data
    if frame.kind == Together.kind:
        return next((_trained(item) for item in data["edits"] if item["id"] == edit), None)
    if frame.kind == Again.kind:
        return _trained(data) if data["edit"] == edit else None
    if frame.kind == Audit.kind:
        return _asked(Audit.of(data, {}), edit)
    return {"digest": str(data["digest"])} if frame.kind == Written.kind else None


def _trained(numbers: dict[str, Any]) -> dict[str, Any]:
    loss = float(numbers["loss"])
    if not math.isfinite(loss):
        raise ValueError(f"a loss of {loss}")
    return {"loss": loss, "steps": int(numbers["steps"])}


def _asked(audit: Audit, edit: str) -> dict[str, Any] | None:
    """Earlier versions kept no tally, and said only which edits fail."""
    if audit.tally and edit not in audit.tally:
        return None
    return {
        "held": edit not in audit.failed,
        "asked": audit.tally.get(edit, {}),
        "wrong": [one._asdict() for one in audit.wrong if one.edit == edit],
    }
