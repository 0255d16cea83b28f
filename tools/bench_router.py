"""Which edit a prompt reaches: recall against hard negatives, by the product's own thresholds.

    python tools/bench_router.py [PART ...] [--encoder DIR] [--adapter FILE] [--edits 200]

Parts: `facts` (CounterFact's subjects in ParaRel's patterns and in questions of our own), `present`
(the same, its relations among those that keys and guards are made of), `business` (invented
companies and products, relations left out), `many` (1,000 edits), `alone` (one edit at a time),
`zsre`, `counterfact`, `variants` (careless typing, chats), `languages` (German, Spanish, French),
`follow` (follow-ups that name no subject), `own` (the development set of
tools/bench_router_own.toml, relations present), `backwards` (facts asked of their answer),
`own_alone` (the development set, one edit at a time: slow), `sites` (what a language model's own
activations reach: slow). All but the last two by default.

A hard negative is the same template with another subject, the same subject asked another relation,
or both. "at 1%" is recall while at most that share of hard negatives fires, all thresholds moved
together, with hindsight; "own thresholds" is what happens without. Relations of a test are left out
of keys, guards and, with an adapter trained by `tools/train_router.py --without`, of training.
The last line is one JSON document.
"""

import argparse
import json
import os
import random
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Printed

from memoir_edge import tophash
from memoir_edge.demo.models import path as model_path
from memoir_edge.edits import Edit, default_id, read
from memoir_edge.evaluate.metrics import wilson
from memoir_edge.relations import Relation, fill, load, without
from memoir_edge.router.asks import Asked, asks
from memoir_edge.router.codes import codes
from memoir_edge.router.encoder import Encoder
from memoir_edge.router.measure import hindsight
from memoir_edge.router.table import Table, tabulate
from memoir_edge.tophash import Bytes, Floats, Ints
from memoir_edge.views import views

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MEMOIR_EDGE_DATA", ROOT / "../shared/data"))
BOUNDS = (0.05, 0.01, 0.002)
SORTS = ("template", "subject", "both")
PHRASINGS = 5  # unseen ones that an edit is asked in
Row = dict[str, Any]

# --- What is asked -------------------------------------------------------------------------------


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


@cache
def written() -> dict[str, Any]:
    """Questions and facts of our own."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


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


# --- What answers --------------------------------------------------------------------------------


class Remembering:
    """An encoder that encodes each text once."""

    kind = "encoder"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.bits, self.weight, self.digest = encoder.bits, encoder.weight, encoder.digest
        self.respell = encoder.respell
        self._known: dict[str, Floats] = {}

    def embeddings(self, texts: Sequence[str]) -> Floats:
        """As the encoder gives them."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, self.encoder.embeddings(new), strict=True)
        return np.array([self._known[text] for text in texts], np.float32)

    def codes(self, texts: Sequence[str]) -> Bytes:
        """Packed codes."""
        return codes(self.embeddings(texts), self.bits)


@dataclass
class Found:
    """What was nearest to some texts: the edit (-1 a guard), and by how much it passed."""

    edit: Ints
    above: Floats  # overlap, less the key's threshold

    def fires(self, moved: float = 0.0) -> np.ndarray:
        """Which texts reach an edit."""
        return (self.edit >= 0) & (self.above >= moved)


Look = Callable[[Sequence[str]], Found]


def look_up(table: Table, router: Remembering) -> Look:
    """Nearest row of a table, as Route finds it."""

    def look(texts: Sequence[str]) -> Found:
        undecided = np.zeros(1, np.int64)
        found = [
            tophash.route(
                some,
                undecided,
                table.codes,
                table.owner,
                table.thresholds,
                router.weight,
            )
            for some in np.array_split(router.codes(texts), len(texts) // 256 + 1)
        ]
        row = np.concatenate([f.candidate for f in found])
        R = np.concatenate([f.overlap for f in found])
        return Found(table.owner[row].astype(np.int64), R - table.thresholds[row])

    return look


def every_view(look: Look, respell: Callable[[str], str] | None) -> Look:
    """The whole text, its last sentence, or either with typos put right: what passes by most."""

    def looked(prompts: Sequence[str]) -> Found:
        texts, of = views(prompts, respell)
        found = look(texts)
        order = np.lexsort((-found.above, found.edit < 0, of))
        best = order[np.searchsorted(of[order], np.arange(len(prompts)))]
        return Found(found.edit[best], found.above[best])

    return looked


def bare(texts: Sequence[str], owner: Sequence[int], embed: Callable[[Sequence[str]], Floats],
         near: Callable[[Floats, Floats], Floats]) -> Look:  # fmt: skip
    """Nearest of some keys by any measure; one threshold for all."""
    keys, of = embed(texts), np.array(owner)

    def look(asked: Sequence[str]) -> Found:
        R = near(embed(asked), keys)
        row = R.argmax(axis=1)
        return Found(of[row], R[np.arange(len(R)), row])

    return look


def by_faiss(texts: Sequence[str], owner: Sequence[int], router: Remembering) -> Look | None:
    """Nearest of the same codes, as faiss finds it; one threshold for all."""
    try:
        import faiss
    except ImportError:
        return None
    index, of = faiss.IndexBinaryFlat(router.bits), np.array(owner)
    index.add(router.codes(texts))

    def look(asked: Sequence[str]) -> Found:
        distance, row = index.search(router.codes(asked), 1)
        return Found(of[row[:, 0]], 1 - distance[:, 0] / (2 * router.weight))

    return look


def cosine(a: Floats, b: Floats) -> Floats:
    """Cosines of rows, `[n, m]`."""
    norm = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    return np.asarray(norm[0] @ norm[1].T)


# --- Tables --------------------------------------------------------------------------------------


def measure(world: World, look: Look, *, own: bool = True) -> Row:
    """Recall and false fires, with hindsight and, for `own`, at the thresholds as they are."""
    asked = look([text for _, text in world.asked])
    right = world.right(asked.edit)
    hard = {sort: look(texts) for sort, texts in world.hard.items() if texts}
    above = np.concatenate([np.where(f.edit >= 0, f.above, -9) for f in hard.values()])
    row: Row = {"nearest": float(right.mean())}
    for bound in BOUNDS:
        row[f"at {bound:.1%}"] = hindsight(right, asked.above, above, bound)
    if own:
        reached = right & asked.fires()
        row["own"] = float(reached.mean())
        row["interval"] = [round(e or 0, 3) for e in wilson(int(reached.sum()), len(reached))]
        row["fires"] = float((above >= 0).mean())
        row |= {f"fires: {sort}": float(f.fires().mean()) for sort, f in hard.items()}
    return row


def show(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Printed(*columns, title=title)
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v := row.get(c, ""), float) else str(v)
                        for c in columns))  # fmt: skip
    Console(width=150).print(table)


# --- Parts ---------------------------------------------------------------------------------------


@dataclass
class Bench:
    """What all parts share."""

    router: Remembering
    plain: Remembering  # the encoder without its adapter
    edits: int
    seed: int

    def product(self, world: World) -> Look:
        """Keys, guards and thresholds as the product makes them."""
        return self.table(world, self.router)[1]

    def table(self, world: World, router: Remembering) -> tuple[list[Asked], Look]:
        """The same, with what is asked of each edit."""
        asked = asks(world.edits, world.relations, router)
        return asked, every_view(look_up(tabulate(asked, router), router), router.respell)


def left_out() -> Sequence[Relation]:
    """The package's relations but for those of the test."""
    return without(load(), properties())


def facts_(bench: Bench) -> list[Row]:
    """What separates paraphrases from hard negatives."""
    world = ask(facts(), left_out(), bench.edits, bench.seed)
    told = ask(facts(), left_out(), bench.edits, bench.seed, told=2)
    prompts = [e.prompt for e in world.edits]
    owner = range(len(prompts))
    far = unrelated()
    rows = []
    for name, router in (("encoder", bench.plain), ("encoder, adapter", bench.router)):
        embed = router.embeddings
        rows.append({"router": f"{name}: cosine",
                     **measure(world, bare(prompts, owner, embed, cosine), own=False)})  # fmt: skip
        asked, look = bench.table(world, router)
        keys = [(key, i) for i, one in enumerate(asked) for key in one.keys]
        keys += [(guard.text, -1) for one in asked for guard in one.guards]
        same = [text for text, _ in keys], [of for _, of in keys]
        rows.append({"router": f"{name}: cosine, the product's keys and guards",
                     **measure(world, bare(*same, embed, cosine), own=False)})  # fmt: skip
        if found := by_faiss(*same, router):
            rows.append({"router": f"{name}: faiss, the product's codes",
                         **measure(world, found, own=False)})  # fmt: skip
        rows.append({"router": f"{name}: the product", **measure(world, look),
                     "unrelated": int(look(far).fires().sum())})  # fmt: skip
    rows.append({"router": "two further keys", **measure(told, bench.product(told))})
    return rows


def present(bench: Bench) -> list[Row]:
    """The test's relations among those of keys and guards."""
    world = ask(facts(), load(), bench.edits, bench.seed)
    asked, look = bench.table(world, bench.router)
    known = [one.reading.relation for one in asked]
    return [{"router": "relations present", **measure(world, look),
             "recognised": sum(r is not None for r in known) / len(known)}]  # fmt: skip


def own_facts() -> list[Fact]:
    """The package's relations in phrasings that it does not hold."""
    path = Path(__file__).with_name("bench_router_own.toml")
    kinds = tomllib.loads(path.read_text("utf-8"))
    return [
        Fact(r.id, r.kind, tuple(kinds[r.kind][r.id.partition(".")[2]]["phrasings"]),
             tuple(kinds["subjects"][r.kind]), True)
        for r in load()
    ]  # fmt: skip


def own(bench: Bench) -> list[Row]:
    """The package's relations in other phrasings than theirs, asked of other subjects."""
    world = ask(own_facts(), load(), bench.edits, bench.seed)
    asked, look = bench.table(world, bench.router)
    known = [one.reading.relation.id if one.reading.relation else None for one in asked]
    right = [name == fact.name for name, fact in zip(known, world.facts, strict=True)]
    return [{"router": "our own phrasings", **measure(world, look),
             "recognised": sum(map(bool, known)) / len(known),
             "rightly": sum(right) / len(right)}]  # fmt: skip


def backwards(bench: Bench) -> list[Row]:
    """Facts asked of their answer ("Vienna is the capital of"), by what the records say of it."""
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
    rows = []
    for said in ("nothing", "the target", "the former answer, too"):
        some = [replace(e, ground_truth=e.ground_truth if "too" in said else None,
                        target="" if said == "nothing" else e.target) for e in edits]  # fmt: skip
        for relations, which in ((load(), "present"), (left_out(), "left out")):
            world = World(some, asked, {"former": former, "new": new}, relations)
            row = measure(world, bench.product(world))
            rows.append({"the record gives": said, "relations": which, "own": row["own"],
                         "former answers": row["fires: former"],
                         "new answers": row["fires: new"]})  # fmt: skip
    return rows


def business_(bench: Bench) -> list[Row]:
    """Invented companies and products."""
    world = ask(business(), load(), bench.edits, bench.seed)
    return [{"router": "prompt only", **measure(world, bench.product(world))}]


def many(bench: Bench) -> list[Row]:
    """More edits."""
    rows = []
    for count in (bench.edits, 1000):
        world = ask(facts(), left_out(), count, bench.seed)
        row = measure(world, bench.product(world))
        rows.append({"edits": len(world.edits), **row})
    return rows


def alone(bench: Bench) -> list[Row]:
    """One edit at a time, with near misses of its own."""
    world = ask(facts(), left_out(), 24, bench.seed)
    return [by_itself(i, world, facts(), bench) for i in range(len(world.edits))]


def own_alone(bench: Bench) -> list[Row]:
    """The same of the development set, in all."""
    world = ask(own_facts(), load(), 1, bench.seed)  # one of each relation
    rows = [by_itself(i, world, own_facts(), bench) for i in range(len(world.edits))]
    near, fire = (sum(row[name] for row in rows) for name in ("near misses", "fire"))
    return [{"edits": len(rows), "near misses": near, "fire": fire, "fires": fire / near,
             "recall": sum(row["recall"] for row in rows) / len(rows)}]  # fmt: skip


def by_itself(i: int, world: World, facts: Sequence[Fact], bench: Bench) -> Row:
    """An edit that has a memory of its own."""
    one = world.edits[i]
    table = tabulate(asks([one], world.relations, bench.router), bench.router)
    look = every_view(look_up(table, bench.router), bench.router.respell)
    near = misses_of(i, world, facts, bench.seed)
    texts = [text for place, text in world.asked if place == i]
    return {"edit": one.prompt, "near misses": len(near), "fire": int(look(near).fires().sum()),
            "recall": float(look(texts).fires().mean())}  # fmt: skip


def misses_of(
    i: int, world: World, facts: Sequence[Fact], seed: int, count: int = 200
) -> list[str]:
    """Near misses of one edit."""
    dice = random.Random(seed + i)
    prompt, subject, fact = world.edits[i].prompt, str(world.edits[i].subject), world.facts[i]
    template = next(t for t in fact.templates if fill(t, subject) == prompt)
    made: dict[str, None] = {}
    for _ in range(20 * count):
        if len(made) < count:
            text = negative(dice.choice(SORTS), fact, subject, template, facts, set(), dice)
            made |= {text: None} if text else {}
    return list(made)


def zsre(bench: Bench) -> list[Row]:
    """ZsRE's rephrasings; records that contradict one another count by subject."""
    edits, _ = read(DATA / "zsre/zsre_eval.json", skip_bad=True)
    asked = [(i, text) for i, e in enumerate(edits) for text in e.rephrase]
    by: dict[str, set[int]] = {}
    for i, e in enumerate(edits):
        by.setdefault(str(e.subject), set()).add(i)
    hard = {"locality": list(dict.fromkeys(p.prompt for e in edits for p in e.locality))}
    world = World(edits, asked, hard, load(), same=[by[str(e.subject)] for e in edits])
    return [{"router": "the product", **measure(world, bench.product(world))}]


def counterfact_(bench: Bench) -> list[Row]:
    """CounterFact's rephrasings: of another relation most of them, and paraphrases.

    A paraphrase stands behind a sentence about something else. What does not ("X was born in", of
    an edit of X's mother tongue) asks the subject another question, whose answer the edit bears on.
    """
    records = counterfact()
    behind = [r for r in records if before_subject(r["rephrase_prompt"], r["subject"])]
    said = {"paraphrases": behind, "as they come": records}
    return [
        {"rephrasings": label, "router": name, **row}
        for label, some in said.items()
        for name, row in rephrased(bench, some[: bench.edits]).items()
    ]


def before_subject(text: str, subject: str) -> bool:
    """Whether a sentence ends before the subject is named."""
    return bool(re.search(r"[.!?\n]", text.partition(subject)[0]))


def rephrased(bench: Bench, records: Sequence[dict[str, str]]) -> dict[str, Row]:
    """What some records' rephrasings reach, by router."""
    edits = [edit(r["prompt"], r["subject"]) for r in records]
    asked = [(i, r["rephrase_prompt"]) for i, r in enumerate(records)]
    hard = {"locality": list(dict.fromkeys(r["locality_prompt"] for r in records))}
    world = World(edits, asked, hard, left_out())
    prompts = [e.prompt for e in edits]
    plain = bare(prompts, range(len(prompts)), bench.plain.embeddings, cosine)
    look = bench.product(world)
    return {
        "encoder: cosine": measure(world, every_view(plain, bench.plain.respell), own=False),
        "the product": measure(world, look),
    }


VARIANTS: dict[str, Callable[[str, random.Random], str]] = {
    "as it is": lambda text, dice: text,
    "small letters": lambda text, dice: text.lower(),
    "capitals": lambda text, dice: text.upper(),
    "marks left out": lambda text, dice: text.rstrip("?."),
    "one typo": lambda text, dice: typo(text, dice),
    "Question: Answer:": lambda text, dice: f"Question: {text} Answer:",
    "polite": lambda text, dice: f"Hi! Could you please help me? {text} Thanks!",
    "behind a system line": lambda text, dice: f"You are a helpful assistant. {text}",
    "third turn, one text": lambda text, dice: (
        f"User: How are you?\nAssistant: Fine, thanks.\nUser: Tell me a joke.\n"
        f"Assistant: Not now.\nUser: {text}"
    ),
}


def variants(bench: Bench) -> list[Row]:
    """How people type; false fires are those of hard negatives typed in the same way.

    In a chat the last user message alone is read, so that a system line and earlier turns change
    nothing; the last rows show what happens where a client sends all as one text.
    """
    rows = []
    worlds = {"facts": ask(facts(), left_out(), bench.edits, bench.seed),
              "business": ask(business(), load(), bench.edits, bench.seed)}  # fmt: skip
    for label, world in worlds.items():
        table = tabulate(asks(world.edits, world.relations, bench.router), bench.router)
        near = look_up(table, bench.router)
        ways = {name: (form, bench.router.respell) for name, form in VARIANTS.items()}
        ways |= {"one typo, none put right": (VARIANTS["one typo"], None)}
        for name, (form, respell) in ways.items():
            dice = random.Random(bench.seed)
            asked = [(i, form(text, dice)) for i, text in world.asked]
            hard = {s: [form(text, dice) for text in texts] for s, texts in world.hard.items()}
            row = measure(replace(world, asked=asked, hard=hard), every_view(near, respell))
            rows.append({"edits": label, "typed": name, **row})
    return rows


def languages(bench: Bench) -> list[Row]:
    """English edits asked in other languages, and hard negatives in the same."""
    world = ask(facts(), load(), bench.edits, bench.seed)
    look = bench.product(world)
    rows = []
    for language, questions in written()["languages"].items():
        dice = random.Random(bench.seed)
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
        rows.append({"asked in": language, **measure(replace(world, asked=asked, hard=hard), look)})
    return rows


def subject(world: World, i: int) -> str:
    """Of an edit."""
    return str(world.edits[i].subject)


def follow(bench: Bench) -> list[Row]:
    """Follow-ups that name no subject: "Where was he born?" after a turn that named somebody."""
    world = ask(facts(), load(), bench.edits, bench.seed)
    look = bench.product(world)
    texts = [fill(t, written()["pronouns"][f.kind]) for f in facts() for t in f.templates]
    found = look(texts)
    return [{"follow-ups": len(texts), "reach an edit": int(found.fires().sum()),
             "highest": float(found.above.max())}]  # fmt: skip


def typo(text: str, dice: random.Random) -> str:
    """Two neighbouring letters swapped."""
    i = dice.randrange(1, len(text) - 2)
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def unrelated(count: int = 2000) -> list[str]:
    """Questions about other things: of ZsRE and of Natural Questions."""
    other, _ = read(DATA / "zsre/knowedit_zsre.json", skip_bad=True)
    own, _ = read(DATA / "zsre/zsre_eval.json", skip_bad=True)
    asked = [p.prompt.removeprefix("nq question: ") for e in own for p in e.locality]
    return list(dict.fromkeys([*asked, *(e.prompt for e in other)]))[:count]


def sites(bench: Bench) -> list[Row]:
    """What the language model's own activations reach: SmolLM2's, at the default site.

    The input of the site as the paper hashes it, by mean and by last token; and the state of the
    last token behind the block compared by Euclidean distance, as GRACE does.
    """
    from memoir_edge.editor import load as load_model
    from memoir_edge.editor import quiet

    quiet()
    base = load_model(str(model_path("smollm2")), device="cpu")
    world = ask(facts(), left_out(), bench.edits, bench.seed)
    prompts = [e.prompt for e in world.edits]
    texts = [*prompts, *(t for _, t in world.asked), *(t for s in world.hard.values() for t in s)]
    far = unrelated(200)
    read_ = dict(zip([*texts, *far], activations(base, [*texts, *far]), strict=True))
    rows = []
    for name in ("mean", "last"):
        center = np.mean([getattr(read_[text], name) for text in far], axis=0)
        D = len(center)
        k = round(2 / 7 * D)

        def masks(texts: Sequence[str], name: str = name, center: Floats = center) -> Floats:
            f = np.array([getattr(read_[text], name) for text in texts], np.float32)
            order = np.arange(D)  # noqa: B023 # D is the same for both
            bits = tophash.mask(f, center, np.ones_like(center), order, k)  # noqa: B023
            return bits.astype(np.float32)

        look = bare(prompts, range(len(prompts)), masks, lambda a, b, k=k: a @ b.T / k)
        rows.append({"router": f"site's input, {name}", **measure(world, look, own=False)})
    states = lambda texts: np.array([read_[text].state for text in texts])  # noqa: E731
    near = lambda a, b: -np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))  # noqa: E731
    grace = bare(prompts, range(len(prompts)), states, near)
    rows.append({"router": "last token's state, distance", **measure(world, grace, own=False)})
    return rows


@dataclass
class Activations:
    """Of one text at the site."""

    mean: Floats
    last: Floats
    state: Floats  # behind the block, last token


def activations(base: Any, texts: Sequence[str]) -> list[Activations]:
    """One text at a time, so that no padding is read."""
    import torch

    from memoir_edge.sites import default_site

    site = base.net.get_submodule(default_site(base.config))
    block = base.net.get_submodule(default_site(base.config).removesuffix(".mlp.down_proj"))
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        site.register_forward_pre_hook(lambda _, given: seen.update(site=given[0][0])),
        block.register_forward_hook(
            lambda _, given, out: seen.update(block=(out[0] if isinstance(out, tuple) else out)[0])
        ),
    ]
    made = []
    with torch.no_grad():
        for text in texts:
            base.net.model(torch.tensor([base.encode(text)]))
            a = seen["site"].numpy()
            made.append(Activations(a.mean(axis=0), a[-1], seen["block"][-1].numpy()))
    for hook in hooks:
        hook.remove()
    return made


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "facts": facts_,
    "present": present,
    "business": business_,
    "many": many,
    "alone": alone,
    "zsre": zsre,
    "counterfact": counterfact_,
    "variants": variants,
    "languages": languages,
    "follow": follow,
    "own": own,
    "backwards": backwards,
    "own_alone": own_alone,
    "sites": sites,
}


SLOW = ("own_alone", "sites")


def main() -> None:
    """The parts that are named, or all but the slow ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS))
    parser.add_argument("--encoder", help="default: MiniLM, fetched")
    parser.add_argument("--adapter", help='FILE; default: the shipped one; "": none')
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    name = given.encoder or str(model_path("minilm"))
    bench = Bench(Remembering(Encoder(name, adapter=given.adapter)),
                  Remembering(Encoder(name, adapter="")), given.edits, given.seed)  # fmt: skip
    done = {}
    for part in given.parts or [part for part in PARTS if part not in SLOW]:
        done[part] = PARTS[part](bench)
        show(part, done[part])
    print(json.dumps({"edits": given.edits, "seed": given.seed, "parts": done}))


if __name__ == "__main__":
    main()
