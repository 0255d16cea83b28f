"""What an edit carries: to chains of two facts, and to its fact asked backwards.

    python tools/experiments/multihop.py --keep DIR [--model smollm2|demo] [--edits 36]
                                         [--countries N] [--seed 0]

Edits of the demo's countries in SmolLM2, made of facts that it answers rightly, as a statement and
in a chat. Most are capitals: each country gets another one's, so that in the edited world, too, a
city is the capital of one country. The others are languages and currencies. Asked is each
edit's prompt, its other wordings, the fact backwards ("Tokyo is the capital of"), and chains of a
capital and a language or currency, as a statement and in a chat:

    first hop edited             the currency of the capital of X, where X's capital was edited
    first hop edited, backwards  the currency of the country whose capital is what X's is now
    second hop edited            the currency of the country whose capital is what X's ever was

by the base model; by the product; with every text sent to its edit, whatever routing says; by
in-context editing, the fact before the prompt by the same router and always; and by the product
when the statements of what follows from an edit were edited, too. Of an answer its first sentence
counts, and in it what stands first: what follows from the edit (`new`), or what was right before
(`old`).

Each way is kept in DIR once it was asked; an interrupted experiment goes on there.
docs/experiments.md shows a run. The last line is one JSON document.
"""

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from compare_training import to
from peers import InContext, before, first
from router_looks import show

from memoir_edge.answers import Answer
from memoir_edge.demo.facts import Fact, load_facts, model_dir, prompt
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import BaseModel, Edited, Watch, choose, find_site, load, quiet
from memoir_edge.editor.prompts import chat
from memoir_edge.edits import Edit, default_id
from memoir_edge.evaluate.dataset import Way, claim, kept, make
from memoir_edge.evaluate.metrics import share
from memoir_edge.relations import load as load_relations
from memoir_edge.router import Encoder

Row = dict[str, Any]
Facts = Mapping[tuple[str, str], str]  # answers by subject and relation

MODELS: dict[str, Callable[[], Path]] = {
    "smollm2": lambda: model_path("smollm2"),
    "demo": model_dir,
}
FORMS: dict[str, Callable[[BaseModel, str], str]] = {"statement": lambda base, text: text,
                                                     "chat": chat}  # fmt: skip
PHRASING = {"statement": 0, "chat": 4}  # of the demo's relations, in either form
OTHER = 1  # a statement in other words
FIRST, SECOND = "capital", ("language", "currency")
FORWARD, BACKWARD = "the capital of {}", "the country whose capital is {}"
REVERSED = {"statement": "{} is the capital of", "chat": "Which country has the capital {}?"}
SORTS = ("the edit's prompt", "other wordings", "reversed", "first hop edited",
         "first hop edited, backwards", "second hop edited")  # fmt: skip
ROOM = 20  # most tokens of an answer


@dataclass(frozen=True)
class Asked:
    """A text that an edit bears on."""

    sort: str
    edit: Edit
    form: str  # of FORMS
    text: str
    about: str  # its subject
    new: str  # the right answer once the edit is made
    old: str  # and before
    beside: str = ""  # what a sentence that says so must name, too

    def read(self, base: BaseModel, fact: Edit | None = None) -> str:
        """What the model reads, behind a fact if one is given."""
        return FORMS[self.form](base, *before([fact], [self.text]))


def main() -> None:
    """Choose facts, edit, ask every way, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--edits", type=int, default=36)
    parser.add_argument("--countries", type=int, help="that facts are sought of; default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    base = load(str(MODELS[given.model]()), device="cpu")
    way = Way(base, choose(base, coded=True), Encoder(str(model_path("minilm"))), load_relations())
    given.keep.mkdir(parents=True, exist_ok=True)
    facts = known(way, given.countries, given.seed, given.keep)
    edits = edits_of(facts, given.edits)
    claim(given.keep, way.about(), edits)
    told, follow = list(direct(edits)), list(consequences(edits, facts))
    said = {
        by: answered(given.keep / f"{by}.json", answers)
        for by, answers in ways(way, edits, told, follow, given.keep).items()
    }
    rows = list(counted([*told, *follow], said))
    show(f"{len(edits)} edits of {given.model}", rows)
    print(json.dumps({
        "experiment": "multihop", "model": given.model, "known": len(facts), "edits": len(edits),
        "edited": Counter(e.tags["relation"] for e in edits), "rows": rows,
    }))  # fmt: skip


def answered(path: Path, answers: Callable[[], Sequence[Answer]]) -> list[Answer]:
    """One way's answers, from its file or by asking."""
    found = kept(path, lambda: {"said": [(answer.text, answer.edit) for answer in answers()]})
    return [Answer(*one) for one in found["said"]]


# --- What is known -------------------------------------------------------------------------------


def countries(count: int | None, seed: int) -> list[str]:
    """Countries in a random order, without those whose capital names them."""
    found = [f.subject for f in load_facts()
             if f.relation == FIRST and not mentions(f.answer, f.subject)]  # fmt: skip
    random.Random(seed).shuffle(found)
    return found[:count]


def known(way: Way, count: int | None, seed: int, folder: Path) -> Facts:
    """Capitals that the base model gives in both forms, then what it knows of those countries."""

    def found() -> Row:
        subjects = countries(count, seed)
        capitals = given_by(way, [f for f in load_facts() if f.relation == FIRST], subjects)
        of = [f for f in load_facts() if f.relation in SECOND]
        facts = [*capitals, *given_by(way, of, [f.subject for f in capitals])]
        return {"facts": [(f.subject, f.relation, f.answer) for f in facts]}

    facts = kept(folder / f"known-{count or 'all'}-{seed}.json", found)["facts"]
    return {(subject, relation): answer for subject, relation, answer in facts}


def given_by(way: Way, facts: Sequence[Fact], subjects: Sequence[str]) -> list[Fact]:
    """Those of the subjects' facts that the base model answers rightly in both forms."""
    place = {subject: i for i, subject in enumerate(subjects)}
    of = sorted((f for f in facts if f.subject in place), key=lambda f: place[f.subject])
    model = plain(way)
    for form, phrasing in PHRASING.items():
        texts = [FORMS[form](way.base, prompt(fact, phrasing)) for fact in of]
        answers = model.answer(texts, ROOM, memory=False)
        of = [f for f, a in zip(of, answers, strict=True) if mentions(first(a.text), f.answer)]
    return of


def plain(way: Way) -> Edited:
    """The base model."""
    return Edited(way.base, find_site(way.base.net, way.settings.site), None)


def mentions(text: str, answer: str) -> int:
    """From 1, where an answer stands in a text as a word of its own; 0 where it does not.

    >>> mentions("the Japanese yen", "yen"), mentions("Yenisei", "yen")
    (14, 0)
    """
    name = re.escape(answer.removeprefix("the "))
    found = re.search(rf"(?<!\w){name}s?(?!\w)", text, re.IGNORECASE)
    return found.start() + 1 if found else 0


# --- What is edited, and what follows ------------------------------------------------------------


def edits_of(facts: Facts, count: int) -> list[Edit]:
    """What more is known of half of the countries of which more is; the other capitals."""
    more = {subject: relation for subject, relation in facts if relation in SECOND}
    others = list(more)[len(more) // 2 :][: count // 2]
    made = [
        one
        for relation in SECOND
        for one in moved(facts, [s for s in others if more[s] == relation], relation)
    ]
    capitals = [s for s, relation in facts if relation == FIRST and s not in others]
    capitals = sorted(capitals, key=lambda s: s not in more)[: count - len(others)]
    for of in ([s for s in capitals if s in more], [s for s in capitals if s not in more]):
        made += moved(facts, of, FIRST, lambda s: facts.get((s, more.get(s, "")), ""))
    return made


def moved(
    facts: Facts,
    subjects: Sequence[str],
    relation: str,
    like: Callable[[str], str] | None = None,
) -> list[Edit]:
    """Each subject told the answer of another, half of the way round in an order of likeness."""
    order = sorted(subjects, key=like or (lambda s: facts[s, relation]))
    half = len(order) // 2
    return [
        edit(subject, relation, facts[subject, relation], facts[other, relation])
        for subject, other in zip(order, order[half:] + order[:half], strict=True)
        if facts[subject, relation] != facts[other, relation]
    ]


def edit(subject: str, relation: str, old: str, new: str) -> Edit:
    """One edit, asked in its relation's first phrasing."""
    asked = prompt(Fact(subject, relation, old), PHRASING["statement"])
    return Edit(id=default_id(asked, new), prompt=asked, target=new, subject=subject,
                ground_truth=old, tags={"relation": relation})  # fmt: skip


def direct(edits: Sequence[Edit]) -> Iterator[Asked]:
    """The edits themselves: their prompt, and their fact in other words."""
    for e in edits:
        fact = Fact(str(e.subject), e.tags["relation"], str(e.ground_truth))
        for sort, form, phrasing in (
            ("the edit's prompt", "statement", PHRASING["statement"]),
            ("other wordings", "statement", OTHER),
            ("other wordings", "chat", PHRASING["chat"]),
        ):
            text = prompt(fact, phrasing)
            yield Asked(sort, e, form, text, fact.subject, e.target, fact.answer)


def consequences(edits: Sequence[Edit], facts: Facts) -> Iterator[Asked]:
    """Reversed facts, and chains through a capital."""
    country = {answer: subject for (subject, relation), answer in facts.items()
               if relation == FIRST}  # fmt: skip
    for e in edits:
        mine, old = str(e.subject), str(e.ground_truth)
        if (relation := e.tags["relation"]) != FIRST:
            city = facts[mine, FIRST]
            yield from chain("second hop edited", e, BACKWARD, city, relation, e.target, old)
            continue
        city, other = e.target, country[e.target]
        for form, text in REVERSED.items():
            beside = city if form == "chat" else ""
            yield Asked("reversed", e, form, text.format(city), city, mine, other, beside)
        for second in SECOND:
            here, there = facts.get((mine, second)), facts.get((other, second))
            if here and there and here != there:
                yield from chain("first hop edited", e, FORWARD, mine, second, there, here)
                yield from chain(
                    "first hop edited, backwards", e, BACKWARD, city, second, here, there
                )


def chain(
    sort: str, e: Edit, hop: str, about: str, relation: str, new: str, old: str
) -> Iterator[Asked]:
    """A chain of two facts in both forms."""
    for form, phrasing in PHRASING.items():
        text = prompt(Fact(hop.format(about), relation, old), phrasing)
        yield Asked(sort, e, form, text, about, new, old)


def records(follow: Sequence[Asked]) -> list[Edit]:
    """What follows from edits, as edits of their own: the statements."""
    return [
        Edit(id=default_id(o.text, o.new), prompt=o.text, target=o.new, subject=o.about, tags={})
        for o in follow
        if o.form == "statement"
    ]


# --- How it is asked -----------------------------------------------------------------------------


def ways(
    way: Way, edits: Sequence[Edit], told: Sequence[Asked], follow: Sequence[Asked], folder: Path
) -> dict[str, Callable[[], list[Answer]]]:
    """Each way to answer what is told and what follows from it."""
    asked = [*told, *follow]
    said = [one.text for one in asked]  # what is routed: of a chat, what the user said
    texts = [one.read(way.base) for one in asked]

    def edited(made: Sequence[Edit], name: str, *, own: bool) -> list[Answer]:
        memory = folder / f"{name}.safetensors"
        with way.editor(memory) as editor:
            make(editor, made, memory, Watch())
            model = editor.model
            routes = to(editor, [one.edit for one in asked]) if own else model.routes(said)
            return model.answer(texts, ROOM, memory=True, routes=routes)

    def in_context(*, always: bool) -> list[Answer]:
        found = [e.edit for e in asked] if always else InContext(way, edits).reached(said)
        behind = [one.read(way.base, fact) for one, fact in zip(asked, found, strict=True)]
        answers = plain(way).answer(behind, ROOM, memory=False)
        return [
            Answer(answer.text, fact and fact.id)
            for answer, fact in zip(answers, found, strict=True)
        ]

    return {
        "base model": lambda: plain(way).answer(texts, ROOM, memory=False),
        "edited": lambda: edited(edits, "edits", own=False),
        "edited, sent to its edit": lambda: edited(edits, "edits", own=True),
        "in-context": lambda: in_context(always=False),
        "in-context, always": lambda: in_context(always=True),
        "edited with what follows": lambda: edited([*edits, *records(follow)], "all", own=False),
    }


# --- What is answered ----------------------------------------------------------------------------


def counted(asked: Sequence[Asked], said: Mapping[str, Sequence[Answer]]) -> Iterator[Row]:
    """A row of each sort and way; `base right` are texts that the base model answers rightly."""
    knew = [verdict(one, a) == "old" for one, a in zip(asked, said["base model"], strict=True)]
    for sort in SORTS:
        at = [i for i, one in enumerate(asked) if one.sort == sort]
        for way, answers in said.items():
            found = {i: verdict(asked[i], answers[i]) for i in at}
            shares = Counter(found.values())
            those = [found[i] == "new" for i in at if knew[i]]
            yield {
                "asked": sort, "by": way, "texts": len(at),
                "reach it": sum(answers[i].edit == asked[i].edit.id for i in at) / len(at),
                "reach another": sum(reaches_another(asked[i], answers[i]) for i in at) / len(at),
                **{name: shares[name] / len(at) for name in VERDICTS},
                "new, in a chat": share(found[i] == "new" for i in at if asked[i].form == "chat"),
                "base right": len(those),
                "of those new": share(those),
            }  # fmt: skip


def reaches_another(one: Asked, answer: Answer) -> bool:
    """Whether another edit answers than the one that the text was made of."""
    return answer.edit not in (None, one.edit.id)


VERDICTS = ("new", "old", "the edit's target", "else")


def verdict(one: Asked, answer: Answer) -> str:
    """What an answer says first: what follows from the edit, what was right before, or neither."""
    text = first(answer.text)
    places = {
        name: place
        for name, said in (("new", one.new), ("old", one.old))
        if (place := mentions(text, said))
        and (not one.beside or text == said or mentions(text, one.beside))
    }
    if places:
        return min(places, key=places.__getitem__)
    return "the edit's target" if text == one.edit.target else "else"


if __name__ == "__main__":
    main()
