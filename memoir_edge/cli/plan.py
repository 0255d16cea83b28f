"""What `memoir-edge apply` looks at before it trains, and what it says instead with --plan."""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from memoir_edge.cli.output import Output, size
from memoir_edge.edits import Edit, Problem
from memoir_edge.lint import Finding, doubtful, too_long

if TYPE_CHECKING:
    from memoir_edge.editor import Editor

LISTED = 30  # findings that a table shows
TRIED = 3  # edits that a plan times


def look_at(editor: "Editor", new: Sequence[Edit]) -> list[Finding]:
    """What is doubtful about the edits, beside what the memory holds."""
    from memoir_edge.editor import length

    fit = _fitting(editor, new)
    keys = editor.keys([edit.prompt for edit in fit])
    return [
        *too_long(new, [length(editor.base, edit) for edit in new], editor.base.context),
        *doubtful(fit, keys, editor.live.bank, editor.settings.threshold),
    ]


def _fitting(editor: "Editor", new: Sequence[Edit]) -> list[Edit]:
    from memoir_edge.editor import length

    return [edit for edit in new if length(editor.base, edit) <= editor.base.context]


def show_findings(findings: Sequence[Finding], output: Output) -> None:
    """A table of them, for people."""
    output.table(
        "look at these",
        ["what", "edit", "meets", "overlap", ""],
        [[f.kind, f.edit, f.other, f.overlap, f.note] for f in findings[:LISTED]],
    )
    if len(findings) > LISTED:
        output.say(f"... and {len(findings) - LISTED} more; --json lists all")


def plan_of(
    editor: "Editor",
    new: Sequence[Edit],
    findings: Sequence[Finding],
    problems: Sequence[Problem],
    output: Output,
) -> int:
    """Train a few edits into a memory that is thrown away, and say what all would take."""
    seconds, rank = [], [1]
    fit = _fitting(editor, new)
    tried = fit[:TRIED]
    with output.progress("trying", len(tried)) as bar:
        for edit in tried:
            start = time.monotonic()
            [change] = editor.edit([edit])
            seconds.append(time.monotonic() - start)
            rank.append(len(change.U))
            bar.advance()
    each = statistics.median(seconds) if seconds else 0.0
    d, D = editor.live.Wm.shape
    bank, keyed = editor.live.bank, editor.keyed(fit)
    masks = [*bank.arrays().bank, *editor.masks([edit.prompt for edit in fit])]
    columns = np.bitwise_count(np.bitwise_or.reduce(masks)).sum() if masks else 0
    records = [json.dumps(edit.record()) for edit in keyed]
    keys = len(bank.keys) + sum(1 + len(edit.keys) + len(edit.guards) for edit in keyed)
    rows = keys * -(-bank.bits // 8) + (len(masks) * -(-D // 8) if bank.router else 0)
    bytes_ = int(columns * d * 4 + rows + sum(map(len, records)) + 12 * D)
    grows = len(new) * max(rank) * (editor.settings.k + d) * 4
    document = {
        "edits": len(new),
        "findings": [asdict(finding) for finding in findings],
        "skipped_bad": [problem._asdict() for problem in problems],
        "seconds_per_edit": round(each, 3),
        "seconds": round(each * len(new), 1),
        "memory_bytes": bytes_,
        "journal_bytes": grows,
    }
    output.say(
        f"{len(new)} edits to train, about {each:.2f} s each, {each * len(new):.0f} s in all, and "
        f"the check of every edit; a memory of about {size(bytes_)}, a journal that grows by about "
        f"{size(grows)}. Nothing was written."
    )
    output.result(document)
    return 0
