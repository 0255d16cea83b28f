"""`memoir-edge eval`: reliability, generalization, locality, hard negatives and routing."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from memoir_edge import memory as memory_file
from memoir_edge.answers import Model
from memoir_edge.cli.extras import Routed, Torch, needs
from memoir_edge.cli.modes import refuse
from memoir_edge.cli.output import Output
from memoir_edge.cli.places import check_file
from memoir_edge.cli.records import counting
from memoir_edge.cli.sessions import OnnxModel, open_session
from memoir_edge.edits import read
from memoir_edge.errors import InputError
from memoir_edge.evaluate.metrics import Report, evaluate, prompt_count
from memoir_edge.history import load, path_of
from memoir_edge.memory import Memory
from memoir_edge.report import page_of, suffix_of, write
from memoir_edge.settings import Wishes


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Table:
    """The paper's table: memories of several sizes, made of a dataset's edits."""

    dataset: str | None = None
    """zsre or counterfact."""

    data: Path | None = None
    """The dataset's file."""

    out: Path | None = None
    """A folder for the memories that are made of it, and for their reports."""

    sizes: str = "1,10,100,1000"
    """How many edits at a time."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked, and how long an answer may be."""

    edits: Path | None = None
    """The edits with their rephrase, locality and hard_negatives fields."""

    skip_bad: bool = False
    """Leave unusable records out instead of refusing the file."""

    max_new_tokens: int = 16
    """Most tokens of a free answer; a target has room in any case."""

    html: Path | None = None
    """Write a report of the memory with what was measured: a file that ends in .html or .md."""


def command(
    directory: Path | None = None,
    /,
    *,
    memory: Path | None = None,
    asked: Asked = Asked(),
    model: str | None = None,
    device: str | None = None,
    routed: Routed = Routed(),  # noqa: B008 - frozen
    table: Table = Table(),
    wishes: Annotated[Wishes, Parameter(name="*", negative=())] = Wishes(),  # noqa: B008 - frozen
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Measure an edited model on ONNX Runtime (a directory) or in PyTorch (--model).

    With --dataset, the paper's table instead: memories of 1, 10, 100 and 1,000 of the dataset's
    edits are made and measured; with --encoder, that routes them. Each is kept in the folder --out;
    an interrupted evaluation goes on there. Small memories are made of other edits again, ten at
    most, and their shares averaged.

    Args:
        directory: An export directory.
        memory: The memory to measure.
        model: A transformers folder or hub id, to measure in PyTorch instead.
        device: Device of --model.
    """
    if table.dataset is not None:
        refuse("--dataset", edits=asked.edits, skip_bad=asked.skip_bad, html=asked.html)
        if table.data is None or model is None or table.out is None or directory or memory:
            raise InputError(
                "--dataset makes its own memories",
                hint="give --data FILE, --model DIR and --out FOLDER, and no other file",
            )
        work = Work(table.dataset, table.data, table.out, _counts(table.sizes))
        return _dataset(
            work, Torch(model=model, device=device), routed, wishes, asked.max_new_tokens, output
        )
    refuse(
        "a memory that is made already",
        table, wishes, relations=routed.relations, without=routed.without,
    )  # fmt: skip
    if memory is None or asked.edits is None:
        raise InputError("what to measure?", hint="give --memory FILE and --edits FILE")
    if directory is not None and model is None:
        refuse("an export directory", device=device, encoder=routed.encoder)
    if asked.html is not None:
        suffix_of(asked.html)  # refused before anything is asked
        check_file(asked.html, memory, asked.edits)
    wanted, problems = read(asked.edits, skip_bad=asked.skip_bad)
    for problem in problems:
        output.say(f"skipped {problem}")
    edits = list(counting(wanted, asked.edits, output).values())
    if (directory is None) == (model is None):
        raise InputError("what to measure?", hint="give an export directory, or --model DIR")
    held = memory_file.read(memory)  # once: another may take the file's place meanwhile
    target: Model
    if directory is not None:
        target = OnnxModel(open_session(directory, held))
    else:
        target = _torch_model(Torch(model=str(model), device=device), held, memory, routed)
    with output.progress("asking", prompt_count(edits)) as bar:
        report = evaluate(
            target, edits, max_new_tokens=asked.max_new_tokens, on_progress=bar.advance
        )
    show(report, output)
    if asked.html is not None:
        write(asked.html, page_of(held, memory, report))
    skipped = [problem._asdict() for problem in problems]
    output.result(report.as_json() | {"skipped_bad": skipped})
    return 0


def _torch_model(torch: Torch, memory: Memory, path: Path, routed: Routed) -> Model:
    wanted = memory.codes is not None and routed.encoder is None
    journal = load(path_of(path), write=False) if wanted else None
    with journal or nullcontext():
        router = routed.load(journal)
    base = torch.load()
    from memoir_edge.editor import edited

    return edited(base, memory, router)


def show(report: Report, output: Output) -> None:
    """The report as tables."""
    free, forced, routing = report.free, report.teacher_forced, report.routing
    output.table(
        f"{report.edits} edits, {', '.join(f'{n} {what}' for what, n in report.prompts.items())}",
        ["", "teacher-forced", "free generation"],
        [
            ["reliability", forced.reliability, free.reliability],
            ["generalization", forced.generalization, free.generalization],
            ["locality", forced.locality, free.locality],
            ["hard negatives changed", None, free.hard_negatives_changed],
        ],
    )
    detail = report.detail
    interval = None
    if detail.recall_low is not None:
        interval = f"{detail.recall_low:.3f} to {detail.recall_high:.3f}"
    output.table(
        "routing",
        ["", "share", "95 % interval"],
        [
            ["rephrasings that reach their edit", routing.recall, interval],
            ["  by the key of its own prompt", detail.by_own_prompt, None],
            ["hard negatives that reach any", routing.false_fires, None],
            ["  the prompt asked of another subject", detail.same_template, None],
            ["  the subject asked something else", detail.same_subject, None],
            ["  neither", detail.other, None],
            ["hard negatives nearest to a guard", detail.by_guard, None],
            ["unrelated prompts that reach any", routing.unrelated_fires, None],
        ],
    )
    if report.failed:
        output.say(f"{len(report.failed)} edits do not hold: {', '.join(report.failed)}")


# --- The paper's table ---------------------------------------------------------------------------


class Work(NamedTuple):
    """A dataset, and where its memories are kept."""

    dataset: str
    data: Path
    out: Path
    sizes: list[int]


def _dataset(
    work: Work,
    torch: Torch,
    routed: Routed,
    wishes: Wishes,
    max_new_tokens: int,
    output: Output,
) -> int:
    with needs("PyTorch and transformers", "edit"):
        from memoir_edge.evaluate import dataset as jobs

    edits, count = jobs.edits_of(work.dataset, work.data)
    if len(edits) < count:
        needed = " and ".join(jobs.NEEDS[work.dataset])
        output.say(
            f"{len(edits)} of {count} records of {work.data} can be measured: those with {needed}, "
            "the first of each prompt"
        )
    parts_of = jobs.jobs(work.dataset, edits, work.sizes)
    router, relations = routed.load(), routed.known()
    base = torch.load()
    from memoir_edge.editor import Watch, choose

    settings = choose(base, wishes, coded=router is not None)
    way = jobs.Way(base, settings, router, relations)
    jobs.claim(work.out, way.about(), edits)
    rows = []
    for size, parts in parts_of.items():
        reports = []
        started = time.monotonic()
        for job in parts:
            with output.progress(job.name, len(job.edits) + prompt_count(job.edits)) as bar:
                reports.append(
                    jobs.measured(
                        job, way, work.out, watch=Watch(made=bar.advance),
                        on_asked=bar.advance, max_new_tokens=max_new_tokens,
                    )
                )  # fmt: skip
        seconds = time.monotonic() - started
        rows.append({"edits": size, "memories": len(parts), **jobs.mean(reports)})
        output.say(f"{len(parts)} x {size} edits measured in {seconds:.0f} s")
    _show_dataset(work.dataset, torch.model, rows, output)
    told = {"site": settings.site, "sites": settings.sites, "k": settings.k}
    read = {"records": count, "usable": len(edits)}
    output.result({"dataset": work.dataset, **read, **told, "rows": rows})
    return 0


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"sizes are {text!r}, expected numbers such as 1,10,100") from error
    if min(counts) < 1:
        raise InputError(f"a size is {min(counts)}, expected at least 1")
    return counts


def _show_dataset(dataset: str, model: str, rows: Sequence[dict[str, Any]], output: Output) -> None:
    shares = ("reliability", "generalization", "locality")
    for title, group in (("teacher-forced", "teacher_forced"), ("free generation", "free")):
        hard = group == "free"
        columns = ["edits", *shares, *(["hard negatives changed"] if hard else [])]
        names = [*shares, *(["hard_negatives_changed"] if hard else [])]
        output.table(
            f"{dataset}, {model}: {title}",
            columns,
            [[row["edits"], *(row[group][name] for name in names)] for row in rows],
        )
    output.table(
        "routing",
        ["edits", "rephrasings that reach", "hard negatives that fire", "unrelated that fire"],
        [[row["edits"], *row["routing"].values()] for row in rows],
    )
