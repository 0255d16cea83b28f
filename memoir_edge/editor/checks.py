"""What a check asks of an edit, and when that counts as held. Knows nothing of models.

prompt   its own
form     the prompt as people put it: in a chat, as a question, and out of the chat that it may be;
         only where a router stands beside the graph, since activations know a prompt in no other
         form than its keys
key      the record's own, all of them, and a sample of the others, which its relation's phrasings
         are among
miss     a sample of its near misses: must reach no edit; the base model then answers, by
         construction, so that nothing need be generated
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from memoir_edge.answers import behind
from memoir_edge.editor.rows import forms
from memoir_edge.edits import Edit
from memoir_edge.history.events import FORM, KEY, MISS, PROMPT, Audit, Tally, Wrong
from memoir_edge.memory import Probe
from memoir_edge.views import message

MISSES = 2  # near misses that are asked for each text of another sort: they cost far less
PROBES = 16  # that a memory keeps


class Case(NamedTuple):
    """A text that is asked of an edit."""

    edit: Edit
    sort: str  # one of SORTS
    text: str
    chat: bool = False  # said by the user of a chat

    @property
    def target(self) -> str:
        """What must follow; behind its own prompt just what the edit says."""
        plain = self.sort == PROMPT or self.chat
        return self.edit.target if plain else behind(self.text, self.edit.target)


def cases(
    edit: Edit, keys: Sequence[str], misses: Sequence[str], count: int, *, formed: bool, chat: bool
) -> list[Case]:
    """The edit's own prompt, and some texts of each other sort; the same ones each time.

    Args:
        edit: The edit.
        keys: Its further keys.
        misses: Its near misses.
        count: Texts of each sort beside the record's own keys, and `MISSES` times as many near
            misses; 0 asks the prompt alone.
        formed: Whether forms of the prompt must reach it.
        chat: Whether the model has a template for chats.

    >>> edit = Edit(id="a", prompt="The capital of France is", target="Lyon", tags={})
    >>> [case.text for case in cases(edit, ["Capital of France?"], [], 1, formed=True, chat=False)]
    ['The capital of France is', 'Question: The capital of France is Answer:', 'Capital of France?']
    """
    asked = [Case(edit, PROMPT, edit.prompt)]
    if not count:
        return asked
    if formed:
        plain = message(edit.prompt)
        said = [Case(edit, FORM, plain, chat=True)] if chat else []
        texts = (plain, *forms(plain, edit.subject))
        put = [Case(edit, FORM, text) for text in texts if text != edit.prompt]
        asked += [*said, *put][:count]
    own = [text for text in dict.fromkeys(edit.own_keys) if text != edit.prompt]
    further = [text for text in keys if text not in own]
    asked += [Case(edit, KEY, text) for text in (*own, *_drawn(further, edit, count))]
    return asked + [Case(edit, MISS, text) for text in _drawn(misses, edit, MISSES * count)]


def _drawn(texts: Sequence[str], edit: Edit, count: int) -> list[str]:
    other = [text for text in dict.fromkeys(texts) if text != edit.prompt]
    return random.Random(edit.prompt).sample(other, min(count, len(other)))


class Asked(NamedTuple):
    """A case, and what the edited model made of it."""

    case: Case
    held: bool
    answer: str
    fired: str | None  # id of the edit that answered


def audit(
    edits: Sequence[Edit], asked: Sequence[Asked], false_fires: float, before: Audit | None = None
) -> Audit:
    """What is known of edits after a check.

    Args:
        edits: All edits of the memory.
        asked: Every case of each edit that was asked.
        false_fires: Share of near misses that may reach an edit; up to it they are reported and
            no edit fails for them. 0: no share was promised, and none fails.
        before: The last check; what it found of the other edits stands.
    """
    found: dict[str, Tally] = {}
    for one in asked:
        tally = found.setdefault(one.case.edit.id, {})
        count, held = tally.get(one.case.sort, (0, 0))
        tally[one.case.sort] = (count + 1, held + one.held)
    former = before.tally if before else {}
    tallies = {edit.id: found.get(edit.id) or former.get(edit.id, {}) for edit in edits}
    stands = tallies.keys() - found.keys()
    wrong = [one for one in before.wrong if one.edit in stands] if before else []
    wrong += [
        Wrong(one.case.edit.id, one.case.sort, one.case.text, one.answer, one.fired)
        for one in asked
        if not one.held
    ]
    missed = [tally[MISS] for tally in tallies.values() if MISS in tally]
    fired = sum(count - held for count, held in missed)
    strict = false_fires > 0 and fired > math.ceil(false_fires * sum(n for n, _ in missed))
    bad = {one.edit for one in wrong if strict or one.sort != MISS}
    right = [edit for edit in edits if tallies[edit.id].get(PROMPT) == (1, 1)]
    probes = [Probe(edit.prompt, edit.target, edit.id) for edit in right[:PROBES]]
    failed = [edit.id for edit in edits if edit.id in bad]
    return Audit(len(edits), failed, probes, tallies, wrong)
