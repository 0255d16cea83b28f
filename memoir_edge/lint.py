"""What is doubtful about a batch of edits, seen before anything is trained.

Knows nothing of models: prompts come with their keys or their lengths in tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memoir_edge import tophash
from memoir_edge.answers import alike
from memoir_edge.edits import Edit
from memoir_edge.history.bank import Bank
from memoir_edge.router.names import candidates, spelled
from memoir_edge.tophash import Bytes
from memoir_edge.views import bare, message

DUPLICATE = "duplicate"  # the same prompt and target under another id
CONTRADICTION = "contradiction"  # the same prompt with another target: the later edit wins
SAME_FACT = "same fact?"  # another prompt whose key overlaps above the threshold
TOO_LONG = "too long"  # for the model's context
CUT = "cut"  # for the encoder that routes
CONTESTED = "contested"  # a text of it must reach another edit, for another target, or must not
UNSAID = "unsaid"  # the model's tokenizer cannot write the target
UNNAMED = "unnamed"  # no subject stands in what is routed: asked of others, it answers, too


@dataclass(frozen=True)
class Finding:
    """One thing that a user should know before training."""

    kind: str
    edit: str  # id
    other: str | None  # id of the edit it meets, in the batch or in the memory
    overlap: float | None
    note: str


def too_long(edits: Sequence[Edit], lengths: Sequence[int], context: int) -> list[Finding]:
    """Edits that nothing can be trained with: their longest text exceeds the model's context."""
    return [
        Finding(TOO_LONG, edit.id, None, None, f"{length} tokens, the context is {context}")
        for edit, length in zip(edits, lengths, strict=True)
        if length > context
    ]


def unsaid(edits: Sequence[Edit], shown: Sequence[str]) -> list[Finding]:
    """Edits of whose target an answer shows something else, for all that is trained."""
    return [
        Finding(UNSAID, edit.id, None, None, f"of {edit.target!r} the model can only say {said!r}")
        for edit, said in zip(edits, shown, strict=True)
        if not alike(said, edit.target)
    ]


def cut(edits: Sequence[Edit], reads_all: Callable[[str], bool]) -> list[Finding]:
    """Edits with a prompt, key or guard that is routed by its last part alone."""
    return [
        Finding(CUT, edit.id, None, None, f"the encoder reads only the last part of {text[:40]!r}")
        for edit in edits
        for text in (edit.prompt, *edit.keys, *edit.guards)
        if not reads_all(bare(text))
    ]


def unnamed(edits: Sequence[Edit]) -> list[Finding]:
    """Edits whose subject does not stand in what an encoder reads of their prompt."""
    found = []
    for edit in edits:
        text, subject = message(edit.prompt), edit.subject
        if not (spelled(text, subject) if subject else candidates(text)):
            what = f"{subject!r} does not stand" if subject else "no subject is found"
            where = f"in {text[:40]!r}, which alone is routed"
            note = f"{what} {where}: put it there, or name it as it is there"
            found.append(Finding(UNNAMED, edit.id, None, None, note))
    return found


def contested(edits: Sequence[Edit], held: Sequence[Edit]) -> list[Finding]:
    """Edits with a text that one before them claims, in the batch or among those that are held.

    Each claims its prompt and its record's own keys for its target, and its guards for no edit. Of
    two edits of one prompt the later takes the other's place.
    """
    found: list[Finding] = []
    claims: dict[str, list[tuple[Edit, str, str | None]]] = {}
    for place, edit in enumerate((*held, *edits)):
        for text, (kind, target) in _claims(edit).items():
            before = claims.setdefault(text, [])
            for one, other, wanted in before if place >= len(held) else ():
                if edit.prompt != one.prompt and target != wanted:
                    note = f"its {kind} {text!r} is that one's {other}"
                    found.append(Finding(CONTESTED, edit.id, one.id, None, note))
            before.append((edit, kind, target))
    return found


def _claims(edit: Edit) -> dict[str, tuple[str, str | None]]:
    """What each text is to an edit, and the target that must follow it."""
    return {
        **dict.fromkeys(edit.guards, ("guard", None)),
        **dict.fromkeys(edit.own_keys, ("key", edit.target)),
        edit.prompt: ("prompt", edit.target),
    }


def doubtful(
    edits: Sequence[Edit], keys: Sequence[Bytes], held: Bank, threshold: float
) -> list[Finding]:
    """Edits that meet one before them, in the batch or in the memory.

    Args:
        edits: The batch, in the order in which it will be trained.
        keys: The packed mask or code of each edit's prompt.
        held: The keys of the memory.
        threshold: Overlap from which an edit answers that does not say it itself.
    """
    if not edits:
        return []
    found: list[Finding] = []
    rows = held.rows()
    ids = [*rows, *(edit.id for edit in edits)]
    texts = [(r or {}) for r in map(held.records.get, rows)] + [edit.record() for edit in edits]
    bank = np.stack([*(held.keys[row].mask for row in rows.values()), *keys])
    reach = [held.keys[row].threshold for row in rows.values()] + [
        threshold if edit.threshold is None else edit.threshold for edit in edits
    ]
    for i, edit in enumerate(edits):
        place = len(rows) + i
        R = tophash.overlap(bank[[place]], bank[:place], held.weight)[0]
        for j in np.flatnonzero(np.minimum(reach[:place], reach[place]) <= R):
            kind, note = _kind(edit, texts[j])
            found.append(Finding(kind, edit.id, ids[j], round(float(R[j]), 3), note))
    return found


def _kind(edit: Edit, other: dict[str, object]) -> tuple[str, str]:
    prompt, target = other.get("prompt"), other.get("target")
    if prompt != edit.prompt:
        return SAME_FACT, f"{edit.prompt!r} is near {prompt!r}"
    if target == edit.target:
        return DUPLICATE, f"{prompt!r} has this target already"
    return CONTRADICTION, f"{prompt!r}: {target!r} gives way to {edit.target!r}"
