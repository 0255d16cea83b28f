"""Which edit a prompt reaches: recall against hard negatives, by the product's own thresholds.

    python tools/bench_router.py [PART ...] [--encoder DIR] [--adapter FILE] [--edits 200]

Parts: `facts` (CounterFact's subjects in ParaRel's patterns and in questions of our own), `present`
(the same, its relations among those that keys and guards are made of), `business` (invented
companies and products, relations left out), `many` (1,000 edits), `alone` (one edit at a time),
`zsre`, `counterfact`, `variants` (careless typing, chats), `languages` (German, Spanish, French),
`follow` (follow-ups that name no subject), `own` (the development set of
tools/bench_router_own.toml, relations present), `answers` (its relations of
tools/bench_answers_own.toml, edits with answers and without), `backwards` (facts asked of their
answer), `own_alone` (the development set, one edit at a time: slow), `sites` (what a language
model's own activations reach: slow). All but the last two by default.

A hard negative is the same template with another subject, the same subject asked another relation,
or both. "at 1%" is recall while at most that share of hard negatives fires, all thresholds moved
together, with hindsight; "own thresholds" is what happens without. Relations of a test are left out
of keys, guards and, with an adapter trained by `tools/train_router.py --without`, of training.
The last line is one JSON document.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from router_looks import (
    Look,
    Remembering,
    Row,
    bare,
    by_faiss,
    cosine,
    every_view,
    look_up,
    measure,
    show,
)
from router_worlds import (
    VARIANTS,
    Fact,
    World,
    answered_world,
    ask,
    backwards_world,
    before_subject,
    business,
    counterfact,
    counterfact_world,
    facts,
    follow_ups,
    in_language,
    left_out,
    misses_of,
    own_facts,
    renamed,
    typed,
    unrelated,
    written,
    zsre_world,
)

from memoir_edge.demo.models import path as model_path
from memoir_edge.relations import load
from memoir_edge.router.asks import Asked, asks
from memoir_edge.router.encoder import Encoder
from memoir_edge.router.table import tabulate


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
        table = tabulate(asked, router)
        return asked, every_view(look_up(table, router), router.respelling(table.texts))


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


def own(bench: Bench) -> list[Row]:
    """The package's relations in other phrasings than theirs, asked of other subjects."""
    world = ask(own_facts(), load(), bench.edits, bench.seed)
    return [{"router": "our own phrasings", **recognised(world, bench)}]


def recognised(world: World, bench: Bench) -> Row:
    """What a world's phrasings reach, and whose edits' relations are known, and rightly."""
    asked, look = bench.table(world, bench.router)
    known = [one.reading.relation.id if one.reading.relation else None for one in asked]
    right = [name == fact.name for name, fact in zip(known, world.facts, strict=True)]
    return {**measure(world, look), "recognised": sum(map(bool, known)) / len(known),
            "rightly": sum(right) / len(right)}  # fmt: skip


def answers(bench: Bench) -> list[Row]:
    """Whether what an edit answers tells what it asks: the same, of relations with answers."""
    world = answered_world(bench.edits, bench.seed)
    untold = replace(world, edits=[replace(edit, target="") for edit in world.edits])
    return [{"the edits' answers": told, **recognised(some, bench)}
            for told, some in (("left out", untold), ("read", world))]  # fmt: skip


def backwards(bench: Bench) -> list[Row]:
    """Facts asked of their answer ("Vienna is the capital of"), by what the records say of it."""
    whole = backwards_world()
    rows = []
    for said in ("nothing", "the target", "the former answer, too"):
        some = [replace(e, ground_truth=e.ground_truth if "too" in said else None,
                        target="" if said == "nothing" else e.target)
                for e in whole.edits]  # fmt: skip
        for relations, which in ((load(), "present"), (left_out(), "left out")):
            world = replace(whole, edits=some, relations=relations)
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
    look = every_view(look_up(table, bench.router), bench.router.respelling(table.texts))
    near = misses_of(i, world, facts, bench.seed)
    texts = [text for place, text in world.asked if place == i]
    return {"edit": one.prompt, "near misses": len(near), "fire": int(look(near).fires().sum()),
            "recall": float(look(texts).fires().mean())}  # fmt: skip


def zsre(bench: Bench) -> list[Row]:
    """ZsRE's rephrasings."""
    world = zsre_world()
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


def rephrased(bench: Bench, records: Sequence[dict[str, str]]) -> dict[str, Row]:
    """What some records' rephrasings reach, by router."""
    world = counterfact_world(records)
    prompts = [e.prompt for e in world.edits]
    plain = bare(prompts, range(len(prompts)), bench.plain.embeddings, cosine)
    look = bench.product(world)
    respell = bench.plain.respelling(prompts)
    return {
        "encoder: cosine": measure(world, every_view(plain, respell), own=False),
        "the product": measure(world, look),
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
        ways = {name: (form, table.texts) for name, form in VARIANTS.items()}
        ways |= {"one typo, put right by the encoder's words": (VARIANTS["one typo"], ())}
        for name, (form, known) in ways.items():
            look = every_view(near, bench.router.respelling(known))
            row = measure(typed(world, form, bench.seed), look)
            rows.append({"edits": label, "typed": name, **row})
        others = renamed(world, bench.router.encoder.module.tokenizer.get_vocab(), bench.seed)
        for name, known in (("all words", table.texts), ("the encoder's words", ())):
            fires = every_view(near, bench.router.respelling(known))(others).fires().mean()
            rows.append({"edits": label, "typed": f"a name that differs in a letter, by {name}",
                         "fires": float(fires)})  # fmt: skip
    return rows


def languages(bench: Bench) -> list[Row]:
    """English edits asked in other languages, and hard negatives in the same."""
    world = ask(facts(), load(), bench.edits, bench.seed)
    look = bench.product(world)
    return [
        {"asked in": language, **measure(in_language(world, questions, bench.seed), look)}
        for language, questions in written()["languages"].items()
    ]


def follow(bench: Bench) -> list[Row]:
    """Follow-ups that name no subject: "Where was he born?" after a turn that named somebody."""
    world = ask(facts(), load(), bench.edits, bench.seed)
    look = bench.product(world)
    texts = follow_ups()
    found = look(texts)
    return [{"follow-ups": len(texts), "reach an edit": int(found.fires().sum()),
             "highest": float(found.above.max())}]  # fmt: skip


def sites(bench: Bench) -> list[Row]:
    """What the language model's own activations reach."""
    from router_sites import by_activations  # torch and the model: for this part alone

    return by_activations(ask(facts(), left_out(), bench.edits, bench.seed))


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
    "answers": answers,
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
