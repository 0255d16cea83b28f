"""This editor beside others: the same edits in the same run, asked the same questions.

    python tools/compare_editors.py --out FOLDER [DATASET=FILE ...] [--edits 1,10,100,1000]
                                    [--memories N] [--methods NAME,...] [--model DIR]
                                    [--encoder DIR] [--relations present|out] [--plot FILE]

Datasets: `zsre` and `counterfact`, both by default. Small sizes are made of other edits again, as
`memoir-edge eval --dataset` does, and averaged. Every record is asked its own prompt, its
rephrasings, an unrelated prompt and hard negatives: its own, its template with another subject and
its subject in another template, both taken from the whole file. Methods are those of
tools/peers.py; those that end in `-rows` train on all the rows that this editor does.

An answer counts if it is the target and stops there; "begins" counts those that go on, too. What is
done is kept in the folder, and a run that was interrupted goes on there. CPU seconds are those of
making the edits, checks included, of a job that was not interrupted.
The last line is one JSON document.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peers import METHODS, Made, Making
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from router_worlds import DATA
from world import relations_of, with_unrelated

from memoir_edge.answers import Answer, Forced, Model
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import Watch, choose, load, quiet
from memoir_edge.edits import Edit
from memoir_edge.errors import MemoirEdgeError
from memoir_edge.evaluate.dataset import Job, Way, claim, edits_of, jobs, kept
from memoir_edge.evaluate.metrics import (
    OTHER,
    SAME_SUBJECT,
    SAME_TEMPLATE,
    evaluate,
    kind_of,
    prompt_count,
    share,
)
from memoir_edge.history import path_of
from memoir_edge.nearmiss import Pool
from memoir_edge.router import Encoder

SETS = {"zsre": "zsre/zsre_eval.json", "counterfact": "counterfact/counterfact-edit.json"}
ROOM = 16  # most tokens of an answer
Row = dict[str, Any]


def main() -> None:
    """Make, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("sets", nargs="*", metavar="DATASET=FILE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--edits", default="1,10,100,1000")
    parser.add_argument("--memories", type=int, help="most of a size")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--model")
    parser.add_argument("--encoder")
    parser.add_argument("--relations", choices=("present", "out"), default="present")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    base = load(given.model or str(model_path("smollm2")), device="cpu")
    router = Encoder(given.encoder or str(model_path("minilm")))
    way = Way(base, choose(base, coded=True), router, relations_of(given.relations))
    if unknown := set(given.methods.split(",")) - METHODS.keys():
        parser.error(f"unknown method {min(unknown)!r}; known: {', '.join(METHODS)}")
    sets = dict(one.split("=") for one in given.sets) or {
        n: DATA / file for n, file in SETS.items()
    }
    sizes = [int(size) for size in given.edits.split(",")]
    try:
        rows = [
            row
            for name, file in sets.items()
            for row in compared(name, Path(file), way, sizes, given)
        ]
    except MemoirEdgeError as error:
        sys.exit(str(error))
    show(rows)
    if given.plot:
        plot(rows, given.plot)
    print(json.dumps({"model": base.id, "relations": given.relations, "rows": rows}))


def compared(
    dataset: str, file: Path, way: Way, sizes: Sequence[int], given: argparse.Namespace
) -> list[Row]:
    """A row of each method and size."""
    edits, _ = edits_of(dataset, file)
    folder, methods = given.out / dataset, given.methods.split(",")
    claim(folder, way.about(), edits)
    parts_of = jobs(dataset, probed(edits), sizes)
    base_said: dict[Any, Any] = {}  # the base model says the same beside every method
    rows = []
    with Progress(console=Console(stderr=True)) as bar:
        for method in methods:
            (folder / method).mkdir(exist_ok=True)
        for size, method in [(size, method) for size in sizes for method in methods]:
            done = []
            for job in parts_of[size][: given.memories]:
                steps = len(job.edits) + prompt_count(job.edits)
                task = bar.add_task(f"{method}: {job.name}", total=steps)

                def measured(job: Job = job, method: str = method, task: Any = task) -> Row:
                    memory = folder / method / f"{job.name}.safetensors"
                    watch = Watch(made=lambda n: bar.advance(task, n))
                    making = Making(way, job.edits, memory, watch)
                    return measure(method, making, base_said, lambda n: bar.advance(task, n))

                done.append(kept(folder / method / f"{job.name}.json", measured))
                bar.remove_task(task)
            about = {"dataset": dataset, "method": method, "edits": size, "memories": len(done)}
            rows.append(
                about | mean([{k: v for k, v in one.items() if k != "said"} for one in done])
            )
    return rows


def probed(edits: Sequence[Edit]) -> list[Edit]:
    """Edits with an unrelated prompt and hard negatives of each kind."""
    pool, taken = Pool(edits), {edit.prompt for edit in edits}
    found = []
    for edit in with_unrelated(edits):
        near = pool.of(edit, 1)
        hard = dict.fromkeys([*edit.hard_negatives, *near.template, *near.subject])
        kept_apart = tuple(text for text in hard if text not in taken)
        found.append(replace(edit, hard_negatives=kept_apart))
    return found


# --- One job -------------------------------------------------------------------------------------


class Heard:
    """A model, and what it said. The base model is asked each question once."""

    def __init__(self, model: Model, base_said: dict[Any, Any]) -> None:
        self.model, self.base_said = model, base_said
        self.said: dict[str, Answer] = {}

    def answer(self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool) -> list[Answer]:
        """Greedy answers."""
        if memory:
            answers = self.model.answer(prompts, max_new_tokens, memory=True)
            self.said |= zip(prompts, answers, strict=True)
            return answers
        if new := [p for p in dict.fromkeys(prompts) if p not in self.base_said]:
            told = self.model.answer(new, max_new_tokens, memory=False)
            self.base_said |= zip(new, told, strict=True)
        return [self.base_said[prompt] for prompt in prompts]

    def forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        """First choices at the target's tokens."""
        pairs = list(zip(prompts, targets, strict=True))
        if memory:
            return self.model.forced(prompts, targets, memory=True)
        if new := [pair for pair in dict.fromkeys(pairs) if pair not in self.base_said]:
            told = self.model.forced([p for p, _ in new], [t for _, t in new], memory=False)
            self.base_said |= zip(new, told, strict=True)
        return [self.base_said[pair] for pair in pairs]

    def shown(self, target: str) -> str:
        """What an answer shows of a target."""
        return self.model.shown(target)


def measure(
    method: str, making: Making, base_said: dict[Any, Any], on_asked: Callable[[int], None]
) -> Row:
    """Make the edits by a method and ask for them."""
    whole = not path_of(making.memory).exists()
    cpu = time.process_time()
    with METHODS[method](making) as made:
        cpu = time.process_time() - cpu
        heard = Heard(made.model, base_said)
        report = evaluate(heard, making.edits, max_new_tokens=ROOM, on_progress=on_asked)
    found = report.as_json()
    return {
        "teacher_forced": found["teacher_forced"],
        "free": found["free"],
        "begins": {
            "reliability": share(begins(heard, e, e.prompt) for e in making.edits),
            "generalization": share(begins(heard, e, t) for e in making.edits for t in e.rephrase),
        },
        "changed": changed_by_kind(heard, making.edits),
        "why": why(heard, made, making.edits),
        "cpu_seconds_per_edit": cpu / len(making.edits) if whole else None,
        "bytes": made.bytes,
        "said": {prompt: [answer.text, answer.edit] for prompt, answer in heard.said.items()},
    }


def begins(heard: Heard, edit: Edit, text: str) -> bool:
    """Whether an answer is the target or goes on from it."""
    return heard.said[text].text.strip().startswith(edit.target)


def changed_by_kind(heard: Heard, edits: Sequence[Edit]) -> dict[str, float | None]:
    """Share of hard negatives whose answer is not the base model's, by what they share."""
    by: dict[str, list[bool]] = {SAME_TEMPLATE: [], SAME_SUBJECT: [], OTHER: []}
    for edit in edits:
        for text in edit.hard_negatives:
            other = heard.said[text].text != heard.base_said[text].text
            by[kind_of(edit, text)].append(other)
    return {kind: share(found) for kind, found in by.items()}


NO_EDIT, ANOTHER, ITS_OWN = WHY = ("no edit", "another edit", "right edit, other answer")


def why(heard: Heard, made: Made, edits: Sequence[Edit]) -> dict[str, float]:
    """Of rephrasings that do not give the target: which edit they reached, as shares of all."""
    pairs = [(edit, heard.said[text]) for edit in edits for text in edit.rephrase]
    reasons = Counter(
        ITS_OWN
        if answer.edit == edit.id or not made.routes
        else NO_EDIT
        if answer.edit is None
        else ANOTHER
        for edit, answer in pairs
        if answer.text.strip() != edit.target
    )
    return {name: reasons[name] / max(len(pairs), 1) for name in WHY}


def mean(rows: Sequence[Any]) -> Any:
    """Rows as one: the mean of each number, of those that have it."""
    if isinstance(rows[0], dict):
        return {name: mean([row[name] for row in rows]) for name in rows[0]}
    return share(rows)


# --- What is shown -------------------------------------------------------------------------------

# Columns: title, and where the figure lies in a row.
FIGURES = {
    "reliability": ("free", "reliability"),
    "generalization": ("free", "generalization"),
    "begins": ("begins", "generalization"),
    "unrelated same": ("free", "locality"),
    "same template": ("changed", SAME_TEMPLATE),
    "same subject": ("changed", SAME_SUBJECT),
    "other hard": ("changed", OTHER),
    "forced rel.": ("teacher_forced", "reliability"),
    "forced gen.": ("teacher_forced", "generalization"),
    "forced loc.": ("teacher_forced", "locality"),
    "CPU s/edit": ("cpu_seconds_per_edit",),
    "MB": ("bytes",),
}


def figure(row: Row, *place: str) -> float | None:
    """A figure of a row."""
    found: Any = row
    for name in place:
        found = found[name]
    return None if found is None else float(found)


def show(rows: Sequence[Row]) -> None:
    """A table for each dataset: shares, then where rephrasings fail."""
    console = Console(width=170)
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset]
        title = f"{dataset}: free generation; hard negatives changed; teacher-forced; cost"
        table = Table("edits", "method", *FIGURES, title=title)
        for row in mine:
            figures = [figure(row, *place) for place in FIGURES.values()]
            figures[-1] = (figures[-1] or 0) / 1e6
            table.add_row(str(row["edits"]), row["method"], *map(cell, figures))
        console.print(table)
        table = Table("edits", "method", *WHY, title=f"{dataset}: rephrasings that fail reach")
        for row in mine:
            table.add_row(str(row["edits"]), row["method"], *(cell(row["why"][n]) for n in WHY))
        console.print(table)


def cell(value: float | None) -> str:
    """A figure as it is shown."""
    return "-" if value is None else f"{value:.3f}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Shares over the number of edits, a line a method."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    panels = {
        "own prompts that give the target": lambda row: row["free"]["reliability"],
        "rephrasings that give the target": lambda row: row["free"]["generalization"],
        "hard negatives that stay": lambda row: stays(row["free"]["hard_negatives_changed"]),
        "unrelated prompts that stay": lambda row: row["free"]["locality"],
    }
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    made, axes = plt.subplots(
        len(datasets), len(panels), figsize=(4 * len(panels), 3.6 * len(datasets)),
        squeeze=False, sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    for dataset, line in zip(datasets, axes, strict=True):
        for (title, of), each in zip(panels.items(), line, strict=True):
            for method in dict.fromkeys(row["method"] for row in rows):
                mine = [r for r in rows if (r["dataset"], r["method"]) == (dataset, method)]
                bold = {"linewidth": 2.5} if method == "memoir-edge" else {}
                each.plot(
                    [r["edits"] for r in mine], [of(r) for r in mine], "o-", label=method, **bold
                )
            each.set_xscale("log")
            each.set_ylim(-0.03, 1.03)
            each.set_title(f"{dataset}: {title}", fontsize=9)
            each.grid(alpha=0.3)
    axes[-1][0].set_xlabel("edits")
    axes[0][0].legend(fontsize=7)
    made.savefig(path, dpi=120)


def stays(changed: float | None) -> float | None:
    """The share that is left."""
    return None if changed is None else 1 - changed


if __name__ == "__main__":
    main()
