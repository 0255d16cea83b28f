"""What routing is asked: edits, unseen phrasings of each, and hard negatives that must reach none.

They are made of CounterFact's subjects in ParaRel's patterns, of ZsRE, and of facts of our own:
questions and invented companies (bench_router.toml), the development set (bench_router_own.toml),
facts asked of their answer (bench_router_backwards.toml). It knows nothing of what answers: of
encoders, keys and thresholds.
"""

import json
import os
import random
import re
import string
import tomllib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from memoir_edge.edits import Edit, default_id, read
from memoir_edge.relations import Relation, fill, load, without
from memoir_edge.tophash import Ints

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MEMOIR_EDGE_DATA", ROOT / "../shared/data"))
SORTS = ("template", "subject", "both")
PHRASINGS = 5  # unseen ones that an edit is asked in
MISSES = 200  # of an edit


# --- Worlds --------------------------------------------------------------------------------------


@dataclass
class World:
    """Edits, and what is asked of them."""

    edits: list[Edit]
    asked: list[tuple[int, str]]  # place of the edit that must be reached, text
    hard: dict[str, list[str]]  # by sort
    relations: Sequence[Relation]  # that keys and guards are made of
    same: list[set[int]] = field(default_factory=list)  # edits that will do as well
    facts: Sequence["Fact"] = ()  # of each edit
    near: list[tuple[int, str]] = field(default_factory=list)  # `hard`, with the edit of each

    def right(self, edit: Ints) -> np.ndarray:
        """Which of `asked` an edit that will do was found for."""
        same = self.same or [{i} for i in range(len(self.edits))]
        return np.array([e in same[i] for e, (i, _) in zip(edit.tolist(), self.asked, strict=True)])


def edit(prompt: str, subject: str | None) -> Edit:
    """An edit without an answer: nothing asks it backwards but in the part that does."""
    return Edit(prompt=prompt, target="", subject=subject, tags={}, id=default_id(prompt, ""))


@dataclass(frozen=True)
class Fact:
    """A relation of a test: its templates, and what it may be asked of."""

    name: str
    kind: str
    templates: tuple[str, ...]
    subjects: tuple[str, ...]
    edited: bool  # or only asked, to see whether it fires


def ask(
    facts: Sequence[Fact], relations: Sequence[Relation], count: int, seed: int, told: int = 0
) -> World:
    """A world of `count` edits, evenly over the relations; `told` phrasings become further keys."""
    dice = random.Random(seed)
    edited = [fact for fact in facts if fact.edited]
    pairs = [
        (fact, subject)
        for fact in edited
        for subject in dice.sample(fact.subjects, min(len(fact.subjects), -(-count // len(edited))))
    ]
    taken = {(fact.name, subject) for fact, subject in pairs}
    edits, asked = [], []
    hard: dict[str, set[str]] = {sort: set() for sort in SORTS}
    near: dict[tuple[int, str], None] = {}
    for i, (fact, subject) in enumerate(pairs):
        statements = [t for t in fact.templates if not t.endswith("?")]
        first = dice.choice(statements)
        questions = [t for t in fact.templates if t.endswith("?")]
        rest = [t for t in fact.templates if t != first]
        further = [dice.choice([t for t in rest if t in statements] or rest),
                   dice.choice(questions or rest)][:told]  # fmt: skip
        made = edit(fill(first, subject), subject)
        edits.append(replace(made, keys=tuple(fill(t, subject) for t in further)))
        rest = [t for t in rest if t not in further]
        chosen = dice.sample(rest, min(PHRASINGS, len(rest)))
        asked += [(i, fill(template, subject)) for template in chosen]
        for sort in SORTS:
            for _ in range(2):
                text = negative(sort, fact, subject, first, facts, taken, dice)
                if text:
                    hard[sort].add(text)
                    near[i, text] = None
    own = {e.prompt for e in edits} | {key for e in edits for key in e.keys}
    own |= {text for _, text in asked}
    return World(
        edits, asked, {s: sorted(t - own) for s, t in hard.items()}, relations,
        facts=[fact for fact, _ in pairs], near=[(i, text) for i, text in near if text not in own],
    )  # fmt: skip


def negative(
    sort: str,
    fact: Fact,
    subject: str,
    template: str,
    facts: Sequence[Fact],
    taken: set[tuple[str, str]],
    dice: random.Random,
) -> str | None:
    """A hard negative of the sort, or none if nothing else can be asked of the subject."""
    others = [f for f in facts if f.kind == fact.kind and f.name != fact.name]
    if sort != "template" and not others:
        return None
    for _ in range(50):
        relation = fact if sort == "template" else dice.choice(others)
        name = subject if sort == "subject" else dice.choice(fact.subjects)
        if (relation.name, name) not in taken and (sort == "subject") == (name == subject):
            return fill(template if sort == "template" else dice.choice(relation.templates), name)
    return None


def misses_of(i: int, world: World, facts: Sequence[Fact], seed: int) -> list[str]:
    """Near misses of one edit, `MISSES` where there are so many."""
    dice = random.Random(seed + i)
    prompt, subject, fact = world.edits[i].prompt, str(world.edits[i].subject), world.facts[i]
    template = next(t for t in fact.templates if fill(t, subject) == prompt)
    made: dict[str, None] = {}
    for _ in range(20 * MISSES):
        if len(made) < MISSES:
            text = negative(dice.choice(SORTS), fact, subject, template, facts, set(), dice)
            made |= {text: None} if text else {}
    return list(made)


def subject(world: World, i: int) -> str:
    """Of an edit."""
    return str(world.edits[i].subject)


# --- Facts ---------------------------------------------------------------------------------------


@cache
def written() -> dict[str, Any]:
    """Questions and facts of our own."""
    return tomllib.loads(Path(__file__).with_name("bench_router.toml").read_text("utf-8"))


@cache
def patterns() -> dict[str, tuple[str, ...]]:
    """ParaRel's patterns that end in the answer, by property; none that two properties share."""
    found = {}
    for file in sorted((DATA / "pararel").glob("*.jsonl")):
        lines = [json.loads(line)["pattern"] for line in file.read_text().splitlines()]
        ends = [line.rstrip(" .") for line in lines]
        found[file.stem] = list(
            dict.fromkeys(
                " ".join(end.removesuffix("[Y]").replace("[X]", "{}").split())
                for end in ends
                if end.endswith("[Y]") and "[X]" in end
            )
        )
    everything = [pattern.lower() for each in found.values() for pattern in each]
    return {
        name: tuple(p for p in each if everything.count(p.lower()) == 1)
        for name, each in found.items()
    }


@cache
def counterfact() -> list[dict[str, str]]:
    """CounterFact's records."""
    return list(json.loads((DATA / "counterfact/counterfact-edit.json").read_text()))


@cache
def facts() -> list[Fact]:
    """The relations of the test, with the subjects that CounterFact asks them of."""
    of: dict[str, list[str]] = {}
    known = {p.lower(): name for name, each in patterns().items() for p in each}
    for record in counterfact():
        template = record["prompt"].replace(record["subject"], "{}").lower()
        if template in known:
            of.setdefault(known[template], []).append(record["subject"])
    made = []
    for sort in ("edited", "asked"):
        for name, fact in written()[sort].items():
            templates = (*patterns().get(name, ()), *fact["questions"])
            subjects = tuple(dict.fromkeys(of.get(name, ())))
            made.append(Fact(name, fact["kind"], templates, subjects, sort == "edited"))
    return made


def properties() -> list[str]:
    """Wikidata properties of the test's relations, all of ParaRel's."""
    return [file.stem for file in (DATA / "pararel").glob("*.jsonl")]


def left_out() -> Sequence[Relation]:
    """The package's relations but for those of the test."""
    return without(load(), properties())


def business() -> list[Fact]:
    """Invented companies and products."""
    return [
        Fact(
            f"{kind}.{name}",
            kind,
            tuple(fact["templates"]),
            tuple(written()["invented"][kind]),
            True,
        )
        for kind, facts in written()["business"].items()
        for name, fact in facts.items()
    ]


def own_facts() -> list[Fact]:
    """The package's relations in phrasings that it does not hold."""
    path = Path(__file__).with_name("bench_router_own.toml")
    kinds = tomllib.loads(path.read_text("utf-8"))
    return [
        Fact(r.id, r.kind, tuple(kinds[r.kind][r.id.partition(".")[2]]["phrasings"]),
             tuple(kinds["subjects"][r.kind]), True)
        for r in load()
    ]  # fmt: skip


@cache
def own_answers() -> dict[str, list[str]]:
    """Answers of some of the package's relations."""
    path = Path(__file__).with_name("bench_answers_own.toml")
    return dict(tomllib.loads(path.read_text("utf-8"))["answers"])


def answered_world(count: int, seed: int) -> World:
    """Those relations in phrasings that the package does not hold, each edit with an answer."""
    world = ask([f for f in own_facts() if f.name in own_answers()], load(), count, seed)
    dice = random.Random(seed)
    told = [dice.choice(own_answers()[fact.name]) for fact in world.facts]
    edits = [replace(e, target=target) for e, target in zip(world.edits, told, strict=True)]
    return replace(world, edits=edits)


def unrelated(count: int = 2000) -> list[str]:
    """Questions about other things: of ZsRE and of Natural Questions."""
    other, _ = read(DATA / "zsre/knowedit_zsre.json", skip_bad=True)
    own, _ = read(DATA / "zsre/zsre_eval.json", skip_bad=True)
    asked = [p.prompt.removeprefix("nq question: ") for e in own for p in e.locality]
    return list(dict.fromkeys([*asked, *(e.prompt for e in other)]))[:count]


# --- Other worlds --------------------------------------------------------------------------------


def zsre_world() -> World:
    """ZsRE's rephrasings; records that contradict one another count by subject."""
    edits, _ = read(DATA / "zsre/zsre_eval.json", skip_bad=True)
    asked = [(i, text) for i, e in enumerate(edits) for text in e.rephrase]
    by: dict[str, set[int]] = {}
    for i, e in enumerate(edits):
        by.setdefault(str(e.subject), set()).add(i)
    hard = {"locality": list(dict.fromkeys(p.prompt for e in edits for p in e.locality))}
    return World(edits, asked, hard, load(), same=[by[str(e.subject)] for e in edits])


def before_subject(text: str, subject: str) -> bool:
    """Whether a sentence ends before the subject is named."""
    return bool(re.search(r"[.!?\n]", text.partition(subject)[0]))


def counterfact_world(records: Sequence[dict[str, str]]) -> World:
    """Some of CounterFact's records, asked their rephrasings."""
    edits = [edit(r["prompt"], r["subject"]) for r in records]
    asked = [(i, r["rephrase_prompt"]) for i, r in enumerate(records)]
    hard = {"locality": list(dict.fromkeys(r["locality_prompt"] for r in records))}
    return World(edits, asked, hard, left_out())


def backwards_world() -> World:
    """Facts asked of their answer ("Vienna is the capital of"), the former and the new one."""
    path = Path(__file__).with_name("bench_router_backwards.toml")
    facts = [fact for kind in tomllib.loads(path.read_text("utf-8")).values()
             for fact in kind.values()]  # fmt: skip
    asked, former, new = list[tuple[int, str]](), list[str](), list[str]()
    edits = []
    for fact in facts:
        for subject, answer, other in zip(
            fact["subjects"][::2], fact["answers"][::2], fact["answers"][1::2], strict=True
        ):
            asked += [(len(edits), fill(text, subject)) for text in fact["others"]]
            former += [fill(text, answer) for text in fact["backwards"]]
            new += [fill(text, other) for text in fact["backwards"]]
            made = edit(fill(fact["prompt"], subject), subject)
            edits.append(replace(made, target=other, ground_truth=answer))
    return World(edits, asked, {"former": former, "new": new}, load())


VARIANTS: dict[str, Callable[[str, random.Random], str]] = {
    "as it is": lambda text, dice: text,
    "small letters": lambda text, dice: text.lower(),
    "capitals": lambda text, dice: text.upper(),
    "marks left out": lambda text, dice: text.rstrip("?."),
    "one typo": lambda text, dice: typo(text, dice),
    "one letter too few, too many or wrong": lambda text, dice: slip(text, dice),
    "one space too few or too many": lambda text, dice: space(text, dice),
    "Question: Answer:": lambda text, dice: f"Question: {text} Answer:",
    "polite": lambda text, dice: f"Hi! Could you please help me? {text} Thanks!",
    "behind a system line": lambda text, dice: f"You are a helpful assistant. {text}",
    "third turn, one text": lambda text, dice: (
        f"User: How are you?\nAssistant: Fine, thanks.\nUser: Tell me a joke.\n"
        f"Assistant: Not now.\nUser: {text}"
    ),
}


def typo(text: str, dice: random.Random) -> str:
    """Two neighbouring letters swapped."""
    i = dice.randrange(1, len(text) - 2)
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def slip(text: str, dice: random.Random) -> str:
    """A letter left out, typed twice, or exchanged for another."""
    i = dice.choice([i for i in range(1, len(text) - 1) if text[i].isalpha()])
    return text[:i] + dice.choice(["", text[i] * 2, _letter(dice)]) + text[i + 1 :]


def space(text: str, dice: random.Random) -> str:
    """A space left out, or put in anywhere."""
    i = dice.choice([i for i in range(1, len(text) - 1) if text[i] == " "])
    j = dice.randrange(1, len(text) - 1)
    return dice.choice([text[:i] + text[i + 1 :], text[:j] + " " + text[j:]])


def renamed(world: World, known: Container[str], seed: int) -> list[str]:
    """Edits' own prompts about somebody else: a letter of a strange word of the name exchanged."""
    dice, made = random.Random(seed), []
    for i, edit in enumerate(world.edits):
        words = [
            w for w in re.findall(r"[A-Za-z]{4,}", subject(world, i)) if w.lower() not in known
        ]
        for word in words[:1]:
            at = dice.randrange(1, len(word))
            other = word[:at] + _letter(dice) + word[at + 1 :]
            made += [edit.prompt.replace(word, other)] if other != word else []
    return made


def _letter(dice: random.Random) -> str:
    return dice.choice(string.ascii_lowercase)


def typed(world: World, form: Callable[[str, random.Random], str], seed: int) -> World:
    """A world whose texts are all typed in one way."""
    dice = random.Random(seed)
    asked = [(i, form(text, dice)) for i, text in world.asked]
    hard = {s: [form(text, dice) for text in texts] for s, texts in world.hard.items()}
    return replace(world, asked=asked, hard=hard)


def in_language(world: World, questions: Mapping[str, str], seed: int) -> World:
    """English edits of `facts()` asked in another language, and hard negatives in the same."""
    dice = random.Random(seed)
    asked = [(i, questions[f.name].replace("{}", subject(world, i)))
             for i, f in enumerate(world.facts)]  # fmt: skip
    there = [replace(f, templates=(questions[f.name],)) for f in facts() if f.edited]
    of = {f.name: f for f in there}
    taken = {(f.name, subject(world, i)) for i, f in enumerate(world.facts)}
    made = {
        sort: {
            negative(sort, of[f.name], subject(world, i), questions[f.name], there, taken, dice)
            for i, f in enumerate(world.facts)
        }
        for sort in SORTS
    }
    hard = {sort: sorted(filter(None, texts)) for sort, texts in made.items()}
    return replace(world, asked=asked, hard=hard)


def follow_ups() -> list[str]:
    """Questions that name no subject: "Where was he born?"."""
    return [fill(t, written()["pronouns"][f.kind]) for f in facts() for t in f.templates]
