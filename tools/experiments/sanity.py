"""A few edits by the paper's settings, scaled to the model, beside the defaults.

    python tools/experiments/sanity.py --keep DIR [--facts zsre|demo] [--edits 10] [--steps 30 70]

The paper's: k = 2 D / 7, the mean feature, the released code's arithmetic (--parity), and a
threshold at the same place between chance (k / D) and a match (1) as with LLaMA-3. How many steps
it takes is the paper's for LLaMA-3 and Mistral. The defaults: with MiniLM as the router, the
relations of the test left out of keys and guards, and without one. Each edit's prompt, rephrasings
and locality prompts are asked after the last edit, teacher-forced as the paper counts, and freely.

Each way is kept in DIR once it was asked; an interrupted experiment goes on there.
docs/experiments.md shows a run. The last line is one JSON document.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from router_looks import show
from router_worlds import left_out
from tau import zsre

from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import BaseModel, Editor, Settings, Wishes, choose, load, quiet
from memoir_edge.editor.site import find_site, width
from memoir_edge.edits import Edit
from memoir_edge.evaluate.dataset import kept
from memoir_edge.evaluate.metrics import evaluate
from memoir_edge.router import Encoder, Router

Row = dict[str, Any]
K, D, TAU = 4096, 14336, 0.40  # the paper's for LLaMA-3
SHARE = K / D
PLACE = (TAU - SHARE) / (1 - SHARE)


def main() -> None:
    """Make the edits each way, ask, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--facts", choices=FACTS, default="zsre")
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--steps", type=int, nargs="*", default=[30, 70])
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    given.keep.mkdir(parents=True, exist_ok=True)
    model, edits = FACTS[given.facts]
    base, made = load(str(model()), device="cpu"), edits(given.edits)
    router = Encoder(str(model_path("minilm")))
    ways: dict[str, tuple[Settings, Router | None]] = {
        **{f"paper, {steps} steps": (paper(base, steps), None) for steps in given.steps},
        "default, activations": (choose(base), None),
        "default, encoder": (choose(base, coded=True), router),
    }
    rows = []
    for way, (settings, by) in ways.items():
        path = given.keep / f"{given.facts}-{len(made)}-{way.replace(', ', '-')}.json"
        found = kept(path, lambda s=settings, r=by: asked(base, made, s, r))
        rows.append({"settings": way, **found})
    show(f"{len(made)} edits of {given.facts}", rows)
    print(json.dumps({"experiment": "sanity", "facts": given.facts, "edits": len(made),
                      "rows": rows}))  # fmt: skip


def paper(base: BaseModel, steps: int) -> Settings:
    """The paper's settings at the default site, scaled to its width."""
    features, _ = width(find_site(base.net, choose(base).site))
    k = round(SHARE * features)
    threshold = k / features + PLACE * (1 - k / features)
    wishes = Wishes(k=k, feature="mean", threshold=threshold, steps=steps, parity=True)
    return choose(base, wishes)


def asked(base: BaseModel, edits: Sequence[Edit], settings: Settings, router: Router | None) -> Row:
    """Make the edits, and ask all that their records hold."""
    editor = Editor(base, settings, router=router, relations=left_out() if router else ())
    start = time.process_time()
    editor.apply(edits)
    seconds = (time.process_time() - start) / len(edits)
    found = evaluate(editor.model, edits).as_json()
    shares = {
        f"{how}: {name}": found[group][name]
        for group, how in (("teacher_forced", "forced"), ("free", "free"))
        for name in ("reliability", "generalization", "locality")
    }
    return {"k": settings.k, "threshold": round(settings.threshold, 3), **shares,
            "reach": found["routing"]["recall"], "CPU s an edit": seconds}  # fmt: skip


def of_zsre(count: int) -> list[Edit]:
    """ZsRE's records in their order, the first of each subject."""
    return zsre(count, 0).edits


FACTS: dict[str, tuple[Callable[[], Path], Callable[[int], list[Edit]]]] = {
    "zsre": (lambda: model_path("smollm2"), of_zsre),
    "demo": (model_dir, lambda count: sample(count, 0)),
}

if __name__ == "__main__":
    main()
