"""What `memoir-edge apply` looks at before it trains, and what it says instead with --plan."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memoir_edge.cli.output import Output, size
from memoir_edge.edits import Edit, Problem
from memoir_edge.lint import Finding

if TYPE_CHECKING:
    from memoir_edge.editor import Editor
    from memoir_edge.router import Asked
    from memoir_edge.router.reading import Reading

CODED = 64  # texts that a plan times the coding of
TRIED = 3  # edits that a plan times, after one that warms up


class Looked(NamedTuple):
    """What was seen of edits before any was trained."""

    findings: Sequence[Finding]
    warnings: Sequence[str]
    problems: Sequence[Problem]  # records that were left out

    def show(self, output: Output) -> None:
        """Say it for people, but for the problems, which were said when they were met."""
        output.listing(
            "look at these",
            ["what", "edit", "meets", "overlap", ""],
            [[f.kind, f.edit, f.other, f.overlap, f.note] for f in self.findings],
        )
        for warning in self.warnings:
            output.say(warning)

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "skipped_bad": [problem._asdict() for problem in self.problems],
            "findings": [asdict(finding) for finding in self.findings],
            "warnings": list(self.warnings),
        }


def plan_of(editor: "Editor", new: Sequence[Edit], looked: Looked, output: Output) -> int:
    """Train a few edits into a memory that is thrown away, and say what all would take."""
    from memoir_edge.editor import fitting, related
    from memoir_edge.editor.thresholds import GROWN

    fit = fitting(editor, new)
    asked = related(editor, fit)
    _show_asked(fit, asked, output)
    bytes_ = _memory_bytes(editor, fit, asked)
    measured = len(new) > GROWN * len(editor.edits)
    coding = _coding(editor, asked, measured=measured)  # before trying reads some of the texts
    took, rank = _tried(editor, spread(fit, TRIED + 1), output)
    took = took._replace(keys=coding if asked else took.keys * len(new))
    seconds = took.of(len(new), editor.settings.passes)
    grows = len(new) * rank * (editor.settings.k + editor.live.Wm.shape[0]) * 4
    document = {
        "edits": len(new),
        **looked.as_json(),
        "asked": [_read(edit, one) for edit, one in zip(fit, asked, strict=False)],
        "seconds_per_edit": round(seconds / max(len(new), 1), 3),
        "seconds": round(seconds, 1),
        "seconds_per_check": round(took.check * len(new), 1),
        "memory_bytes": bytes_,
        "journal_bytes": grows,
    }
    output.say(
        f"{len(new)} edits to train and to check, about {seconds:.0f} s in all, and about "
        f"{took.check * len(new):.0f} s for each round of repairs; a memory of about "
        f"{size(bytes_)}, a journal that grows by about {size(grows)}. Nothing was written."
    )
    output.result(document)
    return 0


def _read(edit: Edit, asked: "Asked") -> dict[str, object]:
    made = {"keys": len(asked.keys), "guards": len(asked.guards)}
    return {"id": edit.id, "prompt": edit.prompt, **taken_for(asked.reading), **made}


def taken_for(reading: "Reading | None") -> dict[str, str | None]:
    """How a prompt was read, for whoever may have to say it better in the record."""
    if reading is None:
        return dict.fromkeys(("subject", "kind", "relation"))
    relation = reading.relation.id if reading.relation else None
    return {"subject": reading.subject, "kind": reading.kinds[0], "relation": relation}


def _show_asked(fit: Sequence[Edit], asked: "Sequence[Asked]", output: Output) -> None:
    rows = [list(_read(edit, one).values()) for edit, one in zip(fit, asked, strict=False)]
    columns = ["id", "prompt", "subject", "of kind", "relation", "keys", "guards"]
    output.listing("how each edit is read", columns, rows)
    if rows:
        output.say('a subject that is read wrongly is set right by "subject" in the record')


def _memory_bytes(editor: "Editor", fit: Sequence[Edit], asked: "Sequence[Asked]") -> int:
    """About the size of the memory with these edits."""
    d, D = len(editor.live.Wm), editor.live.D
    bank, keyed = editor.live.bank, editor.keyed(fit)
    held, masks = bank.arrays(), editor.masks([edit.prompt for edit in fit])
    tiles = np.array([*(held.owner * 0 if held.tile is None else held.tile), *editor.tiles(masks)])
    masks = [*held.bank, *masks]
    columns = sum(
        np.bitwise_count(np.bitwise_or.reduce([masks[i] for i in np.flatnonzero(tiles == t)])).sum()
        for t in set(tiles)
    )
    texts = [json.dumps(edit.record()) for edit in keyed]
    texts += [text for one in asked for text in (*one.keys, *(g.text for g in one.guards))]
    made = [len(one.keys) + len(one.guards) for one in asked]
    made = made or [1 + len(edit.keys) + len(edit.guards) for edit in keyed]
    rows = (len(bank.keys) + sum(made)) * -(-bank.bits // 8)
    rows += len(masks) * -(-D // 8) if bank.router else 0
    columns *= editor.live.sites
    return int(columns * d * 4 + rows + sum(map(len, texts)) + 12 * D)


class Took(NamedTuple):
    """Seconds an edit, part by part, and seconds once."""

    before: float = 0.0  # the base model asked
    edit: float = 0.0
    again: float = 0.0
    check: float = 0.0
    keys: float = 0.0  # once

    def of(self, count: int, passes: int) -> float:
        """Seconds that a run of so many edits takes, without repairs.

        >>> Took(before=1, edit=4, again=2, check=1, keys=5).of(10, passes=2)
        85.0
        """
        each = self.before + self.edit + (passes - 1) * self.again + self.check
        return float(each * count + self.keys)


def spread(edits: Sequence[Edit], count: int) -> list[Edit]:
    """So many edits from all parts of a file: a file may be sorted."""
    step = max(len(edits) / count, 1)
    return [edits[int(i * step)] for i in range(min(count, len(edits)))]


def _tried(editor: "Editor", edits: Sequence[Edit], output: Output) -> tuple[Took, int]:
    """What some edits take once what is done first has warmed up, and the largest rank."""
    if not edits:
        return Took(), 1
    keyed, ranks, times = editor.keyed(edits), [], []
    with output.progress("trying", len(edits)) as bar:
        for edit in keyed:
            start = time.monotonic()
            [change] = editor.edit([edit])
            times.append(time.monotonic() - start)
            ranks.append(len(change.U))
            bar.advance()
    held = editor.live.bank.records
    kept = [edit for edit in keyed if edit.id in held]  # none that a later one's prompt replaced
    passes = editor.settings.passes > 1
    return Took(
        before=_seconds(lambda: editor.answers(edits, memory=False)) / len(edits),
        edit=statistics.mean(times[1:] or times),  # the first one warms up
        keys=_seconds(editor.calibrate) / len(edits),
        again=_seconds(lambda: [editor.again(edit) for edit in kept]) / len(kept) if passes else 0,
        check=_seconds(lambda: editor.check(kept)) / len(kept),
    ), max(ranks)


def _coding(editor: "Editor", asked: "Sequence[Asked]", *, measured: bool) -> float:
    """Seconds until every key, guard and, where thresholds are measured, near miss has its code."""
    if not asked:
        return 0.0
    texts = [miss.text for one in asked for miss in one.misses] if measured else []
    more = sum(len(one.keys) + len(one.guards) for one in asked)
    some = texts[:: max(len(texts) // CODED, 1)] or [text for one in asked for text in one.keys]
    return _seconds(lambda: editor.keys(some)) / len(some) * (len(texts) + more)


def _seconds(act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start
