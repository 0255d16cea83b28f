"""The way from a command to the records of a file that count: those that a memory may hold."""

from collections.abc import Sequence
from pathlib import Path

from memoir_edge.cli.output import Output
from memoir_edge.edits import Edit


def counting(wanted: Sequence[Edit], file: Path, output: Output) -> dict[str, Edit]:
    """The last edit of each prompt, in their order: trained after it, each would replace others."""
    last = {edit.prompt: edit for edit in wanted}
    for edit in wanted:
        if (other := last[edit.prompt]) is not edit:
            output.say(f"left out {edit.id}: {other.id} has its prompt too, later in {file}")
    return {edit.prompt: edit for edit in wanted if edit is last[edit.prompt]}
