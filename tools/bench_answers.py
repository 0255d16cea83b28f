"""Whether an edit answers in ways to ask that it was not trained on, the right edit being given.

    python tools/bench_answers.py [--edits 100] [--model FILE|DIR] [--relations present|out]
                                  [--seed 0] [--former 0] [--set NAME=VALUE]

Edits of CounterFact's subjects, asked in ParaRel's patterns and in questions of our own as
`tools/bench_router.py` makes them, in statements, in questions and in chats; every text is sent to
its own edit, so that training is judged apart from routing. An answer counts if it is the target
and stops there, by greedy free generation. `present`: relations of the test are among those that
rows are made of, as for a user; `out`: rows are made of the prompt alone.

`--former N` trains N of the edits as the product did before (descent on the plain row and thinned
copies of it, at 85 % of the depth), for its CPU time and shares. The last line is one JSON
document.
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from bench_router import ask, counterfact, facts, left_out
from rich.console import Console
from rich.table import Table

from memoir_edge import tophash
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import BaseModel, Editor, Watch, choose, load, quiet
from memoir_edge.editor.prompts import rendered
from memoir_edge.edits import Edit, default_id
from memoir_edge.relations import Relation, fill
from memoir_edge.relations import load as load_relations
from memoir_edge.router import Encoder, Router
from memoir_edge.sites import default_site

FORMER = {
    "optimiser": "sgd", "steps": 200, "lr": 0.5, "momentum": 0.9, "stop_loss": 0.02, "forms": 0,
    "phrasings": 0, "chats": 0, "thinned": 5, "thinned_forms": 0, "spare": 10.0, "passes": 2,
}  # fmt: skip
Asked = dict[str, list[tuple[Edit, str]]]  # by form


def main() -> None:
    """Edit, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--model")
    parser.add_argument("--relations", choices=("present", "out"), default="present")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--former", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    changes = {name: json.loads(value) for name, value in (s.split("=") for s in given.set)}
    base = load(given.model or str(model_path("smollm2")), device="cpu")
    router = Encoder(str(model_path("minilm")))
    relations = load_relations() if given.relations == "present" else left_out()
    edits, asked = world(base, relations, given.edits, given.seed)
    rows = {"now": measure(base, edits, asked, changes, router, relations)}
    if given.former:
        few = {
            form: [p for p in pairs if p[0] in edits[: given.former]]
            for form, pairs in asked.items()
        }
        old = FORMER | {"site": default_site(base.config)}
        rows["before"] = measure(base, edits[: given.former], few, old, router, relations)
    show(rows)
    print(json.dumps({"edits": len(edits), "relations": given.relations, "seed": given.seed,
                      "changes": changes, **rows}))  # fmt: skip


def world(
    base: BaseModel, relations: Sequence[Relation], count: int, seed: int
) -> tuple[list[Edit], Asked]:
    """Edits with CounterFact's new answers, and what is asked of each, by form."""
    made = ask(facts(), relations, count, seed)
    edits = [targeted(edit) for edit in made.edits]
    asked: Asked = {"prompt": [(edit, edit.prompt) for edit in edits]}
    for i, text in made.asked:
        form = "question" if text.endswith("?") else "statement"
        asked.setdefault(form, []).append((edits[i], text))
    asked["chat"] = [(edit, rendered(base, text)) for edit, text in asked["question"]]
    return edits, asked


def targeted(edit: Edit) -> Edit:
    """The edit with the answer that CounterFact gives to what it asks."""
    [fact, *_] = [f for f in facts() if f.edited and edit.subject in f.subjects
                  and edit.prompt in {fill(t, str(edit.subject)) for t in f.templates}]  # fmt: skip
    known = {t.lower() for t in fact.templates}
    target = next(
        record["target_new"]
        for record in counterfact()
        if record["subject"] == edit.subject
        and record["prompt"].replace(record["subject"], "{}").lower() in known
    )
    return replace(edit, target=target, id=default_id(edit.prompt, target))


def measure(
    base: BaseModel,
    edits: Sequence[Edit],
    asked: Asked,
    changes: dict[str, Any],
    router: Router,
    relations: Sequence[Relation],
) -> dict[str, Any]:
    """Shares of right answers by form, after the last edit, and what the edits cost."""
    before = peak()
    settings = replace(choose(base, coded=True), **changes)
    editor = Editor(base, settings, router=router, relations=relations)
    again: list[str] = []
    watch = Watch(again=lambda edit: again.append(edit.id) or (lambda step, loss: None))
    cpu, wall = time.process_time(), time.monotonic()
    outcomes = editor.apply(edits, watch)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    shares = {form: share(editor, pairs) for form, pairs in asked.items()}
    return {
        **shares,
        "steps": float(np.mean([outcome.steps for outcome in outcomes])),
        "again": len(again),
        "cpu an edit": cpu / len(edits),
        "wall an edit": wall / len(edits),
        "peak MB": (peak() - before) / 1e6,
    }


def share(editor: Editor, pairs: Sequence[tuple[Edit, str]]) -> float:
    """Share of texts that give their edit's target, sent to it."""
    row = editor.live.bank.rows()
    routes = tophash.Routes(
        np.array([row[edit.id] + 1 for edit, _ in pairs]),
        np.ones(len(pairs), np.float32),
        np.array([row[edit.id] for edit, _ in pairs]),
    )
    answers = editor.model.answer([text for _, text in pairs], 12, memory=True, routes=routes)
    right = [a.text.strip() == edit.target for a, (edit, _) in zip(answers, pairs, strict=True)]
    return float(np.mean(right))


def peak() -> int:
    """Most bytes that the process had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(rows: dict[str, dict[str, Any]]) -> None:
    """One table."""
    columns = list(next(iter(rows.values())))
    table = Table("training", *columns, title="right answers, the right edit given")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.3f}" for column in columns))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
