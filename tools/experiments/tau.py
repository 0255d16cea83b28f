"""One threshold for all keys, from .2 to .9: what reaches its edit, and what fires that must not.

    python tools/experiments/tau.py [--facts zsre counterfact] [--edits 200] [--seed 0]
                                    [--plot FILE]

Three ways to route: masks of SmolLM2's activations at the last token and at their mean, the prompts
alone as keys; and codes of MiniLM with the keys and guards that the product makes, the relations of
the test left out of them. ZsRE's records, one a subject, are asked their rephrasings, and their
locality prompts must not fire; CounterFact's subjects are asked as tools/bench_router.py asks them,
with its three sorts of hard negatives. `demo` asks the demo model's facts of the demo model.
docs/experiments.md shows a run. The last line is one JSON document.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from router_looks import Found, Look, Remembering, every_view, look_up, show
from router_worlds import DATA, World, ask, facts, left_out

from memoir_edge import tophash
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import BaseModel, Editor, Wishes, choose, load, quiet
from memoir_edge.edits import read
from memoir_edge.relations import load as load_relations
from memoir_edge.router import Encoder
from memoir_edge.router.asks import asks
from memoir_edge.router.table import tabulate
from memoir_edge.tophash import Floats

Row = dict[str, Any]
TAUS = np.arange(0.2, 0.91, 0.1).round(2)


def main() -> None:
    """Ask every world by every way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--facts", nargs="*", choices=WORLDS, default=["zsre", "counterfact"])
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    rows, curves = [], {}
    for name in given.facts:
        world = WORLDS[name](given.edits, given.seed)
        for routing, look in ways(name, world).items():
            found = asked(world, look)
            rows += [{"facts": name, "routing": routing, **at(found, tau)} for tau in TAUS]
            curves[f"{name}, {routing}"] = curve(found)
    show("one threshold for all keys", rows)
    if given.plot:
        plot(curves, given.plot)
    print(json.dumps({"experiment": "tau", "edits": given.edits, "seed": given.seed,
                      "rows": rows}))  # fmt: skip


# --- What is asked -------------------------------------------------------------------------------


def zsre(count: int, _: int) -> World:
    """ZsRE's records in their order, the first of each subject."""
    found, _ = read(DATA / "zsre/zsre_eval.json", skip_bad=True)
    edits = list({e.subject: e for e in reversed(found)}.values())[::-1][:count]
    texts = [(i, text) for i, e in enumerate(edits) for text in e.rephrase]
    hard = {"locality": list(dict.fromkeys(p.prompt for e in edits for p in e.locality))}
    return World(edits, texts, hard, left_out())


def counterfact(count: int, seed: int) -> World:
    """CounterFact's subjects in ParaRel's patterns."""
    return ask(facts(), left_out(), count, seed)


def demo(count: int, seed: int) -> World:
    """The demo model's facts."""
    edits = sample(count, seed)
    texts = [(i, text) for i, e in enumerate(edits) for text in e.rephrase]
    hard = {"near": list(dict.fromkeys(text for e in edits for text in e.hard_negatives))}
    return World(edits, texts, hard, load_relations())


WORLDS = {"zsre": zsre, "counterfact": counterfact, "demo": demo}


# --- What answers --------------------------------------------------------------------------------


def ways(name: str, world: World) -> dict[str, Look]:
    """Each way to find the nearest key, with thresholds of 0: `above` is the overlap."""
    base = load(str(model_dir() if name == "demo" else model_path("smollm2")), device="cpu")
    router = Remembering(Encoder(str(model_path("minilm"))))
    table = tabulate(asks(world.edits, world.relations, router), router)
    freed = replace(table, thresholds=np.zeros_like(table.thresholds))
    return {
        **{f"activations, {f}": by_masks(base, f, world) for f in ("last", "mean")},
        "encoder": every_view(look_up(freed, router), router.respelling(freed.texts)),
    }


def by_masks(base: BaseModel, feature: str, world: World) -> Look:
    """The prompts' masks as keys."""
    editor = Editor(base, choose(base, Wishes(feature=feature)))
    bank = np.stack(editor.masks([edit.prompt for edit in world.edits]))

    def look(texts: Sequence[str]) -> Found:
        R = tophash.overlap(editor.hashed(texts), bank, editor.settings.k)
        return Found(R.argmax(axis=1), R.max(axis=1))

    return look


# --- What is found -------------------------------------------------------------------------------


def asked(world: World, look: Look) -> dict[str, Floats]:
    """Overlaps with an edit's key by sort; -1 of a paraphrase that is nearer to something else."""
    own = look([text for _, text in world.asked])
    found = {"reach": np.where(world.right(own.edit), own.above, -1)}
    for sort, texts in world.hard.items():
        near = look(texts)
        found[f"fires: {sort}"] = np.where(near.edit >= 0, near.above, -1)
    return found


def at(found: dict[str, Floats], tau: float) -> Row:
    """Shares that pass a threshold."""
    return {"tau": float(tau), **{name: float((tau <= R).mean()) for name, R in found.items()}}


def curve(found: dict[str, Floats]) -> tuple[Floats, Floats]:
    """False fires of all sorts together and recall, by falling threshold."""
    hard = np.concatenate([R for name, R in found.items() if name != "reach"])
    taus = np.linspace(1, 0, 401)
    return (np.array([(hard >= tau).mean() for tau in taus]),
            np.array([(found["reach"] >= tau).mean() for tau in taus]))  # fmt: skip


def plot(curves: dict[str, tuple[Floats, Floats]], path: Path) -> None:
    """Recall by false fires, one panel a set of facts."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(label.partition(", ")[0] for label in curves))
    figure, panels = plt.subplots(
        1, len(names), figsize=(4.5 * len(names), 4), layout="constrained", squeeze=False
    )
    for axes, name in zip(panels[0], names, strict=True):
        for label, (fires, reach) in curves.items():
            if label.partition(", ")[0] == name:
                axes.plot(np.maximum(fires, 1e-4), reach, label=label.partition(", ")[2])
        axes.set_xscale("log")
        axes.set_title(name)
        axes.set_xlabel("share of what must not fire that fires")
        axes.set_ylabel("share of paraphrases that reach their edit")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
