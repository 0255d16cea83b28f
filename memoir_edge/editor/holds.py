"""Whether the cases of a check hold on a model with a memory. Knows nothing of journals.

What must give a target is read once with the target behind it; only what that leaves open is
generated. What must reach no edit is routed alone: the base model answers then, by construction.
"""

from collections.abc import Sequence

from memoir_edge import tophash
from memoir_edge.answers import Answer, holds, room
from memoir_edge.editor.checks import Asked, Case
from memoir_edge.editor.model import BaseModel
from memoir_edge.editor.prompts import chat
from memoir_edge.editor.recall import Edited
from memoir_edge.editor.rows import chat_ids
from memoir_edge.text import split_target


def told(model: Edited, cases: Sequence[Case]) -> list[Asked]:
    """Cases that must reach their edit and give its target, in their order."""
    if not cases:
        return []
    routes = model.routes([case.text for case in cases])
    given = model.gives([read_as(model.base, case) for case in cases], routes)
    found = [Answer(case.edit.target if ok else "", edit)
             for case, ok, edit in zip(cases, given, model.fired(routes), strict=True)]  # fmt: skip
    left = [i for i, ok in enumerate(given) if not ok]
    most = room(model.base.encode_bare, [cases[i].edit.target for i in left])
    texts = [chat(model.base, cases[i].text) if cases[i].chat else cases[i].text for i in left]
    where = tophash.Routes(routes.route[left], routes.overlap[left], routes.candidate[left])
    for i, answer in zip(left, model.answer(texts, most, memory=True, routes=where), strict=True):
        found[i] = answer
    return [
        Asked(case, holds(one, case.edit.target, case.edit.id), one.text.strip(), one.edit)
        for case, one in zip(cases, found, strict=True)
    ]


def missed(model: Edited, cases: Sequence[Case]) -> list[Asked]:
    """Cases that must reach no edit, in their order."""
    if not cases:
        return []
    fired = model.fired(model.routes([case.text for case in cases]))
    return [Asked(case, edit is None, "", edit) for case, edit in zip(cases, fired, strict=True)]


def fits(base: BaseModel, case: Case) -> bool:
    """Whether a case and its target are within the model's context."""
    return sum(map(len, read_as(base, case))) < base.context


def read_as(base: BaseModel, case: Case) -> tuple[list[int], list[int]]:
    """Token ids of what the model reads, and of the target that must follow."""
    target = case.edit.target
    if case.chat:
        return chat_ids(base, case.text), base.encode_bare(target)
    return split_target(base.encode, base.encode_bare, case.text, target)
