"""What can be seen of edits before training: what is doubtful, and what would be made of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from memoir_edge.editor.checks import MISSES
from memoir_edge.editor.editor import Editor
from memoir_edge.editor.prompts import length
from memoir_edge.editor.thresholds import GROWN
from memoir_edge.edits import Edit
from memoir_edge.lint import Finding, contested, cut, doubtful, too_long, unnamed, unsaid
from memoir_edge.nearmiss import Pool, misses
from memoir_edge.router import Asked, asks


def look_at(editor: Editor, new: Sequence[Edit]) -> list[Finding]:
    """What is doubtful about the edits, beside what the memory holds."""
    fit = fitting(editor, new)
    keys = editor.keys([edit.prompt for edit in fit])
    return [
        *too_long(new, [length(editor.base, edit) for edit in new], editor.base.context),
        *unsaid(new, [editor.base.shown(edit.target) for edit in new]),
        *([*cut(fit, editor.router.reads_all), *unnamed(fit)] if editor.router else ()),
        *contested(fit, editor.edits),
        *doubtful(fit, keys, editor.live.bank, editor.settings.threshold),
    ]


def fitting(editor: Editor, new: Sequence[Edit]) -> list[Edit]:
    """The edits that the model's context has room for."""
    return [edit for edit in new if length(editor.base, edit) <= editor.base.context]


def unmeasured(editor: Editor, new: Sequence[Edit]) -> list[str]:
    """What to know where near misses are too few to set thresholds from; most often nothing."""
    bound = editor.settings.false_fires
    if editor.router is not None or not bound or not new:
        return []
    made, needed = len(misses([*editor.edits, *new])), math.ceil(1 / bound)
    if made >= needed:
        return []
    return [
        f"near misses that can be made of these edits: {made}, fewer than the {needed} that false "
        f"fires of {bound:g} are measured with. Thresholds stay {editor.settings.threshold:g}, and "
        "prompts that are much like an edit's may reach it. More edits, records that name their "
        "subject, guards, a higher --threshold or --encoder help"
    ]


def related(editor: Editor, fit: Sequence[Edit]) -> list[Asked]:
    """What a router reads in each edit; nothing where the activations route."""
    if editor.router is None:
        return []
    held, new = editor.edits, editor.formerly(fit, editor.answers(fit, memory=False))
    beside = None
    if len(new) <= GROWN * len(held):
        held = editor.questions.akin(new)
        beside = editor.questions.beside(held)
    return asks([*held, *new], editor.relations, editor.router, beside)[len(held) :]


@dataclass(frozen=True)
class Foreseen:
    """What would be made of one edit, as texts."""

    subject: str | None
    relation: str | None  # id of the one that the prompt asks, where it is known
    forms: list[str]  # that it would be trained in beside its own prompt
    chats: list[str]  # what a user says in the chats that it would be trained in
    keys: list[str]  # that would reach it beside its own prompt
    guards: list[str]  # that the base model would answer
    misses: list[str]  # that look like it and must not reach it


def foresee(editor: Editor, edit: Edit) -> Foreseen:
    """What would be made of an edit that the model's context has room for."""
    forms, chats = editor.jobs.further(edit)
    if read := related(editor, [edit]):
        [one] = read
        return Foreseen(
            one.reading.subject,
            one.reading.relation.id if one.reading.relation else None,
            forms,
            chats,
            list(one.keys[1:]),
            [guard.text for guard in one.guards],
            [miss.text for miss in one.misses],
        )
    [keyed] = editor.keyed([edit])
    near = Pool([*editor.edits, keyed]).of(keyed, MISSES * editor.settings.asked)
    return Foreseen(
        edit.subject, None, forms, chats, list(keyed.keys), list(edit.guards),
        [*near.template, *near.subject],
    )  # fmt: skip
