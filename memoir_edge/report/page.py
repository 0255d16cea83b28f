"""What a report says, as sections of tables and plots. Knows neither HTML nor Markdown."""

import functools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoir_edge.answers import Answer
from memoir_edge.contents import Change, changes, contents, costs, same_model, sizes
from memoir_edge.evaluate.metrics import HARD, OWN, REPHRASED, UNRELATED, Report, Said, wilson
from memoir_edge.memory import Memory
from memoir_edge.report.plots import Plot, overlaps, roc


@dataclass(frozen=True)
class Verdict:
    """A cell that says whether something holds."""

    text: str
    good: bool


Cell = str | int | float | Verdict | None
Row = Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """Rows of cells under their columns; without columns, names and values."""

    columns: Sequence[str]
    rows: Sequence[Row]

    @functools.cached_property
    def numeric(self) -> frozenset[int]:
        """Places of the columns that hold numbers and gaps alone; those stand at the right."""
        columns = zip(*self.rows, strict=True) if self.columns else ()
        return frozenset(i for i, cells in enumerate(columns) if _numeric(cells))


def _numeric(cells: Iterable[Cell]) -> bool:
    found = [cell for cell in cells if cell is not None]
    return bool(found) and all(isinstance(cell, int | float) for cell in found)


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    note: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str]]  # the few numbers to see first, and what each counts
    sections: Sequence[Section]


def page_of(
    memory: Memory,
    file: Path,
    report: Report | None = None,
    *,
    old: Memory | None = None,
    both: tuple[Sequence[Said], Sequence[Said]] | None = None,
) -> Page:
    """The report of a memory.

    Args:
        memory: What is reported.
        file: Its file, which the report names.
        report: What an evaluation found, if it was evaluated.
        old: The memory that it replaces.
        both: What the old and the new memory answered to the same prompts.
    """
    document = contents(memory)
    sections = [
        _bound(memory, document),
        _edits(memory, document, report),
        *([] if report is None else [*_measured(report), _misfires(report)]),
        *([] if old is None else [_compared(old, memory, both)]),
        _costs(memory, file),
        _verify(memory, file),
    ]
    lead = f"{len(memory.edits)} edits of {memory.base.model_id}"
    return Page(file.name, lead, _figures(memory, report), sections)


def _figures(memory: Memory, report: Report | None) -> list[tuple[str, str]]:
    count = len(memory.edits)
    if report is None:
        return [(str(count), "edits, not asked for this report")]
    held = report.edits - len(report.failed)
    found = [(f"{held} of {report.edits}", "edits answer as they should")]
    return found + [
        (f"{share:.1%}", name)
        for share, name in (
            (report.routing.recall, "of rephrasings reach their edit"),
            (report.routing.false_fires, "of hard negatives reach an edit"),
            (report.free.locality, "of unrelated answers are unchanged"),
        )
        if share is not None
    ]


def _bound(memory: Memory, document: Mapping[str, Any]) -> Section:
    router = memory.codes.router if memory.codes else None
    rows: list[Row] = [
        ("model", memory.base.model_id),
        ("model's digest", memory.base.digest),
        ("layer" if len(memory.sites) == 1 else "layers", ", ".join(memory.sites)),
        ("routed by", f"{router.kind} {router.digest}" if router else memory.feature),
        ("this memory's digest", memory.digest),
        ("made from", memory.parent),
        ("made", memory.created),
        ("by", memory.tool),
        ("keys", document["keys"]),
        ("guards", document["guards"]),
    ]
    kept = [(name, json.dumps(value)) for name, value in memory.evaluation.items()]
    return Section(
        "What it is bound to",
        "A server refuses the memory on any other model, layer or router.",
        [Table((), [row for row in [*rows, *kept] if row[1] not in (None, "")])],
    )


_ABOUT = ("source", "valid_from", "valid_to")  # shown where some edit has them


def _edits(memory: Memory, document: Mapping[str, Any], report: Report | None) -> Section:
    said = {one.edit: one for one in (report.said if report else ()) if one.kind == OWN}
    failed = set(report.failed) if report else set()
    records = {entry.id: entry.record or {} for entry in memory.edits}
    about = [name for name in _ABOUT if any(name in record for record in records.values())]
    columns = ["id", "prompt", "target", "keys", "threshold", "nearest edit"]
    asked = ["answer", "overlap", "holds"] if report else []
    rows = [
        [
            edit["id"],
            "(withheld)" if edit["prompt"] is None else edit["prompt"],
            edit["target"],
            edit["keys"],
            edit["threshold"],
            edit["nearest"] and edit["nearest"]["overlap"],
            *(_check(said.get(edit["id"]), edit["id"] not in failed) if report else ()),
            *(records[edit["id"]].get(name) for name in about),
        ]
        for edit in document["edits"]
    ]
    unknown = [_unknown(one, len(about)) for id, one in said.items() if id not in records]
    note = " Those without keys were asked, and are not in this memory." if unknown else ""
    return Section(
        "Edits",
        "A prompt reaches an edit when its overlap with one of the edit's keys reaches the "
        "threshold. The last of the figures is the overlap of the edit's own prompt with the "
        f"edit that is most like it.{note}",
        [Table([*columns, *asked, *(name.replace("_", " ") for name in about)], [*rows, *unknown])],
    )


def _unknown(said: Said, about: int) -> list[Cell]:
    """The row of an edit that was asked and that the memory does not hold."""
    gap: list[Cell] = [None]
    row = [said.edit, said.prompt, said.target, *gap * 3]
    return [*row, *_check(said, False), *gap * about]


def _check(said: Said | None, good: bool) -> list[Cell]:
    if said is None:
        return [None, None, None]
    verdict = Verdict("yes" if good else "no", good)
    return [said.answer.text.strip(), round(said.answer.overlap, 4), verdict]


def _measured(report: Report) -> list[Section]:
    free, forced, said = report.free, report.teacher_forced, report.said
    rows: list[Row] = [
        ["reliability", forced.reliability, free.reliability],
        ["generalization", forced.generalization, free.generalization],
        ["locality", forced.locality, free.locality],
        ["hard negatives changed", None, free.hard_negatives_changed],
    ]
    fired = {kind: [one.fired for one in said if one.kind == kind] for kind in (HARD, UNRELATED)}
    reached = [one.answer.edit == one.edit for one in said if one.kind == REPHRASED]
    reach: list[Row] = [
        ["rephrasings that reach their edit", *_share(reached)],
        ["hard negatives that reach any edit", *_share(fired[HARD])],
        ["unrelated prompts that reach any edit", *_share(fired[UNRELATED])],
    ]
    return [
        Section(
            "Answers",
            "Teacher forcing is how the literature measures; free generation is what users see.",
            [Table(["", "teacher-forced", "free generation"], rows)],
        ),
        Section(
            "Routing",
            "Hard negatives look like an edit's prompt and must not reach it.",
            [Table(["", "prompts", "share", "95 % interval"], reach)],
            [plot for plot in (overlaps(said), roc(said)) if plot is not None],
        ),
    ]


def _share(hits: Sequence[bool]) -> list[Cell]:
    low, high = wilson(sum(hits), len(hits))
    if low is None:
        return [0, None, None]
    return [len(hits), sum(hits) / len(hits), f"{low:.3f} to {high:.3f}"]


def _misfires(report: Report) -> Section:
    stray = [one for one in report.said if one.kind in (HARD, UNRELATED) and one.fired]
    columns = ["prompt", "edit", "key", "overlap", "answer", "base answer"]
    return Section(
        "Prompts that fire and should not",
        "" if stray else "None of the hard negatives and unrelated prompts reaches an edit.",
        [Table(columns, [_misfire(one, one.answer) for one in stray])] if stray else [],
    )


def _misfire(said: Said, answer: Answer) -> Row:
    overlap = round(answer.overlap, 4)
    return [said.prompt, answer.edit, answer.key, overlap, answer.text, said.base]


def _compared(
    old: Memory, new: Memory, both: tuple[Sequence[Said], Sequence[Said]] | None
) -> Section:
    listed = changes(old, new)
    note = f"Compared with the memory of digest {old.digest}."
    if not same_model(old, new):
        note += " The two are of different models or layers."
    rows: list[Row] = [[c.what, c.id, c.prompt, *_targets(c)] for c in listed]
    tables = [Table(["", "id", "prompt", "target before", "target"], rows)] if rows else []
    if both is not None:
        tables.append(
            Table(
                ["prompt", "before", "after", ""],
                [
                    [a.prompt, a.answer.text.strip(), b.answer.text.strip(), _moved(a, b)]
                    for a, b in zip(*both, strict=True)
                ],
            )
        )
    return Section("What changed", note if listed else f"{note} No edit differs.", tables)


def _targets(change: Change) -> tuple[str | None, str | None]:
    """Before and after: what went has none any more."""
    return (change.target, None) if change.what == "went" else (change.was, change.target)


def _moved(before: Said, after: Said) -> str:
    return "same" if before.answer.text == after.answer.text else "differs"


def _costs(memory: Memory, file: Path) -> Section:
    own = list(costs(memory).values())
    parts: list[Row] = [[name, count] for name, count in sizes(memory).items() if count]
    parts += [["file", file.stat().st_size]] if file.exists() else []
    if own:
        parts += [
            ["an edit's own, on average", sum(own) // len(own)],
            ["the largest edit's own", max(own)],
        ]
    return Section("Costs", "Bytes.", [Table(["", "bytes"], parts)])


def _verify(memory: Memory, file: Path) -> Section:
    name = shlex.quote(f"./{file.name}" if file.name.startswith("-") else file.name)
    return Section(
        "How to verify",
        f"The first command must print {memory.digest}. The second one asks for every edit on the "
        "exported model and exits with 1 if one does not hold.",
        commands=[f"sha256sum {name}", f"memoir-edge verify DIR --memory {name}"],
    )
