"""How to train so that an edit holds: for paraphrases, and after many later edits.

    python tools/compare_training.py [--edits 150] [--seeds 1] [--only TEXT]

Edits of the demo model; the paraphrases are seen by nobody. Each variant with every paraphrase sent
to its own edit, so that training is judged apart from routing: right after the edit was made, after
the last one, and once more when the check of all edits has trained the broken ones again. Then the
routing of each feature, by threshold. docs/editor.md shows a run. The last line is one JSON
document.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from memoir_edge import tophash
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import (
    BaseModel,
    Editor,
    Watch,
    choose,
    load,
    quiet,
)
from memoir_edge.edits import Edit

PAPER = {"thinned": 0, "spare": 0.0, "lr": 1.0, "momentum": 0.0}
THINNED = {"spare": 0.0, "lr": 1.0, "momentum": 0.0}
SORTED = "sorted by prompt"
VARIANTS: dict[str, dict[str, Any]] = {
    "plain row": PAPER,
    "10 prefixed (the paper's)": PAPER | {"prefixes": 10},
    "5 thinned": THINNED,
    "5 thinned, k = .1 D": THINNED | {"k": 77},
    "5 thinned, lr .3": THINNED | {"lr": 0.3},
    f"5 thinned, {SORTED}": THINNED,
    "5 thinned, spare 10": THINNED | {"spare": 10.0},
    "spare 10, momentum (default)": {},
    "spare 30, momentum": {"spare": 30.0},
    "spare 10, momentum, k = .5 D": {"k": 384},
    "default, 5 together": {"batch_edits": 5},
    "default, 25 together": {"batch_edits": 25},
}
THRESHOLDS = (0.50, 0.55, 0.58, 0.60, 0.65, 0.70, 0.75, 0.80)
ROOM = 14  # tokens of an answer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--edits", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="variants whose name holds this")
    given = parser.parse_args()
    quiet()
    base = load(str(model_dir()), device="cpu")
    batches = [sample(given.edits, seed) for seed in range(given.seeds)]
    trained = {
        name: mean([train(base, ordered(edits, name), changes) for edits in batches])
        for name, changes in track(VARIANTS.items(), console=Console(stderr=True))
        if given.only in name
    }
    routed = {name: mean([route(base, e, name) for e in batches]) for name in tophash.FEATURES}
    show("training rows", trained)
    for name, shares in routed.items():
        show(f"routing by threshold, feature {name}", shares)
    print(json.dumps({"edits": given.edits, "seeds": given.seeds, "training": trained,
                      "routing": routed}))  # fmt: skip


def new_editor(base: BaseModel, **changes: Any) -> Editor:
    """An editor with the default settings, some of them changed."""
    return Editor(base, replace(choose(base), **changes))


def ordered(edits: Sequence[Edit], name: str) -> list[Edit]:
    """Edits of like prompts one after the other, where the variant says so."""
    return sorted(edits, key=lambda edit: edit.prompt) if SORTED in name else list(edits)


def train(base: BaseModel, edits: Sequence[Edit], changes: dict[str, Any]) -> dict[str, float]:
    """Shares of prompts and paraphrases that give the target, each on its own edit's mask."""
    editor = new_editor(base, **changes)
    steps, just_after, spent = 0, [], 0.0
    size = editor.settings.batch_edits
    for group in (edits[i : i + size] for i in range(0, len(edits), size)):
        start = time.perf_counter()
        steps += sum(change.steps for change in editor.edit(group))
        spent += time.perf_counter() - start
        just_after += gives(editor, [(edit, text) for edit in group for text in edit.rephrase])
    paraphrases = [(edit, text) for edit in edits for text in edit.rephrase]
    prompts = [(edit, edit.prompt) for edit in edits]
    end = [float(np.mean(gives(editor, asked))) for asked in (prompts, paraphrases)]
    moved = float(editor.live.Wm.norm())
    again: list[str] = []
    start = time.perf_counter()
    editor.settle(Watch(again=lambda edit: again.append(edit.id) or (lambda step, loss: None)))
    repairing = time.perf_counter() - start
    return {
        "just after": float(np.mean(just_after)),
        "prompts": end[0],
        "paraphrases": end[1],
        "trained again": len(again),
        "prompts then": float(np.mean(gives(editor, prompts))),
        "paraphrases then": float(np.mean(gives(editor, paraphrases))),
        "|Wm|": moved,
        "steps": steps / len(edits),
        "seconds": spent / len(edits),
        "repair seconds": repairing / len(edits),
    }


def gives(editor: Editor, asked: Sequence[tuple[Edit, str]]) -> list[bool]:
    """Whether each text gives its edit's target when it is sent to that edit."""
    routes = to(editor, [edit for edit, _ in asked])
    texts = [text for _, text in asked]
    answers = editor.model.answer(texts, ROOM, memory=True, routes=routes)
    return [a.text.strip() == edit.target for a, (edit, _) in zip(answers, asked, strict=True)]


def to(editor: Editor, edits: Sequence[Edit]) -> tophash.Routes:
    """Routes that send a text to each of these edits, whatever it asks."""
    row = editor.live.bank.rows()
    places = np.array([row[edit.id] for edit in edits])
    return tophash.Routes(places + 1, np.ones(len(edits), np.float32), places)


def route(base: BaseModel, edits: Sequence[Edit], feature: str) -> dict[str, dict[str, float]]:
    """By threshold: paraphrases that reach their own edit, and others that reach any."""
    editor = new_editor(base, feature=feature)
    for edit, mask in zip(edits, editor.masks([e.prompt for e in edits]), strict=True):
        editor.live.bank.add(edit.id, None, mask, [], [], threshold=0)
    ids = [key.edit for key in editor.live.bank.keys]

    def reached(texts: Sequence[str]) -> tophash.Routes:
        return editor.model.routes(texts)

    paraphrases = [(edit.id, text) for edit in edits for text in edit.rephrase]
    found = reached([text for _, text in paraphrases])
    own = np.array(
        [ids[c] == edit for c, (edit, _) in zip(found.candidate, paraphrases, strict=True)]
    )
    hard = reached([text for edit in edits for text in edit.hard_negatives]).overlap
    unrelated = reached([probe.prompt for edit in edits for probe in edit.locality]).overlap
    return {
        str(threshold): {
            "paraphrases": float(np.mean(own & (found.overlap >= threshold))),
            "hard negatives": float(np.mean(hard >= threshold)),
            "unrelated": float(np.mean(unrelated >= threshold)),
        }
        for threshold in THRESHOLDS
    }


def mean(runs: Sequence[Any]) -> Any:
    """Mean of equal structures of numbers."""
    if isinstance(runs[0], dict):
        return {key: mean([run[key] for run in runs]) for key in runs[0]}
    return float(np.mean(runs))


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """One table."""
    columns = list(next(iter(rows.values())))
    table = Table("", *columns, title=title)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.3f}" for column in columns))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
