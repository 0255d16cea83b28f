"""What is asked of a memory: for each edit its keys, its guards and its near misses, as texts.

    keys     the prompt, what it says if it is a chat, its last sentence, the record's own, and the
             other phrasings of its relation if it is known
    guards   its subject asked the other relations of its kind, and the fact asked backwards: "the
             base model answers"
    misses   what looks like the edit and is not: its prompt asked of other subjects, its subject
             asked other things, and both; thresholds are measured with them, nothing else is

All of it is made from the records, the relations and lists of subjects. What a record keeps for
evaluation is never read here.
"""

import random
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from memoir_edge.answers import WORDS
from memoir_edge.edits import Edit, plain_name, plain_prompt
from memoir_edge.relations import Relation, fill, of_kind
from memoir_edge.relations.relation import FULL_STOPS, QUESTION_MARKS
from memoir_edge.router.encoder import Router
from memoir_edge.router.names import put, spelled
from memoir_edge.router.reading import Index, Reading
from memoir_edge.router.subjects import subjects
from memoir_edge.views import asking, bare, message

KINDS = 1  # likeliest ones of a subject, whose relations become guards
IN_ALL = 6_000  # misses, about
EACH = (6, 100)  # misses of each sort that an edit gets, at least and at most


@dataclass(frozen=True)
class Miss:
    """A text that no edit may answer."""

    text: str
    subject: str
    relation: str | None  # id; None where it is the edit's own, asked of another subject


@dataclass(frozen=True)
class Guard:
    """A text that the base model answers, and the relation that it asks."""

    text: str
    relation: str | None  # id; None for the record's own


@dataclass(frozen=True)
class Asked:
    """What is asked of one edit."""

    reading: Reading
    keys: tuple[str, ...]  # the prompt first
    guards: tuple[Guard, ...]
    misses: tuple[Miss, ...]


@dataclass(frozen=True)
class Beside:
    """What a memory holds of edits that are not looked at."""

    texts: frozenset[str]  # that reach them
    names: frozenset[str]  # plain names of their subjects


def asks(
    edits: Sequence[Edit],
    relations: Sequence[Relation],
    router: Router,
    beside: Beside | None = None,
) -> list[Asked]:
    """Read every edit's prompt and make its keys, guards and misses.

    Args:
        edits: The edits of a memory, all of them: none of one edit's prompts is another's miss.
            Or some, with all that name their subjects.
        relations: What else may be asked of their subjects.
        router: Reads the prompts.
        beside: What the others are, where these are only some. The misses of an edit are then those
            of listed subjects, and the same whichever the others are.
    """
    readings = read(edits, Index(relations, router))
    everyone = list(zip(edits, readings, strict=True))
    taken = {key for edit, reading in everyone for key in keys(edit, reading)}
    asked = _asked(readings, relations)
    held = {plain_name(one.subject) for one in readings}
    named, count = _of_kinds(readings), IN_ALL // 3 // max(len(edits), 1)
    if beside is not None:
        taken |= beside.texts
        held |= beside.names
        named, count = _listed(held), EACH[1]
    count = min(max(count, EACH[0]), EACH[1])
    made = []
    for edit, reading in everyone:
        others = other_relations(relations, reading)
        guards = tuple(
            g for g in _guards(edit, reading, others, asked, held) if g.text not in taken
        )
        misses = tuple(
            m
            for m in _misses(edit, reading, others, named.get(reading.kinds[0], ()), count)
            if m.text not in taken and (plain_name(m.subject), m.relation) not in asked
        )
        made.append(Asked(reading, keys(edit, reading), guards, misses))
    return made


def read(edits: Sequence[Edit], index: Index) -> list[Reading]:
    """What each edit's prompt asks, read together."""
    names = [subject_of(edit, index) for edit in edits]
    return index.read([message(e.prompt) for e in edits], names, [e.target for e in edits])


def subject_of(edit: Edit, index: Index) -> str | None:
    """The record's subject as it stands in the prompt, else the one that is found there."""
    prompt = message(edit.prompt)
    if edit.subject:
        found = spelled(prompt, edit.subject)
        return found.findall(prompt)[0] if found else edit.subject
    return index.find_subject(prompt)


def keys(edit: Edit, reading: Reading) -> tuple[str, ...]:
    """Texts that must reach an edit: its prompt, its own keys, its relation's phrasings.

    The last sentence of a longer prompt is one if it names the subject; else it may ask anything.
    It is none where the answer ends a shorter one ("Ys is a cave. It lies in"). What the record
    says must not reach the edit is none of its keys, either.
    """
    own = [edit.prompt, message(edit.prompt), *edit.keys]
    if not reading.subject:
        return tuple(dict.fromkeys(own))
    ends = bare(edit.prompt).rstrip().endswith
    last = [
        text
        for text in asking(edit.prompt)
        if reading.subject in text and ends((text, "!", *QUESTION_MARKS, *FULL_STOPS))
    ]
    known = reading.relation.phrasings if reading.relation else ()
    phrased = [fill(phrasing, reading.subject) for phrasing in known]
    refused = set(map(plain_prompt, edit.guards))
    made = [text for text in (*last, *phrased) if plain_prompt(text) not in refused]
    return tuple(dict.fromkeys([*own, *made]))


def may_ask(reading: Reading) -> frozenset[str]:
    """Ids of relations that a prompt may ask: the one that is recognised, else all that are alike.

    No edit of the same subject may guard against them: it would guard against this one's prompts.
    """
    return frozenset([reading.relation.id]) if reading.relation else reading.alike


def _asked(readings: Sequence[Reading], relations: Sequence[Relation]) -> set[tuple[str, str]]:
    """Plain names of subjects, each with the id of every relation that the edits may ask of it."""
    same = {r.id: [other.id for other in relations if _same(r, other)] for r in relations}
    return {
        (plain_name(one.subject), id_)
        for one in readings
        for own in may_ask(one)
        for id_ in same[own]
    }


def other_relations(relations: Sequence[Relation], reading: Reading) -> list[Relation]:
    """What else the subject may be asked: no relation that means the same as its own or may."""
    own = reading.relation
    return [
        relation
        for kind in reading.kinds[:KINDS]
        for relation in of_kind(relations, kind)
        if relation.id not in reading.alike and not (own and _same(relation, own))
    ]


def _same(a: Relation, b: Relation) -> bool:
    """Whether two relations ask the same, of whatever kinds: they share a name or a property."""
    return a.name == b.name or not set(a.wikidata).isdisjoint(b.wikidata)


def _guards(
    edit: Edit,
    reading: Reading,
    others: Sequence[Relation],
    asked: set[tuple[str, str]],
    held: Collection[str],
) -> list[Guard]:
    own = [Guard(text, None) for text in (*edit.guards, *backwards(edit, reading, held))]
    if not reading.subject:
        return own
    return own + [
        Guard(fill(relation.phrasings[0], reading.subject), relation.id)
        for relation in others
        if (plain_name(reading.subject), relation.id) not in asked
    ]


def backwards(edit: Edit, reading: Reading, held: Collection[str] = ()) -> list[str]:
    """What stands for the fact asked backwards: the prompt with an answer in its subject's place.

    "Vienna is the capital of" is near to an edit of Austria's capital. An encoder hardly minds the
    order of words, and "The capital of Vienna is" is nearer; that asks nothing else. So it is with
    the edit's target, and with the former answer where the record gives it. An answer that is long,
    or names the subject, makes a text that would stop questions of the edit itself; one that is a
    subject of the memory's, its plain name in `held`, would stop those of that edit.
    """
    name, prompt = reading.subject, message(edit.prompt)
    if not name or put(prompt, name, "") == prompt:
        return []
    answers = [text.strip().rstrip(".") for text in (edit.ground_truth or "", edit.target)]
    return [
        put(prompt, name, answer)
        for answer in dict.fromkeys(answers)
        if answer
        and len(answer.split()) <= WORDS
        and name.lower() not in answer.lower()
        and plain_name(answer) not in held
    ]


def naming(edits: Iterable[Edit], names: Collection[str]) -> list[Edit]:
    """The edits whose prompt or answers name any of some subjects.

    What is asked of a subject may stand for, or against, what else is asked of it.
    """
    spelled = "|".join(re.escape(plain_name(name)) for name in names if plain_name(name))
    if not spelled:
        return []
    named = re.compile(rf"(?<!\w)(?:{spelled})(?!\w)")
    return [
        edit
        for edit in edits
        if any(
            named.search(text.casefold())
            for text in (edit.prompt, edit.subject or "", edit.target, edit.ground_truth or "")
        )
    ]


def _listed(held: Collection[str]) -> dict[str, list[str]]:
    """Listed subjects of each kind that no edit is about."""
    return {
        kind: [name for name in names if plain_name(name) not in held]
        for kind, names in subjects().items()
    }


def _of_kinds(readings: Sequence[Reading]) -> dict[str, list[str]]:
    """Subjects of each kind, each once: those of the lists, then the edits' own."""
    named = {kind: list(names) for kind, names in subjects().items()}
    for reading in readings:
        if reading.subject:
            named.setdefault(reading.kinds[0], []).append(reading.subject)
    return {kind: list(dict.fromkeys(names)) for kind, names in named.items()}


def _misses(
    edit: Edit,
    reading: Reading,
    others: Sequence[Relation],
    alike: Sequence[str],
    count: int,
) -> list[Miss]:
    """`count` of each sort, `alike` the subjects of its kind; the same for the same edits."""
    own = reading.subject
    if not own:
        return []
    dice = random.Random(edit.prompt)
    names = [name for name in alike if plain_name(name) != plain_name(own)]
    shapes = [text for text in keys(edit, reading) if own in text]
    made = []
    for _ in range(count):
        if shapes and names:
            shape, name = dice.choice(shapes), dice.choice(names)
            made.append(Miss(put(shape, own, name), name, None))
        if others:
            relation = dice.choice(others)
            made.append(Miss(fill(dice.choice(relation.phrasings), own), own, relation.id))
        if others and names:
            relation, name = dice.choice(others), dice.choice(names)
            made.append(Miss(fill(dice.choice(relation.phrasings), name), name, relation.id))
    return list({miss.text: miss for miss in made}.values())
