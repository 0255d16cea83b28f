"""What tools ask of an edited chat model: CounterFact's edits in ParaRel's patterns, or our own.

Phrasings and hard negatives are those of tools/router_worlds.py, here with the answers that
CounterFact gives; everyday sentences are unrelated to all of them. Our own edits are those that
choices are made with.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from router_worlds import ask, counterfact, facts, left_out, own_answers, own_facts

from memoir_edge.edits import Edit, Unrelated, default_id
from memoir_edge.relations import Relation, fill
from memoir_edge.relations import load as load_relations

WHO = ("My uncle", "The old teacher", "Our neighbour", "A tired driver", "The girl next door",
       "Nobody", "The cook", "His brother", "Every child", "The new clerk")  # fmt: skip
DID = (
    "forgot to bring the", "walked slowly towards the", "could not stop laughing at the",
    "bought two pairs of", "was late again because of the", "likes to read about",
    "dreamed of an", "painted the fence in", "waited an hour for the", "has never heard of",
)  # fmt: skip
EVERYDAY = [f"{who} {did}" for who in WHO for did in DID]


def relations_of(given: str) -> Sequence[Relation]:
    """The package's relations: all as for a user (`present`), or but for those asked (`out`)."""
    return load_relations() if given == "present" else left_out()


def world(relations: Sequence[Relation], count: int, seed: int, told: int = 0) -> list[Edit]:
    """About `count` edits in a random order, with rephrasings and hard negatives.

    Args:
        relations: What keys and guards are made of.
        count: Edits, evenly over the relations of the test.
        seed: Of what is drawn.
        told: Phrasings of each edit that become its further keys; others are its `rephrase`.
    """
    made = ask(facts(), relations, count, seed, told)
    asked: dict[int, list[str]] = {}
    near: dict[int, list[str]] = {}
    for found, of in ((made.asked, asked), (made.near, near)):
        for i, text in found:
            of.setdefault(i, []).append(text)
    edits = [
        replace(
            targeted(e), rephrase=tuple(asked.get(i, ())), hard_negatives=tuple(near.get(i, ()))
        )
        for i, e in enumerate(made.edits)
    ]
    random.Random(seed).shuffle(edits)
    return edits


def own_world(count: int, seed: int) -> list[Edit]:
    """`count` edits of our own in a random order: prompts in the package's statements.

    Their rephrasings are wordings that the package does not hold.
    """
    answers = own_answers()
    relations, dice = {r.id: r for r in load_relations()}, random.Random(seed)
    pairs = [(fact, s) for fact in own_facts() if fact.name in answers for s in fact.subjects]
    edits = []
    for fact, subject in dice.sample(pairs, min(count, len(pairs))):
        prompt = fill(dice.choice(relations[fact.name].statements), subject)
        target = dice.choice(answers[fact.name])
        edits.append(
            Edit(
                prompt=prompt, target=target, subject=subject, tags={},
                id=default_id(prompt, target),
                rephrase=tuple(fill(t, subject) for t in fact.templates),
            )
        )  # fmt: skip
    return edits


def with_unrelated(edits: Sequence[Edit]) -> list[Edit]:
    """The edits, an everyday sentence as locality of those that have none."""
    return [
        replace(edit, locality=edit.locality or (Unrelated(EVERYDAY[i % len(EVERYDAY)]),))
        for i, edit in enumerate(edits)
    ]


def targeted(edit: Edit) -> Edit:
    """The edit with the answer that CounterFact gives to what it asks."""
    [fact, *_] = [f for f in facts() if f.edited and edit.subject in f.subjects
                  and edit.prompt in {fill(t, str(edit.subject)) for t in f.templates}]  # fmt: skip
    known = {t.lower() for t in fact.templates}
    target = next(
        record["target_new"]
        for record in counterfact()
        if record["subject"] == edit.subject
        and record["prompt"].replace(record["subject"], "{}").lower() in known
    )
    return replace(edit, target=target, id=default_id(edit.prompt, target))
