"""Teach a sentence encoder to tell relations of one subject apart: a low-rank change of it.

    python tools/train_router.py --encoder DIR --out FILE [--without P36,country.currency]

Pairs are two phrasings of one relation asked of one subject; within a batch the others are
negatives: the same subject asked other relations, other subjects asked the same, and both.
Relations are the package's (memoir_edge/relations), thirteen hundred more (tools/phrasings), and
many of fixed forms (tools/attributes.toml). Subjects are listed (memoir_edge/router/subjects.toml)
or made here of syllables, some in pairs that differ in one word. A third of the texts is careless
(small letters, no mark, a typo), a fifth stands behind sentences about something else. The loss is
sentence-transformers' own. Three minutes of a GPU, hours of a CPU. The last line is one JSON
document.
"""

import argparse
import functools
import json
import math
import random
import re
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import track
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn
from torch.nn.utils import parametrize

from memoir_edge.nearmiss import unrelated_prompts
from memoir_edge.relations import Relation, fill, load, of_kind, question_answer, without
from memoir_edge.router.adapter import write
from memoir_edge.router.encoder import Encoder
from memoir_edge.router.subjects import subjects

RATE, WARM, SCALE = 5e-4, 60, 20.0
SHAPE = (4, 10, 6)  # kinds, relations of each and subjects of a batch
FORMED = 0.25  # share of the relations that are of fixed forms
CARELESS = 0.35
BEHIND = 0.2  # share of the texts that stand behind others
LONGEST = 96  # tokens
KEPT = 0.6  # of the change that was learned: with all of it, unseen relations lost what these won
Pair = tuple[str, str]


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without", default="", help="relations and Wikidata properties left out")
    parser.add_argument("--relations", type=Path, help="a file of further relations")
    parser.add_argument("--not-about", default="", help="words; no attribute with one is asked")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    left = without(known(given.relations), [name for name in given.without.split(",") if name])
    encoder = Encoder(given.encoder, adapter="")
    encoder.module.to(given.device)
    encoder.module.max_seq_length = LONGEST
    began = time.process_time()
    words = {word for word in given.not_about.split(",") if word}
    loss = train(encoder, left, formed(words), given.steps, given.rank, given.seed)
    layers = {name: (p.A, p.B) for name, p in low_rank(encoder)}
    write(
        given.out,
        {
            name: (A.detach().cpu().numpy(), (KEPT * B.detach()).cpu().numpy())
            for name, (A, B) in layers.items()
        },
        encoder.weights,
    )
    print(json.dumps({"relations": len(left), "loss": loss, "cpu_s": time.process_time() - began,
                      "bytes": given.out.stat().st_size}))  # fmt: skip


def known(path: Path | None) -> tuple[Relation, ...]:
    """The package's relations, a user's, and those of tools/phrasings."""
    found = {r.id: r for r in load(path)}
    for file in sorted(Path(__file__).with_name("phrasings").glob("*.toml")):
        found |= {r.id: r for r in load(file)}
    return tuple(found.values())


class LowRank(nn.Module):
    """`weight + B A`."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, weight.shape[1]) / math.sqrt(weight.shape[1]))
        self.B = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + self.B @ self.A


def low_rank(encoder: Encoder) -> Iterator[tuple[str, LowRank]]:
    """Layers that are changed, by their name in the transformer."""
    for name, module in encoder.module[0].auto_model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            yield name, module.parametrizations.weight[0]


def train(
    encoder: Encoder,
    relations: Sequence[Relation],
    attributes: Sequence[Relation],
    steps: int,
    rank: int,
    seed: int,
) -> float:
    """Put a low-rank change on the linear layers of the encoder's blocks, and train it."""
    torch.manual_seed(seed)
    for module in list(encoder.module[0].auto_model.encoder.layer.modules()):
        if isinstance(module, nn.Linear):
            low = LowRank(module.weight, rank).to(module.weight.device)
            parametrize.register_parametrization(module, "weight", low)
    changed = [p for _, low in low_rank(encoder) for p in low.parameters()]
    optimizer = torch.optim.AdamW(changed, lr=RATE, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM) * (1 - step / steps)
    )
    measure = MultipleNegativesRankingLoss(
        encoder.module,
        scale=SCALE,
        directions=("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
    )
    dice = random.Random(seed)
    for _ in track(range(steps), "training"):
        sides = zip(*batch(relations, attributes, dice), strict=True)
        features = [encoder.module.preprocess(list(side)) for side in sides]
        loss = measure(features, torch.empty(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return float(loss.detach())


def batch(
    relations: Sequence[Relation], attributes: Sequence[Relation], dice: random.Random
) -> list[Pair]:
    """Some kinds, some of their relations, each of the same subjects: two phrasings of all."""
    kinds, asked, count = SHAPE
    asked_ = functools.partial(as_asked, relations=relations, dice=dice)
    pairs = []
    for kind in dice.sample(sorted({r.kind for r in relations}), kinds):
        subjects_ = names(kind, count, dice)
        own = of_kind(attributes if dice.random() < FORMED else relations, kind)
        for relation in dice.sample(own, min(asked, len(own))):
            for subject in subjects_:
                a, b = dice.sample(relation.phrasings, 2)
                pairs.append((asked_(fill(a, subject)), asked_(fill(b, subject))))
    return pairs


def as_asked(text: str, relations: Sequence[Relation], dice: random.Random) -> str:
    """The text as it may arrive: typed somehow, and perhaps behind what somebody said before."""
    typed = as_typed(text, dice)
    if dice.random() > BEHIND:
        return typed
    return f"{before(relations, dice)} {typed}"


def before(relations: Sequence[Relation], dice: random.Random) -> str:
    """Something said about something else: an everyday sentence, or one or two facts."""
    if dice.random() < 0.3:
        return dice.choice(unrelated_prompts()).rstrip("?.!") + dice.choice(".?")
    said = dice.choices(relations, k=dice.choice((1, 1, 2)))
    return " ".join(
        f"{fill(dice.choice(r.statements), name(r.kind, dice))} {dice.choice(ANSWERS)}."
        for r in said
    )


def as_typed(text: str, dice: random.Random) -> str:
    """The text, or in one of three cases as careless people write it."""
    if dice.random() > CARELESS:
        return text
    place = dice.randrange(1, len(text) - 1)
    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    forms = [text.lower(), text.rstrip("?."), swapped]
    return dice.choice(forms + [question_answer(text)] * text.endswith("?"))


ANSWERS = (
    "1987", "Paris", "the chairman", "three weeks", "John Miller", "blue", "about 40 percent",
    "the second of May", "no one", "a small town in the north", "English", "$300", "Karin Holt",
    "the sea", "steel",
)  # fmt: skip


# --- Attributes ----------------------------------------------------------------------------------

NOUN = (
    "The {} of {{}} is", "{{}}'s {} is", "{{}} has the {}", "For {{}}, the {} is",
    "What is the {} of {{}}?", "What is {{}}'s {}?", "Which {} does {{}} have?",
    "Tell me the {} of {{}}.", "Do you know {{}}'s {}?",
)  # fmt: skip
DONE_BY = (
    "{{}} was {} by", "{{}}, {} by", "The one by whom {{}} was {} is", "Who was {{}} {} by?",
    "By whom was {{}} {}?", "Tell me by whom {{}} was {}.",
)  # fmt: skip
DONE_IN = (
    "{{}} was {} in", "{{}}, which was {} in", "The place where {{}} was {} is",
    "Where was {{}} {}?", "In which place was {{}} {}?", "Tell me where {{}} was {}.",
)  # fmt: skip


def formed(without_words: set[str]) -> list[Relation]:
    """The relations of tools/attributes.toml, but for those that name one of some words."""
    data = tomllib.loads(Path(__file__).with_name("attributes.toml").read_text("utf-8"))
    forms = {"nouns": NOUN, "done_by": DONE_BY, "done_in": DONE_IN}
    made = [
        Relation(f"{kind}.{text}", tuple(f.format(t) for f in forms[sort] for t in text.split("|")))
        for sort in forms
        for kind, texts in data[sort].items()
        for text in texts
    ]
    made += [_does(kind, *text.split()) for kind, texts in data["does"].items() for text in texts]
    return [r for r in made if without_words.isdisjoint(re.split(r"\W+", r.id.lower()))]


def _does(kind: str, base: str, third: str, *rest: str) -> Relation:
    """`lives in`: what a subject does, and to what."""
    after = "" if rest == ("-",) else " " + " ".join(rest)
    return Relation(
        f"{kind}.{base}{after}",
        (
            f"{{}} {third}{after}", f"{{}}, who {third}{after}",
            f"What {{}} {third}{after} is", f"What does {{}} {base}{after}?",
            f"Tell me what {{}} {third}{after}.",
        ),
    )  # fmt: skip


# --- Subjects ------------------------------------------------------------------------------------

SYLLABLES = (
    "al", "ba", "cor", "den", "el", "fa", "gri", "hol", "in", "jar", "kel", "lo", "mar", "nor",
    "or", "pel", "qui", "ros", "sel", "tor", "ul", "ven", "wil", "xan", "yor", "zet", "bri",
    "dra", "mon", "tel",
)  # fmt: skip
FIRST = (
    "Adam", "Anna", "Boris", "Carmen", "David", "Elena", "Felix", "Greta", "Hassan", "Ines",
    "Jonas", "Karin", "Lars", "Nadia", "Oscar", "Paula", "Rita", "Stefan", "Tara", "Umar", "Vera",
    "Walter", "Yusuf", "Zoe", "Abel", "Bianca",
)  # fmt: skip
SHAPES = {
    "city": ["{}", "{}", "{}ville", "{}burg", "{} Falls"],
    "country": ["{}ia", "{}land"],
    "document": ["the {} policy", "the {} agreement", "the {} report"],
    "event": ["the {} Cup", "the {} Summit", "the {} festival"],
    "organisation": ["{}", "{}", "{} Ltd", "{} Group", "{} Foods", "{} Systems"],
    "place": ["the {} Bridge", "{} Park", "{} Castle", "Lake {}"],
    "product": ["the {}", "{} 3", "the {} lamp", "{} Pro", "{} X2"],
    "service": ["{}", "the {} API", "{} Cloud", "the {} plan", "the {} service"],
    "software": ["{}", "{}DB", "the {} app"],
    "team": ["{} United", "the {} Wolves", "FC {}"],
    "thing": ["{}ite", "{}ine", "the {}er"],
    "work": ["{}", "The {} Garden", "A Letter to {}", "Nights in {}"],
}


def names(kind: str, count: int, dice: random.Random) -> list[str]:
    """Subjects of the kind; every second differs from the one before it in one word or is new."""
    made: list[str] = []
    for _ in range(count):
        words = made[-1].split() if len(made) % 2 else []
        if len(words) > 1 and dice.random() < 0.6:
            words[-1] = "".join(dice.sample(SYLLABLES, 2)).capitalize()
            made.append(" ".join(words))
        else:
            made.append(name(kind, dice))
    return list(dict.fromkeys(made))


def name(kind: str, dice: random.Random) -> str:
    """A subject of the kind: a listed one or one made up, evenly."""
    if dice.random() < 0.5:
        return dice.choice(subjects()[kind])
    word = "".join(dice.sample(SYLLABLES, dice.choice((2, 2, 3)))).capitalize()
    if kind == "person":
        return f"{dice.choice(FIRST)} {word}"
    return dice.choice(SHAPES.get(kind, ["{}"])).format(word)


if __name__ == "__main__":
    main()
