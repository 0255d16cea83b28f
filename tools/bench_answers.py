"""Whether edits of a chat model answer in ways to ask that they were not trained on, and the cost.

    python tools/bench_answers.py [--edits 100] [--told 0] [--model FILE|DIR]
                                  [--facts counterfact|own] [--relations present|out] [--seed 0]
                                  [--former 0] [--released 0] [--keep FOLDER] [--set NAME=VALUE]

Edits of tools/world.py, asked as statements, as questions and in chats: sent to their own edit, so
that training is judged apart from routing ("right edit"), and end to end. An answer counts if it is
the target and stops there, by greedy free generation. `--told 2` makes two further phrasings of
each edit its keys. Hard negatives and unrelated prompts count where the answer is not the base
model's. `present`: relations of the test are among those that rows, keys and guards are made of, as
for a user; `out`: they are not. `--facts own` asks a development set of our own, which choices of
how edits are trained are made with; it has no hard negatives.

`--former N` trains N of the edits as the product did before (descent on the plain row and thinned
copies of it, at 85 % of the depth), `--released N` as the paper's released code does (twelve rows,
every layer), each for its CPU time in the same run. With --keep what is done is kept there, and a
run that was interrupted goes on; the cost of an edit is then unknown. At last one more edit is made
by an editor that is opened anew, asking what it may have changed, and asking all.
The last line is one JSON document.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_editor import reference
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from router_worlds import unrelated
from world import EVERYDAY, own_world, relations_of, world

from memoir_edge import tophash
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import BaseModel, Editor, Watch, Wishes, choose, load, quiet
from memoir_edge.editor.model import greedy
from memoir_edge.editor.prompts import rendered
from memoir_edge.edits import Edit
from memoir_edge.evaluate.dataset import Way, claim, kept, make
from memoir_edge.evaluate.metrics import kind_of
from memoir_edge.history import load as load_journal
from memoir_edge.history import path_of
from memoir_edge.router import Encoder
from memoir_edge.sites import default_site

FORMER = {
    "optimiser": "sgd", "steps": 200, "lr": 0.5, "momentum": 0.9, "stop_loss": 0.02, "forms": 0,
    "phrasings": 0, "ends": 0, "chats": 0, "thinned": 5, "thinned_forms": 0, "spare": 10.0,
    "passes": 2,
}  # fmt: skip
ROOM = 12  # most tokens of an answer
FAR = 200  # questions about other things
HOW = ("new", "anew")  # what is measured and asked when one more edit is made: the new, or all
ONE_MORE = Edit(
    prompt="The chief executive of Northwind Traders is", target="Alice Meyer",
    subject="Northwind Traders", id="one more", tags={},
)  # fmt: skip
Pairs = list[tuple[Edit, str]]
Row = dict[str, Any]


def main() -> None:
    """Edit, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--told", type=int, default=0)
    parser.add_argument("--model")
    parser.add_argument("--facts", choices=("counterfact", "own"), default="counterfact")
    parser.add_argument("--relations", choices=("present", "out"), default="present")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--former", type=int, default=0)
    parser.add_argument("--released", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    if given.facts == "own" and given.told:
        parser.error("--told is of CounterFact's facts: our own have no further keys")
    quiet()
    torch.set_num_threads(1)
    changes = {name: json.loads(value) for name, value in (s.split("=") for s in given.set)}
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        rows = measured(given, changes, folder, stack)
    show(rows)
    about = {
        "facts": given.facts,
        "edits": given.edits,
        "told": given.told,
        "relations": given.relations,
    }
    print(json.dumps(about | {"seed": given.seed, "changes": changes, **rows}))


def measured(
    given: argparse.Namespace, changes: dict[str, Any], folder: Path, stack: ExitStack
) -> dict[str, Row]:
    """A row of each training, as far as they are wanted."""
    base = load(given.model or str(model_path("smollm2")), device="cpu")
    relations = relations_of(given.relations)
    edits = (
        own_world(given.edits, given.seed)
        if given.facts == "own"
        else world(relations, given.edits, given.seed, given.told)
    )
    far = [*unrelated(FAR), *EVERYDAY]
    settings = choose(base, coded=True)
    way = Way(base, replace(settings, **changes), Encoder(str(model_path("minilm"))), relations)
    claim(folder, way.about(), edits)
    old = replace(settings, **FORMER, site=default_site(base.config), k=choose(base).k)
    bar = stack.enter_context(Progress(console=Console(stderr=True)))
    jobs: dict[str, Callable[[], Row]] = {
        "now": lambda: measure(way, edits, far, folder / "now", bar)
    }
    if given.former:
        some, former = edits[: given.former], replace(way, settings=old)
        jobs["before"] = lambda: measure(former, some, far, folder / "before", bar)
    if given.released:
        jobs["released"] = lambda: released(base, edits[: given.released])
    return {name: kept(folder / f"{name}.json", job) for name, job in jobs.items()}


def measure(
    way: Way, edits: Sequence[Edit], far: Sequence[str], memory: Path, bar: Progress
) -> Row:
    """Shares of right answers by form, after the last edit, and what the edits cost."""
    in_use(way)
    before, whole = peak(), not path_of(memory).exists()
    cpu, wall = time.process_time(), time.monotonic()
    with way.editor(memory) as editor:
        again: list[str] = []
        task = bar.add_task(memory.name, total=len(edits))
        watch = Watch(
            made=lambda n: bar.advance(task, n),
            again=lambda edit: again.append(edit.id) or (lambda step, loss: None),
        )
        make(editor, edits, memory, watch)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        most = peak() - before
        by_form = asked(way.base, edits)
        cost = {"cpu": cpu / len(edits), "wall": wall / len(edits)} if whole else {}
        made = [frame for frame in editor.journal.frames if frame.kind == "made"]
        row = {
            "edits": len(edits),
            "right edit": {
                form: share(editor, pairs, given=True) for form, pairs in by_form.items()
            },
            "end to end": {form: share(editor, pairs) for form, pairs in by_form.items()},
            "hard negatives changed": {
                kind: changed(editor, texts) for kind, texts in hard_of(edits).items()
            },
            "unrelated changed": changed(editor, far),
            "steps": float(np.mean([e["steps"] for frame in made for e in frame.data["edits"]])),
            "again": len(again),
            "an edit": cost,
            "peak MB": most / 1e6,
        }
    return row | {"one more": {how: one_more(way, memory, anew=how == "anew") for how in HOW}}


def one_more(way: Way, memory: Path, *, anew: bool) -> float:
    """CPU seconds of one more edit, by an editor that is opened anew; it is not kept."""
    journal = load_journal(path_of(memory), write=False)
    assert journal is not None
    with journal:
        way = replace(way, router=Encoder(str(model_path("minilm"))))  # one that has read nothing
        start = time.process_time()
        editor = Editor(
            way.base, way.settings, journal=journal.copied(),
            router=way.router, relations=way.relations,
        )  # fmt: skip
        editor.apply([ONE_MORE], anew=anew)
        return time.process_time() - start


def asked(base: BaseModel, edits: Sequence[Edit]) -> dict[str, Pairs]:
    """What is asked of each edit, by form."""
    found: dict[str, Pairs] = {"prompt": [(edit, edit.prompt) for edit in edits]}
    for edit in edits:
        for text in edit.rephrase:
            form = "question" if text.endswith("?") else "statement"
            found.setdefault(form, []).append((edit, text))
    chats = [(edit, rendered(base, text)) for edit, text in found.get("question", [])]
    return found | ({"chat": chats} if base.tokenizer.chat_template else {})


def hard_of(edits: Sequence[Edit]) -> dict[str, list[str]]:
    """The edits' hard negatives, by what they share with an edit."""
    found: dict[str, list[str]] = {}
    for edit in edits:
        for text in edit.hard_negatives:
            found.setdefault(kind_of(edit, text), []).append(text)
    return found


def share(editor: Editor, pairs: Pairs, *, given: bool = False) -> float:
    """Share of texts that give their edit's target: sent to it, or routed."""
    routes = None
    if given:
        row = editor.live.bank.rows()
        places = np.array([row[edit.id] for edit, _ in pairs])
        routes = tophash.Routes(places + 1, np.ones(len(pairs), np.float32), places)
    texts = [text for _, text in pairs]
    answers = editor.model.answer(texts, ROOM, memory=True, routes=routes)
    right = [a.text.strip() == edit.target for a, (edit, _) in zip(answers, pairs, strict=True)]
    return float(np.mean(right))


def changed(editor: Editor, texts: Sequence[str]) -> float:
    """Share of texts that are not answered as the base model does."""
    answers = [editor.model.answer(texts, ROOM, memory=memory) for memory in (True, False)]
    return float(np.mean([a.text != b.text for a, b in zip(*answers, strict=True)]))


def released(base: BaseModel, edits: Sequence[Edit]) -> Row:
    """What an edit costs by the released procedure."""
    editor = Editor(base, choose(base, Wishes(parity=True)))
    cpu, wall = time.process_time(), time.monotonic()
    steps = [len(reference(editor, edit, {})) - 1 for edit in edits]
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    cost = {"cpu": cpu / len(edits), "wall": wall / len(edits)}
    return {"edits": len(edits), "steps": float(np.mean(steps)), "an edit": cost}


def in_use(way: Way) -> None:
    """Run the model and the encoder once: weights come into memory when they are first read."""
    greedy(way.base, [[0]], 1)
    assert way.router
    way.router.codes([""])


def peak() -> int:
    """Most bytes that the process had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(rows: dict[str, Row]) -> None:
    """What is answered, then what it costs."""
    console = Console(width=150)
    now = rows["now"]
    forms = list(now["end to end"])
    table = Table("training", "asked", *forms, title=f"right answers, {now['edits']} edits")
    for name, row in rows.items():
        for how in ("right edit", "end to end"):
            if how in row:
                table.add_row(name, how, *(f"{row[how][form]:.3f}" for form in forms))
    console.print(table)
    for name, row in rows.items():
        if hard := row.get("hard negatives changed"):
            told = ", ".join(f"{kind} {value:.3f}" for kind, value in hard.items())
            console.print(
                f"{name}: hard negatives changed: {told}; unrelated {row['unrelated changed']:.3f}"
            )
    table = Table("training", "edits", "steps", "CPU s an edit", "wall s", "/ now", "peak MB")
    own = now["an edit"].get("cpu")
    for name, row in rows.items():
        cpu = row["an edit"].get("cpu")
        table.add_row(
            name, str(row["edits"]), f"{row['steps']:.0f}", figure(cpu),
            figure(row["an edit"].get("wall")), figure(cpu / own if cpu and own else None),
            figure(row.get("peak MB")),
        )  # fmt: skip
    console.print(table)
    told, anew = (now["one more"][how] for how in HOW)
    console.print(f"one more edit: {told:.1f} s of CPU, {anew:.1f} where all are asked anew")


def figure(value: float | None) -> str:
    """As it is shown; what is not known is a dash."""
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
