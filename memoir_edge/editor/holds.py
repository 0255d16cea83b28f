"""Whether the cases of a check hold on a model with a memory. Knows nothing of journals.

What must give a target is read once with the target behind it, unless training has read it before;
only what that leaves open is generated. What must reach no edit is routed alone: the base model
answers then, by construction.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from memoir_edge import tophash
from memoir_edge.answers import Answer, holds, room
from memoir_edge.editor.checks import Asked, Case
from memoir_edge.editor.model import BaseModel, Row
from memoir_edge.editor.prompts import chat
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.recall import Edited
from memoir_edge.editor.rows import chat_ids
from memoir_edge.edits import Edit
from memoir_edge.history.events import MISS


def checked(
    model: Edited,
    cases: Sequence[Case],
    readings: Readings,
    rows: Callable[[Edit], Sequence[Row]],
) -> list[Asked]:
    """All cases of a check, asked: those that must give a target, then those that must not fire."""
    apart = [case for case in cases if case.sort != MISS], [c for c in cases if c.sort == MISS]
    return [*told(model, apart[0], readings, rows), *missed(model, apart[1])]


def told(
    model: Edited,
    cases: Sequence[Case],
    readings: Readings,
    rows: Callable[[Edit], Sequence[Row]],
) -> list[Asked]:
    """Cases that must reach their edit and give its target, in their order.

    Args:
        model: The base model with the memory.
        cases: What is asked.
        readings: What rows were found to read.
        rows: The training rows of an edit.
    """
    if not cases:
        return []
    routes = model.routes([case.text for case in cases])
    fired = model.fired(routes)
    asked = [read_as(model.base, case) for case in cases]
    known = _known(model, cases, asked, readings, rows)
    given = [ok and case.edit.id == id for case, ok, id in zip(cases, known, fired, strict=True)]
    new = [i for i, ok in enumerate(given) if not ok]
    for i, ok in zip(new, model.gives([asked[i] for i in new], _at(routes, new)), strict=True):
        given[i] = ok
    found = [Answer(case.target if ok else "", edit)
             for case, ok, edit in zip(cases, given, fired, strict=True)]  # fmt: skip
    left = [i for i, ok in enumerate(given) if not ok]
    most = room(model.base.encode_bare, [cases[i].target for i in left])
    texts = [chat(model.base, cases[i].text) if cases[i].chat else cases[i].text for i in left]
    answers = model.answer(texts, most, memory=True, routes=_at(routes, left))
    for i, answer in zip(left, answers, strict=True):
        found[i] = answer
    return [_asked(model, case, one) for case, one in zip(cases, found, strict=True)]


def _asked(model: Edited, case: Case, answer: Answer) -> Asked:
    held = holds(answer, case.target, case.edit.id, model.shown(case.target))
    return Asked(case, held, case.target if held else answer.text.strip(), answer.edit)


def _known(
    model: Edited,
    cases: Sequence[Case],
    asked: Sequence[Row],
    readings: Readings,
    rows: Callable[[Edit], Sequence[Row]],
) -> list[bool]:
    """Whether a case is a row of its edit that is at hand and whose target would follow."""
    ends = model.base.eos[:1]
    right: dict[str, list[Row]] = {}
    for edit in {case.edit.id: case.edit for case in cases}.values():
        right[edit.id] = _follow(model, edit, rows(edit), readings)
    return [
        row._replace(target=[*row.target, *ends]) in right[case.edit.id]
        for case, row in zip(cases, asked, strict=True)
    ]


@torch.no_grad()
def _follow(model: Edited, edit: Edit, rows: Sequence[Row], readings: Readings) -> list[Row]:
    """Rows whose target is likeliest at all its places; none where only a whole run tells."""
    read = readings.kept(rows)
    if read is None or read.out is None or readings.tail is None:
        return []
    live = model.live
    assert live is not None
    columns = live.columns_of(edit.id)
    a = read.a.to(columns.device)[:, columns % live.D].float()
    delta = a @ live.Wm[:, columns].T
    moved = readings.tail.moved(read.out, readings.tail.site(read.a), delta)
    best = [(*logits.max(1), first) for first, logits in readings.tail.looks(moved)]
    largest = torch.stack([value for value, _, _ in best]).argmax(0, keepdim=True)
    said = torch.stack([first + i for _, i, first in best]).gather(0, largest)[0].cpu()
    parts = torch.split(said, [len(row.target) for row in rows])
    return [row for row, part in zip(rows, parts, strict=True) if part.tolist() == row.target]


def _at(routes: tophash.Routes, rows: Sequence[int]) -> tophash.Routes:
    which = np.array(rows, np.int64)
    return tophash.Routes(routes.route[which], routes.overlap[which], routes.candidate[which])


def missed(model: Edited, cases: Sequence[Case]) -> list[Asked]:
    """Cases that must reach no edit, in their order."""
    if not cases:
        return []
    fired = model.fired(model.routes([case.text for case in cases]))
    return [Asked(case, edit is None, "", edit) for case, edit in zip(cases, fired, strict=True)]


def fits(base: BaseModel, case: Case) -> bool:
    """Whether a case and its target are within the model's context."""
    return sum(map(len, read_as(base, case))) < base.context


def read_as(base: BaseModel, case: Case) -> Row:
    """Token ids of what the model reads, and of the target that must follow."""
    if case.chat:
        return base.row(chat_ids(base, case.text), base.encode_bare(case.target))
    return base.split(case.text, case.target)
