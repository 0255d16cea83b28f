"""How much the columns of edits overlap, and whether those that overlap most wear most.

    python tools/experiments/collisions.py [--masks 1000] [--edits 50] [--spare 0 10]
                                           [--seed 0] [--plot FILE]

Masks of CounterFact's prompts in SmolLM2: made of the prompts' activations, as the paper does and
as a memory without an encoder still does; and drawn by lot, as an encoder's codes allow. Theory is
two masks drawn independently: the overlap is hypergeometric over k, with mean k / D. Then edits
with drawn masks are trained once each, in order, with and without sparing what others read; what an
edit lost is compared with its worst overlap with a later one, with the sum of them, and with its
age, the number of later edits, which by itself makes both larger. Last they are checked and
repaired as `apply` does, and asked again.
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

from compare_training import gives
from router_looks import show
from world import relations_of, world

from memoir_edge import tophash
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import BaseModel, Editor, Settings, Wishes, choose, load, quiet
from memoir_edge.edits import Edit
from memoir_edge.relations import Relation
from memoir_edge.router import Encoder
from memoir_edge.tophash import Floats

Row = dict[str, Any]
BINS = 60


def main() -> None:
    """Overlaps, then wear."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--spare", type=float, nargs="*", default=[0.0, 10.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    base = load(str(model_path("smollm2")), device="cpu")
    router = Encoder(str(model_path("minilm")))
    relations = relations_of("present")
    settings = choose(base, Wishes(), coded=True)
    edits = world(relations, max(given.masks, given.edits), given.seed)
    told = [edit.prompt for edit in edits[: given.masks]]
    makers = {
        "of activations": Editor(base, settings),
        "by lot": Editor(base, settings, router=router, relations=relations),
    }
    found = {name: overlaps(maker, told) for name, maker in makers.items()}
    D = makers["by lot"].live.Wm.shape[1]
    show("masks", [about(name, R, settings.k, D) for name, R in found.items()])
    worn = [
        wear(
            base, replace(settings, spare=spare, passes=1), router, relations, edits[: given.edits]
        )
        for spare in given.spare
    ]
    show("wear, and its correlation", worn)
    if given.plot:
        plot(found, settings.k, D, given.plot)
    print(json.dumps({
        "experiment": "collisions", "k": settings.k, "D": D,
        "masks": [about(name, R, settings.k, D) for name, R in found.items()], "wear": worn,
    }))  # fmt: skip


def overlaps(editor: Editor, prompts: Sequence[str]) -> Floats:
    """Of all pairs of prompts' masks, as shares of k, `[n (n - 1) / 2]`."""
    masks = np.stack(editor.masks(prompts))
    R = tophash.overlap(masks, masks, editor.settings.k)
    return R[np.triu_indices(len(R), 1)]


def about(name: str, R: Floats, k: int, D: int) -> Row:
    """A distribution of overlaps beside theory's."""
    spread = np.sqrt(k / D * (1 - k / D) * (D - k) / (D - 1) / k)
    return {
        "masks": name,
        "mean": float(R.mean()),
        "k / D": k / D,
        "spread": float(R.std()),
        "of theory": float(spread),
        "highest": float(R.max()),
        "share above .5": float((R > 0.5).mean()),
    }


def wear(
    base: BaseModel,
    settings: Settings,
    router: Encoder,
    relations: Sequence[Relation],
    edits: Sequence[Edit],
) -> Row:
    """Train edits in order, once each; what they lost, and whether overlaps foretell it."""
    editor = Editor(base, settings, router=router, relations=relations)
    asked = [(edit, text) for edit in edits for text in (edit.prompt, *edit.rephrase[:4])]
    owner = np.array([i for i, e in enumerate(edits) for _ in (e.prompt, *e.rephrase[:4])])
    fresh = np.zeros(len(asked), bool)
    for i, edit in enumerate(edits):
        editor.edit([edit])
        mine = np.flatnonzero(owner == i)
        fresh[mine] = gives(editor, [asked[j] for j in mine])
    last = np.array(gives(editor, asked))
    editor.calibrate()
    editor.settle()
    repaired = np.array(gives(editor, asked))
    lost = np.array([(fresh & ~last)[owner == i].mean() for i in range(len(edits))])
    still = np.array([(fresh & ~repaired)[owner == i].mean() for i in range(len(edits))])
    masks = np.stack(editor.masks([edit.prompt for edit in edits]))
    R = tophash.overlap(masks, masks, settings.k)
    worst = np.array([R[i, i + 1 :].max() for i in range(len(edits) - 1)])
    total = np.array([R[i, i + 1 :].sum() for i in range(len(edits) - 1)])
    return {
        "spare": settings.spare,
        "edits": len(edits),
        "when made": float(fresh.mean()),
        "after the last": float(last.mean()),
        "repaired": float(repaired.mean()),
        "lost, oldest half": float(lost[: len(edits) // 2].mean()),
        "lost, newest half": float(lost[len(edits) // 2 :].mean()),
        "by worst overlap": correlation(worst, lost[:-1]),
        "by all later overlap": correlation(total, lost[:-1]),
        "by age": correlation(np.arange(len(edits) - 1, 0, -1.0), lost[:-1]),
        "repaired: by worst overlap": correlation(worst, still[:-1]),
    }


def correlation(a: Floats, b: Floats) -> float | None:
    """Pearson's; None where one of them is the same for all."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else None


def plot(found: dict[str, Floats], k: int, D: int, path: Path) -> None:
    """Pairs by overlap, and theory's mean."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, R in found.items():
        axes.hist(R, BINS, range=(0, 1), density=True, alpha=0.6, label=name)
    axes.axvline(k / D, color="gray", linestyle="--", label="k / D")
    axes.set_xlabel("overlap of two masks, as a share of k")
    axes.set_ylabel("density of pairs")
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
