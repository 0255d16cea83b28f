"""The paper's table: a dataset's edits, made 1, 10, 100 and 1,000 into a memory, and all asked.

Every memory is a job with files of its own in one folder: the memory with its journal, and its
report once everything was asked. So an interrupted evaluation goes on where it was.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from memoir_edge.editor import BaseModel, Settings, Watch, journaled
from memoir_edge.edits import Edit, read
from memoir_edge.errors import InputError
from memoir_edge.evaluate.metrics import OnProgress, evaluate

# What a dataset's records must bring to be measured: the paper's locality, or the hard kind.
NEEDS = {"zsre": ("rephrase", "locality"), "counterfact": ("rephrase", "hard_negatives")}
SIZES = (1, 10, 100, 1000)
TOGETHER = 100  # small memories are made of other edits again, until so many were made,
MOST = 10  # or so many memories: one edit alone says little


class Job(NamedTuple):
    """One memory to make and to measure."""

    name: str
    edits: Sequence[Edit]


def edits_of(dataset: str, path: Path) -> list[Edit]:
    """The edits of a dataset's file that can be measured, the first of each prompt.

    Raises:
        InputError: The dataset is unknown, or the file has no such records.
    """
    if dataset not in NEEDS:
        raise InputError(f"unknown dataset {dataset!r}; known: {', '.join(NEEDS)}")
    found, _ = read(path, skip_bad=True)
    needed = NEEDS[dataset]
    usable = [edit for edit in found if all(getattr(edit, name) for name in needed)]
    if not usable:
        raise InputError(
            f"none of the {len(found)} records of {path} has {' and '.join(needed)}",
            hint=f"is it {dataset}? known: {', '.join(NEEDS)}",
        )
    return list({edit.prompt: edit for edit in reversed(usable)}.values())[::-1]


def jobs(dataset: str, edits: Sequence[Edit], sizes: Sequence[int]) -> dict[int, list[Job]]:
    """The memories of each size, each of the next edits in the file's order.

    Raises:
        InputError: There are not as many edits.
    """
    if max(sizes) > len(edits):
        raise InputError(
            f"{max(sizes)} edits are wanted of {len(edits)} that can be measured",
            hint="give smaller --sizes",
        )
    found = {}
    for size in sizes:
        count = min(MOST, max(TOGETHER // size, 1), len(edits) // size)
        parts = [edits[i * size : (i + 1) * size] for i in range(count)]
        found[size] = [Job(f"{dataset}-{size}-{i}", part) for i, part in enumerate(parts)]
    return found


def claim(folder: Path, base: BaseModel, settings: Settings, edits: Sequence[Edit]) -> None:
    """Make the folder this evaluation's, or see that it is.

    Raises:
        InputError: It is of another model, other settings or other edits.
    """
    records = json.dumps([edit.full_record() for edit in edits], sort_keys=True)
    about = {
        "base": base.digest,
        "settings": asdict(settings),
        "edits": hashlib.sha256(records.encode()).hexdigest(),
    }
    path = folder / "evaluation.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(json.dumps(about, indent=1), encoding="utf-8")
        return
    other = json.loads(path.read_text(encoding="utf-8"))
    if unlike := [name for name in about if other.get(name) != about[name]]:
        raise InputError(
            f"{folder} holds an evaluation with other {' and '.join(unlike)}",
            hint="give the same arguments to go on with it, or another --out",
        )


def measured(
    job: Job,
    base: BaseModel,
    settings: Settings,
    folder: Path,
    *,
    watch: Watch,
    on_asked: OnProgress,
    max_new_tokens: int,
) -> dict[str, Any]:
    """One job's report, from its file or by making its memory and asking everything."""
    done = folder / f"{job.name}.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return found
    memory = folder / f"{job.name}.safetensors"
    with journaled(base, settings, memory) as editor:
        held = editor.live.bank.records
        editor.apply([edit for edit in job.edits if edit.id not in held], watch)
        editor.journal.write(memory)
        report = evaluate(
            editor.model, job.edits, max_new_tokens=max_new_tokens, on_progress=on_asked
        )
    partial = done.with_suffix(".tmp")
    partial.write_text(json.dumps(report.as_json()), encoding="utf-8")
    partial.replace(done)
    return report.as_json()


def mean(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The reports of memories of one size as one: the mean of each share that any of them has."""
    first = reports[0]
    return {
        group: {name: _mean([report[group][name] for report in reports]) for name in first[group]}
        for group in ("teacher_forced", "free", "routing")
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
