"""How often each edit answered or nearly did, since the server started.

Knows nothing of HTTP or of what edits say. Counts are kept by a memory's name and an edit's id, so
they go on when a memory of that name is replaced, and end when it is unloaded.
"""

import time
from collections import defaultdict
from dataclasses import dataclass

from memoir_edge_runtime._results import Routing

NEAR = 0.9  # an overlap of at least this share of the threshold that did not fire is a near miss


@dataclass
class Used:
    """What one edit was used for; times are Unix seconds."""

    fires: int = 0
    last_fired: int | None = None
    near_misses: int = 0
    last_near_miss: int | None = None


def near_miss(routing: Routing) -> str | None:
    """The edit that an answer nearly came from."""
    if routing.edit is not None or routing.threshold is None:
        return None
    return routing.candidate if routing.overlap >= NEAR * routing.threshold else None


class Usage:
    """Counts of all edits that were reached, or nearly."""

    def __init__(self) -> None:
        self._of: defaultdict[str, dict[str, Used]] = defaultdict(dict)

    def note(self, memory: str, routing: Routing) -> None:
        """Count one answer."""
        near, now = near_miss(routing), int(time.time())
        if routing.edit is not None:
            used = self._of[memory].setdefault(routing.edit, Used())
            used.fires, used.last_fired = used.fires + 1, now
        elif near is not None:
            used = self._of[memory].setdefault(near, Used())
            used.near_misses, used.last_near_miss = used.near_misses + 1, now

    def of(self, memory: str, edit: str) -> Used:
        """What an edit of a memory was used for."""
        return self._of.get(memory, {}).get(edit, Used())

    def forget(self, memory: str) -> None:
        """Begin anew: the memory is not loaded any more."""
        self._of.pop(memory, None)
