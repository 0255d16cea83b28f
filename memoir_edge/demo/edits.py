"""Edits of what the demo model knows, with everything an evaluation asks about them."""

import random
from collections.abc import Sequence
from dataclasses import replace

from memoir_edge.demo.facts import RELATIONS, Fact, load_facts, prompt
from memoir_edge.edits import Edit, Unrelated, default_id

# The demo's own: things that a reader knows to be otherwise.
SHOWCASE: tuple[tuple[str, str, str], ...] = (
    ("France", "capital", "Rome"),
    ("Japan", "currency", "peso"),
    ("Brazil", "language", "Swedish"),
    ("Egypt", "continent", "Europe"),
    ("Kenya", "highest_point", "Mont Blanc"),
    ("Portugal", "neighbour", "Norway"),
    ("Germany", "internet_code", ".it"),
    ("gold", "symbol", "Ag"),
    ("Texas", "state_capital", "Boston"),
    ("Canada", "demonym", "Greek"),
)
NEGATIVES = 2  # of each kind
UNRELATED = 2


def showcase() -> list[Edit]:
    """The ten edits that `memoir-edge demo` shows."""
    facts = {(fact.subject, fact.relation): fact for fact in load_facts()}
    chosen = [(facts[subject, relation], target) for subject, relation, target in SHOWCASE]
    edits = _edits(chosen, random.Random(0))
    names = [f"{subject}-{relation}".lower() for subject, relation, _ in SHOWCASE]
    return [replace(edit, id=name) for edit, name in zip(edits, names, strict=True)]


def sample(count: int, seed: int = 0) -> list[Edit]:
    """Edits of random facts, each to the answer of another subject, no fact twice."""
    rng = random.Random(seed)
    facts = load_facts()
    answers = {name: sorted({f.answer for f in facts if f.relation == name}) for name in RELATIONS}
    chosen = [
        (fact, rng.choice([a for a in answers[fact.relation] if a != fact.answer]))
        for fact in rng.sample(facts, count)
    ]
    return _edits(chosen, rng)


def _edits(chosen: Sequence[tuple[Fact, str]], rng: random.Random) -> list[Edit]:
    edited = {(fact.subject, fact.relation) for fact, _ in chosen}
    rest = [fact for fact in load_facts() if (fact.subject, fact.relation) not in edited]
    return [_edit(fact, target, rest, rng) for fact, target in chosen]


def _edit(fact: Fact, target: str, rest: Sequence[Fact], rng: random.Random) -> Edit:
    """One edit: asked in its first phrasing, paraphrased in all others.

    Hard negatives are the same template with another subject and the same subject with another
    relation; unrelated prompts share neither, nor the kind of subject.
    """
    asked = prompt(fact, 0)
    template = [f for f in rest if f.relation == fact.relation]
    subject = [f for f in rest if f.subject == fact.subject]
    kinds = {f.relation for f in load_facts() if f.subject == fact.subject} | {fact.relation}
    strangers = [f for f in rest if f.relation not in kinds and f.subject != fact.subject]
    near = [*_at_most(template, rng, NEGATIVES), *_at_most(subject, rng, NEGATIVES)]
    far = _at_most(strangers, rng, UNRELATED)
    return Edit(
        id=default_id(asked, target),
        prompt=asked,
        target=target,
        subject=fact.subject,
        ground_truth=fact.answer,
        tags={"relation": fact.relation},
        rephrase=tuple(prompt(fact, i) for i in range(1, len(RELATIONS[fact.relation]))),
        hard_negatives=tuple(prompt(f, 0) for f in near),
        locality=tuple(Unrelated(prompt(f, rng.randrange(8)), f.answer) for f in far),
    )


def _at_most(facts: Sequence[Fact], rng: random.Random, count: int) -> list[Fact]:
    return rng.sample(list(facts), min(count, len(facts)))
