"""`memoir-edge apply`: train edits into a memory file."""

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoir_edge import memory as memory_file
from memoir_edge.cli.output import Output, size
from memoir_edge.cli.plan_ import look_at, plan_of, show_findings
from memoir_edge.edits import Edit, Problem, read
from memoir_edge.errors import InputError
from memoir_edge.journal import Journal, State, begin, load, path_of
from memoir_edge.lint import Finding
from memoir_edge.memory import Memory

if TYPE_CHECKING:
    from memoir_edge.editor import Editor, Outcome, Watch

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
    spare: float | None = None,
    passes: int | None = None,
    repairs: int | None = None,
    made_keys: int | None = None,
    false_fires: float | None = None,
    batch_edits: int = 1,
    parity: bool = False,
    device: str | None = None,
    skip_bad: bool = False,
    plan: bool = False,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Train edits into a memory file, and ask the edited model for every edit it then holds.

    Edits that the memory holds already are skipped by id, so the command can be repeated. All that
    is done goes into OUT.journal at once: after an interruption of any kind the same command goes
    on where it was, and ends with the same memory. Exit code 1 if an edit does not hold.

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
        spare: How strongly a change avoids what other edits read; 0 is not at all.
        passes: How often the edits are trained, one after the other: a second pass mends what later
            ones have worn down.
        repairs: Rounds in which edits that later ones have worn down are trained again.
        made_keys: Most keys of an edit that are made from its prompt: typed without care, as a
            chat, behind other text.
        false_fires: Share of near misses that may reach an edit: each key gets the threshold for
            it. 0 keeps one threshold for all; so does --threshold.
        batch_edits: Edits trained together.
        parity: The arithmetic of the paper's released code, quirks included.
        device: cpu, cuda, cuda:1 ..., or auto to spread a model over several; default CUDA where
            there is one.
        skip_bad: Leave unusable records out instead of refusing the file.
        plan: Show what is doubtful about the edits, and the expected time and size; touch nothing.
    """
    wanted, problems = read(edits, skip_bad=skip_bad)
    for problem in problems:
        output.say(f"skipped line {problem.line}: {problem.reason}")
    with ExitStack() as opened:
        journal, former = _former(out, memory, output, opened, write=not plan)
        held = {entry.id for entry in former.edits} if former else set()
        new = [edit for edit in wanted if edit.id not in held]
        state = journal.state() if journal else None
        if former and not new and not (state and state.changed):
            return _nothing_new(former, out, len(wanted), journal, output)
        options = {"threshold": threshold, "steps": steps, "prefixes": prefixes,
                   "thinned": thinned, "spare": spare, "passes": passes,
                   "repairs": repairs, "made_keys": made_keys, "false_fires": false_fires,
                   "batch_edits": batch_edits, "parity": parity}  # fmt: skip
        editor = _editor(model, former, device, site, k, feature, options)
        settings = editor.settings
        output.say(
            f"{editor.base.id}: site {settings.site}, D {editor.live.Wm.shape[1]}, "
            f"k {settings.k}, feature {settings.feature}, threshold {settings.threshold:g}, "
            f"at most {settings.steps} steps, rows: 1 plain, {len(editor.prefixes)} prefixed, "
            f"{settings.thinned} thinned, spare {settings.spare:g}"
        )
        for edit in new if not plan else ():
            editor.refuse_too_long(edit)
        findings = look_at(editor, new) if new else []
        show_findings(findings, output)
        if plan:
            return plan_of(editor, new, findings, problems, output)
        if journal is None:
            about = {"model": _named(model)}
            began = former or editor.memory()
            journal = begin(path_of(out), began, about)
            opened.enter_context(journal)
        editor.journal = journal
        start = time.monotonic()
        outcomes = _train(editor, new, journal, state, out, output)
        seconds = time.monotonic() - start
        made = journal.write(out)
        failed = journal.state().broken or []
    skipped = len(wanted) - len(new)
    _report(made, failed, out, outcomes, findings, problems, seconds, skipped, output)
    return 1 if failed else 0


# --- What there is already -----------------------------------------------------------------------


def _former(
    out: Path, memory: Path | None, output: Output, opened: ExitStack, *, write: bool
) -> tuple[Journal | None, Memory | None]:
    """The journal to go on with and the memory it amounts to, each where there is one."""
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(
            f"cannot write {out}: no file in an existing folder", hint="give a file path"
        )
    path = path_of(out)
    other = memory is not None and not (out.exists() and out.samefile(memory))
    if other and (out.exists() or path.exists()):
        raise InputError(
            f"{out if out.exists() else path} exists and would be lost, because the run begins "
            f"from {memory}",
            hint=f"leave --memory out to go on from {out}, or give another --out",
        )
    if memory and other and (source := load(path_of(memory), write=False)):
        with source:
            source.check_kin(memory)
            if not write:
                return None, source.compile()
        _copy(source.path, path)
    journal = load(path, write=write)
    if journal:
        opened.enter_context(journal)
        if journal.dropped:
            output.say(f"{path}: the end of an interrupted run was dropped; going on before it")
        if out.exists() and not journal.check_kin(out) and not journal.state().changed:
            output.say(f"{out} is an earlier state; going on from the last of {path}")
        return journal, journal.compile()
    start = memory or (out if out.exists() else None)
    if start:
        output.say(f"{start} has no journal: its edits cannot be deleted one by one")
    return None, memory_file.read(start) if start else None


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _nothing_new(
    former: Memory, out: Path, count: int, journal: Journal | None, output: Output
) -> int:
    """All is in the journal: at most the file itself is missing or behind."""
    if not out.exists():
        memory_file.write(former, out)
    elif journal and not journal.check_kin(out):
        journal.write(out)
    failed = (journal.state().broken if journal else None) or []
    output.say(f"{out} holds all {count} edits already: nothing to do")
    if failed:
        output.say(f"{len(failed)} edits did not hold when last asked: {', '.join(failed)}")
    digest = memory_file.read(out).digest
    document = {"memory": str(out), "digest": digest, "skipped": count}
    output.result(document | {"failed": failed, "edits": []})
    return 1 if failed else 0


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
    site = site or (former.site if former else ed.choose_site(base.net, base.config))
    D, _ = ed.width(ed.find_site(base.net, site))
    if former:
        k = former.k if k is None else k
        feature = feature or former.feature
    settings = ed.choose(base.config, D, site=site, k=k, feature=feature, **options)
    editor: Editor = ed.Editor(base, settings, former)
    return editor


def _named(model: str) -> str:
    """How the journal names the model: a hub id as it is, a folder in full."""
    return str(Path(model).expanduser().resolve()) if Path(model).expanduser().exists() else model


# --- Training ------------------------------------------------------------------------------------


def _train(
    editor: "Editor",
    new: Sequence[Edit],
    journal: Journal,
    state: State | None,
    out: Path,
    output: Output,
) -> "list[Outcome]":
    """Train with a bar; when interrupted, what is done is in the memory file too."""
    with output.progress("editing", len(new)) as bar:
        watch = _watch(bar, output)
        try:
            return editor.apply(new, watch, state)
        except KeyboardInterrupt:
            done = sum(edit.id in editor.live.bank.records for edit in new)
            journal.write(out, finished=False)
            output.say(f"{done} of {len(new)} edits are in {out}; repeat the command to go on")
            raise


def _watch(bar: Any, output: Output) -> "Watch":
    from memoir_edge.editor import Watch

    def begun(group: Sequence[Edit]) -> Any:
        return lambda step, loss: bar.note(
            f"loss {loss:.3f} after {step} steps: {group[0].prompt[:40]}"
        )

    def audited(checked: int, failed: int) -> None:
        if failed:
            output.say(f"{failed} of {checked} edits do not hold")

    return Watch(begun, bar.advance, lambda edit: begun([edit]), audited)


def _report(
    made: Memory,
    failed: Sequence[str],
    out: Path,
    outcomes: "Sequence[Outcome]",
    findings: Sequence[Finding],
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
    checked = made.evaluation["checked"]
    output.say(f"asked for all {checked} edits: {checked - len(failed)} hold")
    if failed:
        output.say(f"{len(failed)} do not: {', '.join(failed)}")
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
        "findings": [asdict(finding) for finding in findings],
        "checked": checked,
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
