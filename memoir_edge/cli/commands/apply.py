"""`memoir-edge apply`: train edits into a memory file."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from memoir_edge import memory as memory_file
from memoir_edge.cli.editors import about_of, open_editor, refuse_another
from memoir_edge.cli.extras import Routed, Torch
from memoir_edge.cli.journals import former_of, taken_along
from memoir_edge.cli.output import LISTED, Bar, Output, shown, size
from memoir_edge.cli.places import check_apart
from memoir_edge.cli.plan import Looked, plan_of, taken_for
from memoir_edge.cli.records import counting
from memoir_edge.edits import Edit, differs, read
from memoir_edge.errors import InputError
from memoir_edge.history import Audit, Deleted, Journal, begin, path_of
from memoir_edge.history.events import FORM, KEY, MISS, PROMPT
from memoir_edge.keys import known
from memoir_edge.memory import Memory
from memoir_edge.settings import Settings, Wishes

if TYPE_CHECKING:
    from memoir_edge.editor import Editor, Outcome, Watch

SORTS = {FORM: "forms", KEY: "keys", MISS: "near misses"}  # that a table has a column for


def command(
    edits: Path,
    /,
    *,
    torch: Torch,
    out: Path,
    memory: Path | None = None,
    routed: Routed = Routed(),  # noqa: B008 - frozen
    wishes: Annotated[Wishes, Parameter(name="*", negative=())] = Wishes(),  # noqa: B008 - frozen
    skip_bad: bool = False,
    plan: bool = False,
    anew: bool = False,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Train edits into a memory file, and ask the edited model for each edit that may have changed.

    Edits that the memory holds already are skipped, so the command can be repeated; one whose
    record has changed is made anew. Of several records of one prompt the last counts. All that is
    done goes into OUT.journal at once: after an interruption of any kind the same command goes on
    where it was, and ends with the same memory. Asked are the new edits and, of those that the
    memory held before, the ones that share columns of Wm or a subject with them. Of the others
    stands what was found when they were asked. An edit holds if its prompt, forms of it and its
    keys give the target and stop, and its near misses reach no edit, but for the share of them that
    --false-fires allows. Exit code 1 if an edit does not hold.

    Args:
        edits: JSON lines: {"prompt": ..., "target": ...}.
        out: The memory file to write; one that is there already is gone on from.
        memory: A memory to go on from instead.
        skip_bad: Leave unusable records out instead of refusing the file.
        plan: Show what is doubtful about the edits, and the expected time and size; touch nothing.
        anew: Measure all thresholds and ask every edit, however few are new.
    """
    check_apart(out, edits)
    wanted, problems = read(edits, skip_bad=skip_bad)
    for problem in problems:
        output.say(f"skipped {problem}")
    with ExitStack() as opened:
        journal, former = former_of(out, memory, output, opened, write=not plan)
        counts = counting(wanted, edits, output)
        changed = _changed(counts, former, journal)
        held = {entry.id for entry in former.edits} - set(changed) if former else set()
        new = [edit for edit in counts.values() if edit.id not in held]
        if former and not new and not anew and _settled(journal):
            refuse_another(torch, former)
            if not plan:
                journal = taken_along(journal, out, opened)
            return _nothing_new(former, out, len(counts), journal, output, plan=plan)
        editor = open_editor(torch, routed, wishes, former, journal, [] if plan else new)
        if not plan:
            journal = taken_along(journal, out, opened) or opened.enter_context(
                begin(path_of(out), editor.journal.origin, about_of(torch, routed))
            )
        if journal is not None and (changed or not plan):
            editor.go_on_with(_without(changed, journal, output))
        _say_settings(editor, output)
        from memoir_edge.editor import look_at, unmeasured

        beside = [edit for edit in wanted if counts[edit.prompt].id not in held]
        findings = look_at(editor, beside) if new else []
        looked = Looked(findings, unmeasured(editor, new), problems)
        looked.show(output)
        if plan:
            return plan_of(editor, new, looked, output)
        if changed and journal is not None:
            journal.take(editor.journal)
            editor.go_on_with(journal)
        ran = _train(editor, new, out, output, anew=anew)
    _report(ran, looked, len(counts) - len(new), out, output)
    return 1 if ran.audit.failed else 0


def _say_settings(editor: "Editor", output: Output) -> None:
    settings = editor.settings
    output.say(
        f"{editor.base.id}: site {' and '.join(settings.sites)}, D {editor.live.D}, "
        f"k {settings.k}, feature {settings.feature}, threshold {settings.threshold:g}, "
        f"at most {settings.steps} steps, rows: {_rows(settings)}, spare {settings.spare:g}"
    )


def _rows(settings: Settings) -> str:
    names = ("forms", "phrasings", "ends", "chats", "prefixes", "thinned", "thinned_forms")
    counts = {name: getattr(settings, name) for name in names}
    told = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    return ", ".join(["1 plain", *told])


# --- What is to be done --------------------------------------------------------------------------


def _changed(
    counts: Mapping[str, Edit], former: Memory | None, journal: Journal | None
) -> list[str]:
    """Ids of the edits that a memory holds by another record; withheld ones cannot be compared.

    Raises:
        InputError: What one of them has changed cannot be taken back.
    """
    held = {edit.id: edit for edit in known(former)} if former else {}
    found = [e.id for e in counts.values() if e.id in held and differs(e, held[e.id])]
    fixed = journal.state().fixed if journal else held.keys()
    for id in found:
        if id in fixed:
            raise InputError(
                f"the memory holds edit {id!r} by another record, and has no journal of how it was "
                "made, by which it could be made anew",
                hint="delete it where that journal lies, or give the new record another id",
            )
    return found


def _without(changed: Sequence[str], journal: Journal, output: Output) -> Journal:
    """A journal after which edits can be made anew: what was done for them is gone.

    In a copy, to be taken over when they are trained: until then they are looked at, and whoever
    thinks better of it still has them.
    """
    if not changed:
        return journal
    output.say(f"to be made anew, because their records have changed: {', '.join(changed)}")
    copy = journal.copied()
    copy.record(Deleted(list(changed)))
    return copy


def _settled(journal: Journal | None) -> bool:
    """Whether nothing is left of what was begun: every edit has been asked for since."""
    state = journal.state() if journal else None
    return state is None or not (state.changed or state.broken is None)


def _nothing_new(
    former: Memory, out: Path, count: int, journal: Journal | None, output: Output, *, plan: bool
) -> int:
    """All is in the journal: at most the file itself is missing or behind."""
    behind = not out.exists() or (journal is not None and not journal.check_kin(out))
    if behind and not plan:
        if journal is None:
            memory_file.write(former, out)
        else:
            journal.write(out)
    failed = journal.state().failed if journal else []
    does = "would hold" if behind and plan else "holds"
    output.say(f"{out} {does} all {count} edits already: nothing to do")
    if failed:
        output.say(f"{len(failed)} edits did not hold when last asked: {', '.join(failed)}")
    digest = memory_file.read(out).digest if out.exists() else None
    document = {"memory": str(out), "digest": digest, "skipped": count}
    output.result(document | {"failed": failed, "edits": []})
    return 1 if failed else 0


# --- Training ------------------------------------------------------------------------------------


class Ran(NamedTuple):
    """What came of a run."""

    outcomes: "list[Outcome]"
    asked: int  # edits of the memory
    seconds: float
    made: Memory
    audit: Audit


def _train(editor: "Editor", new: Sequence[Edit], out: Path, output: Output, *, anew: bool) -> Ran:
    """Train with a bar; when interrupted, what is done is in the memory file too.

    Each edit counts once a pass and once for its check; repairs cannot be foreseen.
    """
    start, asked = time.monotonic(), [0]  # by each check
    with output.progress("training and checking", len(new) * (editor.settings.passes + 1)) as bar:
        try:
            outcomes = editor.apply(new, _watch(bar, len(new), output, asked), anew=anew)
        except KeyboardInterrupt:
            done = sum(edit.id in editor.live.bank.records for edit in new)
            editor.journal.write(out, finished=False)
            output.say(f"{done} of {len(new)} edits are in {out}; repeat the command to go on")
            raise
    seconds = time.monotonic() - start
    made, audit = editor.journal.write(out), editor.journal.state().audit
    assert audit is not None  # what a run ends with
    return Ran(outcomes, max(asked), seconds, made, audit)


def _watch(bar: Bar, count: int, output: Output, asked: list[int]) -> "Watch":
    from memoir_edge.editor import Watch

    def begun(group: Sequence[Edit]) -> Callable[[int, float], None]:
        return lambda step, loss: bar.note(
            f"loss {loss:.3f} after {step} steps: {group[0].prompt[:40]}"
        )

    def again(edit: Edit) -> Callable[[int, float], None]:
        bar.advance()
        return begun([edit])

    def audited(edits: int, failed: int) -> None:
        bar.advance(count)
        asked.append(edits)
        if failed:
            output.say(f"asked for {edits} edits; {failed} of the memory do not hold")

    return Watch(begun, bar.advance, again, audited)


def _show(outcomes: "Sequence[Outcome]", audit: Audit, asked: int, output: Output) -> None:
    """A row an edit with what was asked of it, the totals, and what does not hold."""
    bad = set(audit.failed)
    listed = outcomes if len(outcomes) <= LISTED else [o for o in outcomes if o.edit.id in bad]
    read = ["read as"] if any(o.reading for o in listed) else []
    output.table(
        "edits" if listed is outcomes else "edits that do not hold",
        ["id", "prompt", *read, "before", "after", "loss", "steps", "took", *SORTS.values()],
        [
            [o.edit.id, o.edit.prompt, *_read_as(o)]
            + [o.before, o.after.text, o.loss, o.steps, _took(o)]
            + [_share(audit.tally.get(o.edit.id, {}).get(sort)) for sort in SORTS]
            for o in listed
        ],
        spare=[*read, "took", "before", "steps", "loss"],
    )
    names = {PROMPT: "prompts", **SORTS}
    totals = {name: _total(audit, sort) for sort, name in names.items()}
    said = ", ".join(f"{name} {_share(total)}" for name, total in totals.items() if total[0])
    held = audit.checked - len(bad)
    if asked == audit.checked:
        output.say(f"asked for all {asked} edits: {held} hold ({said})")
    else:
        told = f"asked for {asked} of {audit.checked} edits, all that may have changed"
        output.say(f"{told}; in all {held} hold ({said})")
    output.listing(
        "what does not hold",
        ["edit", "asked", "text", "answer", "edit that fired"],
        [[one.edit, one.sort, one.text, one.answer, one.fired] for one in audit.wrong],
    )
    if bad:
        output.say(f"{len(bad)} do not hold: {', '.join(audit.failed)}")


def _read_as(outcome: "Outcome") -> list[str]:
    """The subject and the relation that a router recognised, in one cell: a terminal is narrow."""
    read = taken_for(outcome.reading)
    return [f"{shown(read['subject'])}: {shown(read['relation'])}"] if outcome.reading else []


def _total(audit: Audit, sort: str) -> tuple[int, int]:
    counts = [tally[sort] for tally in audit.tally.values() if sort in tally]
    return sum(asked for asked, _ in counts), sum(held for _, held in counts)


def _share(count: tuple[int, int] | None) -> str | None:
    return None if count is None else f"{count[1]}/{count[0]}"


def _report(ran: Ran, looked: Looked, skipped: int, out: Path, output: Output) -> None:
    made, audit = ran.made, ran.audit
    _show(ran.outcomes, audit, ran.asked, output)
    bytes_, each = out.stat().st_size, ran.seconds / max(len(ran.outcomes), 1)
    output.say(
        f"{out}: {len(made.edits)} edits, {size(bytes_)}, {each:.2f} s an edit, "
        f"sha256 {made.digest}"
    )
    document: dict[str, Any] = {
        "memory": str(out),
        "digest": made.digest,
        "bytes": bytes_,
        "seconds": round(ran.seconds, 3),
        "settings": {"site": made.site, "sites": made.sites, "k": made.k, "feature": made.feature},
        "skipped": skipped,
        **looked.as_json(),
        "checked": audit.checked,
        "asked": ran.asked,
        "failed": audit.failed,
        "wrong": [one._asdict() for one in audit.wrong],
        "edits": [
            {
                "id": o.edit.id,
                **taken_for(o.reading),
                "took": o.took,
                "known": o.known,
                "before": o.before,
                "after": o.after.text,
                "loss": o.loss,
                "steps": o.steps,
                "asked": audit.tally.get(o.edit.id, {}),
            }
            for o in ran.outcomes
        ],
    }
    output.result(document)


def _took(outcome: "Outcome") -> str:
    if not outcome.took:
        return f"no, wanted {outcome.edit.target}"
    return "yes, as before" if outcome.known else "yes"
