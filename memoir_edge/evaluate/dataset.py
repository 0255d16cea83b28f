"""The paper's table: a dataset's edits, made 1, 10, 100 and 1,000 into a memory, and all asked.

Every memory is a job with files of its own in one folder: the memory with its journal, and its
report once everything was asked. So an interrupted evaluation goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from memoir_edge.base import read_json
from memoir_edge.editor import BaseModel, Editor, Settings, Watch, nothing
from memoir_edge.edits import Edit, read
from memoir_edge.errors import InputError
from memoir_edge.evaluate.metrics import OnProgress, evaluate, share
from memoir_edge.history import begin, load, path_of
from memoir_edge.relations import Relation
from memoir_edge.router import Router

# What a dataset's records must bring to be measured: the paper's locality, or the hard kind.
NEEDS = {"zsre": ("rephrase", "locality"), "counterfact": ("rephrase", "hard_negatives")}
SIZES = (1, 10, 100, 1000)
TOGETHER = 100  # small memories are made of other edits again, until so many were made,
MOST = 10  # or so many memories: one edit alone says little
TOKENS = 16  # most of a free answer; a report of others says so in its name


class Job(NamedTuple):
    """One memory to make and to measure."""

    name: str
    edits: Sequence[Edit]


def edits_of(dataset: str, path: Path) -> tuple[list[Edit], int]:
    """The edits of a dataset's file that can be measured, the first of each prompt.

    Returns:
        The edits, and how many records the file has in all.

    Raises:
        InputError: The dataset is unknown, or the file has no such records.
    """
    if dataset not in NEEDS:
        raise InputError(f"unknown dataset {dataset!r}; known: {', '.join(NEEDS)}")
    found, problems = read(path, skip_bad=True)
    needed = NEEDS[dataset]
    usable = [edit for edit in found if all(getattr(edit, name) for name in needed)]
    count = len(found) + len(problems)
    if not usable:
        raise InputError(
            f"none of the {count} records of {path} has {' and '.join(needed)}",
            hint=f"is it {dataset}? known: {', '.join(NEEDS)}",
        )
    return list({edit.prompt: edit for edit in reversed(usable)}.values())[::-1], count


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


@dataclass(frozen=True)
class Way:
    """How memories are made."""

    base: BaseModel
    settings: Settings
    router: Router | None = None
    relations: Sequence[Relation] = ()  # of a router's keys and guards

    def about(self) -> dict[str, Any]:
        """What tells this way from others."""
        return {
            "base": self.base.digest,
            "settings": asdict(self.settings),
            "router": None if self.router is None else self.router.digest,
            "relations": [relation.id for relation in self.relations] if self.router else [],
        }

    @contextmanager
    def editor(self, memory: Path) -> Iterator[Editor]:
        """An editor whose journal lies beside a memory file, begun there or gone on with.

        Raises:
            JournalError: The journal is damaged.
            MismatchError: It is of another model, site, k or router.
        """
        path = path_of(memory)
        journal = load(path, write=True)
        if journal is None:
            journal = begin(path, nothing(self.base, self.settings, router=self.router), {})
        with journal:
            yield Editor(
                self.base, self.settings, journal=journal,
                router=self.router, relations=self.relations,
            )  # fmt: skip


def claim(folder: Path, about: dict[str, Any], edits: Sequence[Edit]) -> None:
    """Make the folder this evaluation's, or see that it is.

    Args:
        folder: Made if it is not there.
        about: What tells the evaluation from others, as JSON; `Way.about` for one.
        edits: What it is made of.

    Raises:
        InputError: It is another evaluation's.
    """
    records = json.dumps([edit.full_record() for edit in edits], sort_keys=True)
    about = about | {"edits": hashlib.sha256(records.encode()).hexdigest()}
    about = json.loads(json.dumps(about))  # a tuple is read back as a list
    path = folder / "evaluation.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write(path, json.dumps(about, indent=1))
        return
    other = read_json(path)
    if unlike := [name for name in about if other.get(name) != about[name]]:
        raise InputError(
            f"{folder} holds an evaluation with other {' and '.join(unlike)}",
            hint="give the same arguments to go on with it, or another --out",
        )


def kept(path: Path, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a job came to, as JSON: from its file or, where there is none yet, by doing it."""
    if not path.exists():
        _write(path, json.dumps(do()))
    return read_json(path)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def measured(
    job: Job, way: Way, folder: Path, *, watch: Watch, on_asked: OnProgress, max_new_tokens: int
) -> dict[str, Any]:
    """One job's report, from its file or by making its memory and asking everything."""

    def do() -> dict[str, Any]:
        memory = folder / f"{job.name}.safetensors"
        with way.editor(memory) as editor:
            make(editor, job.edits, memory, watch)
            return evaluate(
                editor.model, job.edits, max_new_tokens=max_new_tokens, on_progress=on_asked
            ).as_json()

    of = "" if max_new_tokens == TOKENS else f"-{max_new_tokens}-tokens"
    return kept(folder / f"{job.name}{of}.json", do)


def make(editor: Editor, edits: Sequence[Edit], memory: Path, watch: Watch) -> None:
    """Make those edits that are not made yet, and write the memory."""
    held = editor.live.bank.records
    editor.apply([edit for edit in edits if edit.id not in held], watch)
    editor.journal.write(memory)


def mean(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The reports of memories of one size as one: the mean of each share that any of them has."""
    first = reports[0]
    return {
        group: {name: share(report[group][name] for report in reports) for name in first[group]}
        for group in ("teacher_forced", "free", "routing")
    }
