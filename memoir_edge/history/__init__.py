"""What was done to a memory, in order; a memory is compiled from it.

frames (bytes) <- events (what was done) <- state (what it amounts to) <- journal (the file)

Knows nothing of models; needs numpy alone. The specification is docs/journal.md.
"""

from memoir_edge.history.bank import Bank
from memoir_edge.history.events import (
    Again,
    Audit,
    Calibrated,
    Change,
    Deleted,
    Event,
    Made,
    RolledBack,
    Tabled,
    Together,
    Written,
    Wrong,
)
from memoir_edge.history.frames import Frame, JournalError
from memoir_edge.history.journal import Journal, begin, load, path_of
from memoir_edge.history.past import past
from memoir_edge.history.state import Ask, State, Step, Train, next_step

__all__ = [
    "Again",
    "Ask",
    "Audit",
    "Bank",
    "Calibrated",
    "Change",
    "Deleted",
    "Event",
    "Frame",
    "Journal",
    "JournalError",
    "Made",
    "RolledBack",
    "State",
    "Step",
    "Tabled",
    "Together",
    "Train",
    "Written",
    "Wrong",
    "begin",
    "load",
    "next_step",
    "past",
    "path_of",
]
