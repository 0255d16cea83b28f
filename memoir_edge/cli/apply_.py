"""`memoir-edge apply`: train edits into a memory file."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoir_edge import memory as memory_file
from memoir_edge.cli.output import Bar, Output, size
from memoir_edge.edits import Edit, Problem, read
from memoir_edge.errors import InputError
from memoir_edge.memory import Memory, Probe

if TYPE_CHECKING:
    from memoir_edge.editor import Editor, Outcome

AUTOSAVE_SECONDS = 10.0
MAX_PROBES = 16
LISTED = 30  # more edits than this are not listed one by one, only those that did not take


def apply_(
    edits: Path,
    /,
    *,
    model: str,
    out: Path,
    memory: Path | None = None,
    site: str | None = None,
    k: int | None = None,
    threshold: float | None = None,
    feature: str | None = None,
    steps: int | None = None,
    prefixes: int | None = None,
    thinned: int | None = None,
    device: str | None = None,
    skip_bad: bool = False,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Train edits into a memory file, and ask the edited model for each of them.

    Edits that the memory holds already are skipped by id, so the command can be repeated; what was
    done before an interruption is kept. Exit code 1 if an edit did not take.

    Args:
        edits: JSON lines: {"prompt": ..., "target": ...}.
        model: A transformers folder or hub id.
        out: The memory file to write; one that is there already is gone on from.
        memory: A memory to go on from instead.
        site: Module path of the layer to edit; default by architecture.
        k: Active features of a mask; default by architecture.
        threshold: Overlap from which an edit answers; default by architecture.
        feature: Routing feature, mean or last; default by architecture.
        steps: Most gradient steps of one edit.
        prefixes: Training rows behind texts that the model wrote itself.
        thinned: Training rows that read only part of the mask, for paraphrases' sake.
        device: cpu, cuda, cuda:1 ...; default CUDA where there is one.
        skip_bad: Leave unusable records out instead of refusing the file.
    """
    wanted, problems = read(edits, skip_bad=skip_bad)
    for problem in problems:
        output.say(f"skipped line {problem.line}: {problem.reason}")
    if memory and out.exists() and not out.samefile(memory):
        raise InputError(
            f"{out} exists and would be lost, because the run begins from {memory}",
            hint=f"leave --memory out to go on from {out}, or give another --out",
        )
    start = memory or (out if out.exists() else None)
    former = memory_file.read(start) if start else None
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(
            f"cannot write {out}: no file in an existing folder", hint="give a file path"
        )
    held = {entry.id for entry in former.edits} if former else set()
    new = [edit for edit in wanted if edit.id not in held]
    if former and not new:
        return _nothing_new(former, start, out, len(wanted), output)
    options = {"threshold": threshold, "steps": steps, "prefixes": prefixes, "thinned": thinned}
    editor = _editor(model, former, device, site, k, feature, options)
    settings = editor.settings
    output.say(
        f"{editor.base.id}: site {settings.site}, D {editor.live.Wm.shape[1]}, k {settings.k}, "
        f"feature {settings.feature}, threshold {settings.threshold:g}, at most {settings.steps} "
        f"steps, rows: 1 plain, {len(editor.prefixes)} prefixed, {settings.thinned} thinned"
    )
    began = time.monotonic()
    outcomes = _train(editor, new, out, output)
    seconds = time.monotonic() - began
    made = memory_file.write(_finished(editor, outcomes), out)
    _report(made, out, outcomes, problems, seconds, len(wanted) - len(new), output)
    return 0 if all(outcome.took for outcome in outcomes) else 1


def _nothing_new(former: Memory, start: Path | None, out: Path, count: int, output: Output) -> int:
    if start != out:
        memory_file.write(former, out)
    output.say(f"{out} holds all {count} edits already: nothing to do")
    document = {"memory": str(out), "digest": former.digest, "skipped": count}
    output.result(document | {"failed": [], "edits": []})
    return 0


def _editor(
    model: str,
    former: Memory | None,
    device: str | None,
    site: str | None,
    k: int | None,
    feature: str | None,
    options: dict[str, Any],
) -> "Editor":
    """Load the model and choose the settings: the user's, else the memory's, else the preset's."""
    from memoir_edge.cli.torch_ import editor_package

    ed = editor_package()
    base = ed.load(model, device=device)
    site = site or (former.site if former else ed.default_site(base.config))
    D, _ = ed.width(ed.find_site(base.net, site))
    if former:
        k = former.k if k is None else k
        feature = feature or former.feature
    settings = ed.choose(base.config, D, site=site, k=k, feature=feature, **options)
    editor: Editor = ed.Editor(base, settings, former)
    return editor


def _train(editor: "Editor", new: Sequence[Edit], out: Path, output: Output) -> "list[Outcome]":
    """Train with a bar; what is done is saved now and then, and when interrupted."""
    held, saved = len(editor.live.entries), time.monotonic()

    with output.progress("editing", len(new)) as bar:

        def after_edit() -> None:
            nonlocal saved
            bar.advance()
            if time.monotonic() - saved > AUTOSAVE_SECONDS:
                memory_file.write(editor.memory(), out)
                saved = time.monotonic()

        try:
            return editor.apply(new, lambda edit: _note(bar, edit), after_edit)
        except KeyboardInterrupt:
            done = len(editor.live.entries) - held
            if done:
                memory_file.write(editor.memory(), out)
                output.say(f"{done} of {len(new)} edits are in {out}; repeat the command to go on")
            raise


def _note(bar: Bar, edit: Edit) -> Callable[[int, float], None]:
    return lambda step, loss: bar.note(f"loss {loss:.3f} after {step} steps: {edit.prompt[:40]}")


def _finished(editor: "Editor", outcomes: "Sequence[Outcome]") -> Memory:
    held = editor.live.ids  # a later edit of the same prompt takes an earlier one's place
    took = [outcome.edit for outcome in outcomes if outcome.took and outcome.edit.id in held]
    probes = (*editor.probes, *(Probe(edit.prompt, edit.target, edit.id) for edit in took))
    evaluation = {"checked": len(outcomes), "took": len(took)}
    return editor.memory(probes=probes[:MAX_PROBES], evaluation=evaluation)


def _report(
    made: Memory,
    out: Path,
    outcomes: "Sequence[Outcome]",
    problems: Sequence[Problem],
    seconds: float,
    skipped: int,
    output: Output,
) -> None:
    listed = outcomes if len(outcomes) <= LISTED else [o for o in outcomes if not o.took]
    output.table(
        "edits" if listed is outcomes else "edits that did not take",
        ["id", "prompt", "before", "after", "loss", "steps", "took"],
        [
            [o.edit.id, o.edit.prompt, o.before, o.after.text, o.loss, o.steps, _took(o)]
            for o in listed
        ],
    )
    failed = [outcome.edit.id for outcome in outcomes if not outcome.took]
    if failed:
        output.say(f"{len(failed)} of {len(outcomes)} edits did not take: {', '.join(failed)}")
    bytes_ = os.path.getsize(out)  # noqa: PTH202
    each = seconds / max(len(outcomes), 1)
    output.say(
        f"{out}: {len(made.edits)} edits, {size(bytes_)}, {each:.2f} s an edit, "
        f"sha256 {made.digest}"
    )
    document: dict[str, Any] = {
        "memory": str(out),
        "digest": made.digest,
        "bytes": bytes_,
        "seconds": round(seconds, 3),
        "settings": {"site": made.site, "k": made.k, "feature": made.feature},
        "skipped": skipped,
        "skipped_bad": [problem._asdict() for problem in problems],
        "failed": failed,
        "edits": [
            {
                "id": o.edit.id,
                "took": o.took,
                "known": o.known,
                "before": o.before,
                "after": o.after.text,
                "loss": o.loss,
                "steps": o.steps,
            }
            for o in outcomes
        ],
    }
    output.result(document)


def _took(outcome: "Outcome") -> str:
    if not outcome.took:
        return f"no, wanted {outcome.edit.target}"
    return "yes, as before" if outcome.known else "yes"
