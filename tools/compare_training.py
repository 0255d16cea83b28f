"""Which training rows make an edit hold for paraphrases, and from which overlap it may answer.

    python tools/compare_training.py [--edits 50] [--seeds 2]

Edits of the demo model; the paraphrases are seen by nobody. First each variant of the training rows
with every paraphrase sent to its own edit, so that training is judged apart from routing: right
after the edit was made, and after the last one. Then the routing of each feature, by threshold.
docs/editor.md shows a run. The last line is one JSON document.
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
    choose,
    default_site,
    find_site,
    load,
    quiet,
    width,
)
from memoir_edge.edits import Edit

VARIANTS: dict[str, dict[str, Any]] = {
    "plain row": {"thinned": 0},
    "plain, 10 prefixed (the paper's)": {"thinned": 0, "prefixes": 10},
    "plain, 3 thinned by .3": {"thinned": 3, "dropout": 0.3},
    "plain, 5 thinned by .4": {"thinned": 5, "dropout": 0.4},
    "plain, 5 thinned by .5": {"thinned": 5, "dropout": 0.5},
}
THRESHOLDS = (0.50, 0.55, 0.58, 0.60, 0.65, 0.70, 0.75, 0.80)
ROOM = 14  # tokens of an answer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    quiet()
    base = load(str(model_dir()), device="cpu")
    batches = [sample(given.edits, seed) for seed in range(given.seeds)]
    trained = {
        name: mean([train(base, edits, changes) for edits in batches])
        for name, changes in track(VARIANTS.items(), console=Console(stderr=True))
    }
    routed = {name: mean([route(base, e, name) for e in batches]) for name in tophash.FEATURES}
    show("training rows", trained)
    for name, shares in routed.items():
        show(f"routing by threshold, feature {name}", shares)
    print(json.dumps({"edits": given.edits, "seeds": given.seeds, "training": trained,
                      "routing": routed}))  # fmt: skip


def new_editor(base: BaseModel, **changes: Any) -> Editor:
    """An editor with the default settings, some of them changed."""
    site = default_site(base.config)
    D, _ = width(find_site(base.net, site))
    return Editor(base, replace(choose(base.config, D, site=site), **changes))


def train(base: BaseModel, edits: Sequence[Edit], changes: dict[str, Any]) -> dict[str, float]:
    """Shares of prompts and paraphrases that give the target, each on its own edit's mask."""
    editor = new_editor(base, **changes)
    start, steps, just_after = time.perf_counter(), 0, []
    spent = 0.0
    for edit in edits:
        start = time.perf_counter()
        [change] = editor.edit([edit])
        steps += change.steps
        spent += time.perf_counter() - start
        just_after += gives(editor, [(edit, text) for text in edit.rephrase])
    at_end = gives(editor, [(edit, text) for edit in edits for text in edit.rephrase])
    own = gives(editor, [(edit, edit.prompt) for edit in edits])
    return {
        "own prompt": float(np.mean(own)),
        "paraphrase just after": float(np.mean(just_after)),
        "paraphrase at the end": float(np.mean(at_end)),
        "steps": steps / len(edits),
        "seconds": spent / len(edits),
    }


def gives(editor: Editor, asked: Sequence[tuple[Edit, str]]) -> list[bool]:
    """Whether each text gives its edit's target when it is sent to that edit."""
    row = editor.live.bank.rows()
    routes = tophash.Routes(
        np.array([row[edit.id] + 1 for edit, _ in asked]),
        np.ones(len(asked), np.float32),
        np.array([row[edit.id] for edit, _ in asked]),
    )
    texts = [text for _, text in asked]
    answers = editor.model.answer(texts, ROOM, memory=True, routes=routes)
    return [a.text.strip() == edit.target for a, (edit, _) in zip(answers, asked, strict=True)]


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
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
