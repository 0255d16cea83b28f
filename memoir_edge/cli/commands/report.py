"""`memoir-edge report`: a memory as a page to attach to a change request."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memoir_edge import memory as memory_file
from memoir_edge.answers import Answer, room
from memoir_edge.cli.output import Output
from memoir_edge.cli.places import check_file
from memoir_edge.cli.records import counting
from memoir_edge.cli.sessions import OnnxModel, open_session
from memoir_edge.edits import Edit, read
from memoir_edge.errors import InputError, MismatchError
from memoir_edge.evaluate.metrics import OWN, Said, evaluate, prompt_count
from memoir_edge.keys import known
from memoir_edge.memory import Memory
from memoir_edge.report import page_of, suffix_of, write

if TYPE_CHECKING:
    from memoir_edge_runtime import Session


def command(
    file: Path,
    /,
    *,
    out: Path = Path("report.html"),
    graph: Path | None = None,
    edits: Path | None = None,
    compare: Path | None = None,
    max_new_tokens: int = 16,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Write a memory's report: what it is bound to, its edits, how they hold, what they cost.

    With --graph every edit is asked for on the exported model, and so are its hard negatives; the
    exit code is 1 if an edit does not hold. The page is one file that loads nothing from elsewhere.

    Args:
        file: A memory file.
        out: The page; its name ends in .html or .md.
        graph: An export directory to ask the edits on.
        edits: The edits with their rephrase, locality and hard_negatives fields, to be asked too.
        compare: The memory that this one replaces: what came, went and changed, and with --graph
            what both answer, where it fits that, too.
        max_new_tokens: Most tokens of an answer; a target has room in any case.
    """
    suffix_of(out)  # refused before anything is asked
    check_file(out, file, edits, compare)
    memory = memory_file.read(file)
    old = memory_file.read(compare) if compare else None
    if edits is not None and graph is None:
        raise InputError("the edits cannot be asked", hint="give an export directory as --graph")
    report, both = None, None
    if graph is not None:
        session = open_session(graph, memory)
        asked = _given(edits, output) if edits else recorded(memory)
        with output.progress("asking", prompt_count(asked)) as bar:
            report = evaluate(
                OnnxModel(session), asked, max_new_tokens=max_new_tokens, on_progress=bar.advance
            )
        if old is not None:
            try:
                both = _both(session, old, memory, asked, max_new_tokens)
            except MismatchError as error:  # as after a move to another layer or model
                output.say(f"{compare} is not asked: {error}")
    write(out, page_of(memory, file, report, old=old, both=both))
    failed = report.failed if report else []
    bad = f", {len(failed)} do not hold: {', '.join(failed)}" if failed else ""
    output.say(f"{out}: {len(memory.edits)} edits{bad}")
    output.result({"report": str(out), "digest": memory.digest, "failed": failed})
    return 1 if failed else 0


def _given(file: Path, output: Output) -> list[Edit]:
    return list(counting(read(file)[0], file, output).values())


def recorded(memory: Memory) -> list[Edit]:
    """The edits of a memory whose records are not withheld."""
    found = known(memory)
    if memory.edits and not found:
        raise InputError("the memory withholds its records", hint="give the edits as --edits FILE")
    return found


def _both(
    session: "Session", old: Memory, new: Memory, given: Sequence[Edit], max_new_tokens: int
) -> tuple[list[Said], list[Said]] | None:
    """What the old memory and the new one answer to the prompts of the edits of both.

    Those that are given stand in for records that are withheld; of other such edits nobody knows
    the prompt.
    """
    edits = [edit for memory in (new, old) for edit in known(memory)]
    missing = {e.id for memory in (new, old) for e in memory.edits} - {edit.id for edit in edits}
    edits += [edit for edit in given if edit.id in missing]
    asked = {edit.prompt: edit for edit in edits}
    if not asked:
        return None

    encode = session.language.tokenizer.encode_bare
    most = max(max_new_tokens, room(encode, [edit.target for edit in edits]))

    def answers(memory: Memory) -> list[Said]:
        session.swap(memory)
        found = OnnxModel(session).answer(list(asked), most, memory=True)
        return [_said(edit, a) for edit, a in zip(asked.values(), found, strict=True)]

    return answers(old), answers(new)


def _said(edit: Edit, answer: Answer) -> Said:
    return Said(OWN, edit.id, edit.prompt, edit.target, answer)
