"""A hundred edits that crowd in different ways: does it matter what they are about?

    python tools/experiments/density.py --keep DIR [--edits 100] [--seed 0] [--plot FILE]

Edits of people in SmolLM2, ten relations with ten answers each (density.toml), those relations left
out of keys and guards: spread over a hundred subjects and all relations; all relations of a tenth
as many subjects; one relation of a hundred subjects; and a tenth as many prompts, each told ten
different things. Each is trained once, in order; then everything is asked on its edit's own row:
what is lost is lost in training, not in routing. Then `apply`'s checks and repairs, and once more.

The prediction, written before the first run. Masks are drawn by a prompt's text, so two prompts'
masks overlap by chance, whatever they ask; then what an edit loses follows from the number of later
edits alone, and three of the four must be alike. `LOST` is what collisions.py measured with sparing
(.967 when made, .912 after the last of 48, an edit of mean age 23.5). One prompt's edits all write
the same columns, and a later one replaces those before it: a tenth is right.

Each arrangement is kept in DIR once it was asked; an interrupted experiment goes on there.
docs/experiments.md shows a run. The last line is one JSON document.
"""

import argparse
import json
import random
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from compare_training import gives
from router_looks import show
from train_router import name

from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import BaseModel, Editor, Wishes, choose, load, quiet
from memoir_edge.edits import Edit, default_id
from memoir_edge.evaluate.dataset import kept
from memoir_edge.relations import Relation, fill, without
from memoir_edge.relations import load as load_relations
from memoir_edge.router import Encoder

Row = dict[str, Any]
MADE, LOST = 0.967, 0.055 / 23.5  # right when made; lost with each later edit
TIMES = 10  # that one prompt is told something else


def main() -> None:
    """Every arrangement, then a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    given.keep.mkdir(parents=True, exist_ok=True)
    base = load(str(model_path("smollm2")), device="cpu")
    router = Encoder(str(model_path("minilm")))
    rows = []
    for label, arranged in ARRANGEMENTS.items():
        edits = arranged(given.edits, given.seed)
        path = given.keep / f"{label}-{len(edits)}-{given.seed}.json"
        found = kept(path, lambda edits=edits: crowded(base, router, edits))
        rows.append({"edits": label, "predicted": predicted(edits), **found})
    show(f"{given.edits} edits, on their own row", rows)
    if given.plot:
        plot(rows, given.plot)
    print(json.dumps({"experiment": "density", "edits": given.edits, "rows": rows}))


def predicted(edits: Sequence[Edit]) -> float:
    """Share of what is asked that is right after the last edit, by the number of edits alone."""
    prompts = len({edit.prompt for edit in edits})
    return prompts / len(edits) * (MADE - LOST * (len(edits) - 1) / 2)


# --- Arrangements --------------------------------------------------------------------------------


def answers() -> dict[str, list[str]]:
    """Ten of each relation."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def asked() -> list[Relation]:
    """The relations that are edited."""
    known = {relation.id: relation for relation in load_relations()}
    return [known[id_] for id_ in answers()]


def people(count: int, seed: int) -> list[str]:
    """Names, each once."""
    dice = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[name("person", dice)] = None
    return list(made)


def edit(relation: Relation, subject: str, answer: int) -> Edit:
    """The relation's first phrasing; the others are asked."""
    first, *others = (fill(phrasing, subject) for phrasing in relation.phrasings)
    target = answers()[relation.id][answer % TIMES]
    return Edit(
        prompt=first, target=target, subject=subject, rephrase=tuple(others), tags={},
        id=default_id(first, target),
    )  # fmt: skip


def spread(count: int, seed: int) -> list[Edit]:
    """Each of another subject, over all relations."""
    relations = asked()
    return [
        edit(relations[i % len(relations)], subject, i // len(relations))
        for i, subject in enumerate(people(count, seed))
    ]


def few_subjects(count: int, seed: int) -> list[Edit]:
    """All relations of few subjects."""
    relations = asked()
    return [
        edit(relation, subject, i)
        for i, subject in enumerate(people(-(-count // len(relations)), seed))
        for relation in relations
    ][:count]


def one_relation(count: int, seed: int) -> list[Edit]:
    """One relation of many subjects."""
    return [edit(asked()[0], subject, i) for i, subject in enumerate(people(count, seed))]


def contradicting(count: int, seed: int) -> list[Edit]:
    """Few prompts, each told `TIMES` different things, in turn."""
    subjects = people(-(-count // TIMES), seed)
    relations = asked()
    return [
        edit(relations[i % len(relations)], subject, time)
        for time in range(TIMES)
        for i, subject in enumerate(subjects)
    ][:count]


ARRANGEMENTS: dict[str, Callable[[int, int], list[Edit]]] = {
    "spread": spread,
    "few subjects": few_subjects,
    "one relation": one_relation,
    "contradicting": contradicting,
}


# --- What they hold ------------------------------------------------------------------------------


def crowded(base: BaseModel, router: Encoder, edits: Sequence[Edit]) -> Row:
    """Train in order, ask; check and repair, ask again."""
    relations = without(load_relations(), [relation.id for relation in asked()])
    editor = Editor(base, choose(base, Wishes(), coded=True), router=router, relations=relations)
    new = []
    for one in edits:
        editor.edit([one])
        new += gives(editor, [(one, one.prompt)])
    found = {"when made": sum(new) / len(new), **holds(editor, edits, "once")}
    editor.settle()
    return found | holds(editor, edits, "repaired")


def holds(editor: Editor, edits: Sequence[Edit], when: str) -> Row:
    """Prompts and other phrasings that give their edit's answer; a replaced edit's do not."""
    rows = editor.live.bank.rows()
    live = [edit for edit in edits if edit.id in rows]
    own = gives(editor, [(edit, edit.prompt) for edit in live])
    said = gives(editor, [(edit, text) for edit in live for text in edit.rephrase])
    return {
        f"{when}: prompts": sum(own) / len(edits),
        f"{when}: phrasings": sum(said) / sum(len(edit.rephrase) for edit in edits),
    }


def plot(rows: Sequence[Row], path: Path) -> None:
    """What was predicted, and what held."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np

    shown = ("predicted", "once: prompts", "once: phrasings", "repaired: phrasings")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for i, label in enumerate(shown):
        axes.bar(np.arange(len(rows)) + 0.2 * i, [row[label] for row in rows], 0.2, label=label)
    axes.set_xticks(np.arange(len(rows)) + 0.3, [row["edits"] for row in rows])
    axes.set_ylabel("share that gives the edit's answer")
    axes.legend()
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
