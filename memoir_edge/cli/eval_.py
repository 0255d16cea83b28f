"""`memoir-edge eval`: reliability, generalization, locality, hard negatives and routing."""

from pathlib import Path

from memoir_edge import memory as memory_file
from memoir_edge.answers import Model
from memoir_edge.cli.output import Output
from memoir_edge.cli.runtime_ import OnnxModel, open_session
from memoir_edge.edits import read
from memoir_edge.errors import InputError
from memoir_edge.evaluate import Report, evaluate, prompt_count


def eval_(
    directory: Path | None = None,
    /,
    *,
    memory: Path,
    edits: Path,
    model: str | None = None,
    device: str | None = None,
    max_new_tokens: int = 16,
    skip_bad: bool = False,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Measure an edited model on ONNX Runtime (a directory) or in PyTorch (--model).

    Args:
        directory: An export directory.
        memory: The memory to measure.
        edits: The edits with their rephrase, locality and hard_negatives fields.
        model: A transformers folder or hub id, to measure in PyTorch instead.
        device: Device of --model.
        max_new_tokens: Most tokens of a free answer.
        skip_bad: Leave unusable records out instead of refusing the file.
    """
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
    from memoir_edge.cli.torch_ import editor_package

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
