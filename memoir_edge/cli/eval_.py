"""`memoir-edge eval`: reliability, generalization, locality, hard negatives and routing."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memoir_edge import memory as memory_file
from memoir_edge.answers import Model
from memoir_edge.cli.output import Output
from memoir_edge.cli.runtime_ import OnnxModel, open_session
from memoir_edge.cli.torch_ import editor_package
from memoir_edge.edits import read
from memoir_edge.errors import InputError
from memoir_edge.evaluate.metrics import Report, evaluate, prompt_count


def eval_(
    directory: Path | None = None,
    /,
    *,
    memory: Path | None = None,
    edits: Path | None = None,
    model: str | None = None,
    device: str | None = None,
    max_new_tokens: int = 16,
    skip_bad: bool = False,
    dataset: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    sizes: str = "1,10,100,1000",
    site: str | None = None,
    k: int | None = None,
    threshold: float | None = None,
    feature: str | None = None,
    steps: int | None = None,
    parity: bool = False,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Measure an edited model on ONNX Runtime (a directory) or in PyTorch (--model).

    With --dataset, the paper's table instead: memories of 1, 10, 100 and 1,000 of the dataset's
    edits are made and measured. Each is kept in the folder --out; an interrupted evaluation goes on
    there. Small memories are made of other edits again, ten at most, and their shares averaged.

    Args:
        directory: An export directory.
        memory: The memory to measure.
        edits: The edits with their rephrase, locality and hard_negatives fields.
        model: A transformers folder or hub id, to measure in PyTorch instead.
        device: Device of --model.
        max_new_tokens: Most tokens of a free answer.
        skip_bad: Leave unusable records out instead of refusing the file.
        dataset: zsre or counterfact.
        data: The dataset's file.
        out: A folder for the memories that are made of it, and for their reports.
        sizes: How many edits at a time.
        site: Module path of the layer to edit; this and the rest as in apply.
        k: Active features of a mask.
        threshold: Overlap from which an edit answers.
        feature: Routing feature.
        steps: Most gradient steps of one edit.
        parity: The arithmetic of the paper's released code.
    """
    if dataset is not None:
        if data is None or model is None or out is None or directory or memory or edits:
            raise InputError(
                "--dataset makes its own memories",
                hint="give --data FILE, --model DIR and --out FOLDER, and no other file",
            )
        options = {"threshold": threshold, "steps": steps, "parity": parity}
        routing = {"site": site, "k": k, "feature": feature}
        return _dataset(
            dataset, data, model, out, sizes, device, routing | options, max_new_tokens, output
        )
    if memory is None or edits is None:
        raise InputError("what to measure?", hint="give --memory FILE and --edits FILE")
    asked, _ = read(edits, skip_bad=skip_bad)
    if (directory is None) == (model is None):
        raise InputError("what to measure?", hint="give an export directory, or --model DIR")
    target: Model
    if directory is not None:
        target = OnnxModel(open_session(directory, memory))
    else:
        target = _torch_model(str(model), memory, device)
    with output.progress("asking", prompt_count(asked)) as bar:
        report = evaluate(target, asked, max_new_tokens=max_new_tokens, on_progress=bar.advance)
    show(report, output)
    output.result(report.as_json())
    return 0


def _torch_model(model: str, path: Path, device: str | None) -> Model:
    ed = editor_package()
    memory = memory_file.read(path)
    base = ed.load(model, device=device)
    found: Model = ed.edited(base, memory)
    return found


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
    output.table(
        "routing",
        ["", "share"],
        [
            ["rephrasings that reach their edit", routing.recall],
            ["hard negatives that reach any", routing.false_fires],
            ["unrelated prompts that reach any", routing.unrelated_fires],
        ],
    )
    if report.failed:
        output.say(f"{len(report.failed)} edits do not answer: {', '.join(report.failed)}")


# --- The paper's table ---------------------------------------------------------------------------


def _dataset(
    dataset: str,
    data: Path,
    model: str,
    out: Path,
    sizes: str,
    device: str | None,
    chosen: dict[str, Any],
    max_new_tokens: int,
    output: Output,
) -> int:
    ed = editor_package()
    from memoir_edge.evaluate import dataset as work

    counts = _counts(sizes)
    edits = work.edits_of(dataset, data)
    jobs = work.jobs(dataset, edits, counts)
    base = ed.load(model, device=device)
    site = chosen["site"] or ed.choose_site(base.net, base.config)
    D, _ = ed.width(ed.find_site(base.net, site))
    settings = ed.choose(base.config, D, **chosen | {"site": site})
    work.claim(out, base, settings, edits)
    rows = []
    for size, parts in jobs.items():
        reports = []
        started = time.monotonic()
        for job in parts:
            asked = prompt_count(job.edits)
            with output.progress(job.name, len(job.edits) + asked) as bar:
                reports.append(
                    work.measured(
                        job, base, settings, out, watch=ed.Watch(made=bar.advance),
                        on_asked=bar.advance, max_new_tokens=max_new_tokens,
                    )
                )  # fmt: skip
        seconds = time.monotonic() - started
        rows.append({"edits": size, "memories": len(parts), **work.mean(reports)})
        output.say(f"{len(parts)} x {size} edits measured in {seconds:.0f} s")
    _show_dataset(dataset, model, rows, output)
    output.result({"dataset": dataset, "site": site, "k": settings.k, "rows": rows})
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
