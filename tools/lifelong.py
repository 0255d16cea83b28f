"""A thousand edits, one after the other, then ask for all of them: does the first still hold?

    python tools/lifelong.py [--edits 1000] [--seed 0] [--keep DIR] [--plot FILE] [--set NAME=VALUE]

Edits of the demo model, made in order, checked and repaired once at the end, as `memoir-edge apply`
does. Then each block of a hundred, oldest first, by free generation with the routing of the day.
With --keep an interrupted run goes on from the journal in that folder. docs/editor.md shows a run.
The last line is one JSON document.
"""

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import (
    Editor,
    Watch,
    choose,
    default_site,
    find_site,
    load,
    quiet,
    width,
)
from memoir_edge.evaluate import evaluate
from memoir_edge.journal import begin
from memoir_edge.journal import load as load_journal

BLOCK = 100
SHOWN = ("reliability", "generalization", "own row", "locality", "hard negatives changed", "recall",
         "false fires")  # fmt: skip


def main() -> None:
    """Edit, evaluate, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    changes = {name: json.loads(value) for name, value in (s.split("=") for s in given.set)}
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        document = live(given.edits, given.seed, folder, changes, stack)
    show(document)
    if given.plot:
        plot(document, given.plot)
    print(json.dumps(document))


def live(
    count: int, seed: int, folder: Path, changes: dict[str, Any], stack: ExitStack
) -> dict[str, Any]:
    """Make the edits, then ask for each block."""
    base = load(str(model_dir()), device="cpu")
    site = default_site(base.config)
    D, _ = width(find_site(base.net, site))
    settings = choose(base.config, D, site=site, **changes)
    edits = sample(count, seed)
    path = folder / "lifelong.journal"
    journal = load_journal(path, write=True)
    editor = Editor(base, settings, journal.compile() if journal else None)
    journal = stack.enter_context(journal or begin(path, editor.memory(), {}))
    editor.journal = journal
    new = [edit for edit in edits if edit.id not in editor.live.bank.records]
    bar = stack.enter_context(Progress(console=Console(stderr=True)))
    making = bar.add_task("editing", total=len(new))
    audits: list[int] = []
    steps: list[int] = []
    began = time.perf_counter()
    watch = Watch(
        made=lambda n: bar.advance(making, n), audited=lambda _, failed: audits.append(failed)
    )
    state = journal.state()
    if new:
        steps += [outcome.steps for outcome in editor.apply(new, watch)]
    elif not state.settled(settings.repairs):
        editor.settle(watch, todo=state.todo, audits=state.audits)
    seconds = time.perf_counter() - began
    asking = bar.add_task("asking", total=count)
    blocks = []
    for start in range(0, count, BLOCK):
        block = edits[start : start + BLOCK]
        report = evaluate(editor.model, block)
        blocks.append(
            {
                "edits": f"{start + 1}-{start + len(block)}",
                "reliability": report.free.reliability,
                "generalization": report.free.generalization,
                "own row": own_row(editor, block),
                "locality": report.free.locality,
                "hard negatives changed": report.free.hard_negatives_changed,
                "recall": report.routing.recall,
                "false fires": report.routing.false_fires,
            }
        )
        bar.advance(asking, len(block))
    total = {name: sum(b[name] for b in blocks) / len(blocks) for name in SHOWN}
    return {
        "edits": count,
        "seed": seed,
        "settings": {n: getattr(settings, n) for n in ("k", "thinned", "spare", "threshold")},
        "seconds_per_edit": seconds / max(len(new), 1),
        "steps_per_edit": sum(steps) / max(len(steps), 1),
        "failed_by_audit": audits,
        "journal_bytes": path.stat().st_size,
        "blocks": blocks,
        "total": total,
    }


def own_row(editor: Editor, block: list[Any]) -> float:
    """Share of paraphrases that give the target when each is sent to its own edit."""
    from compare_training import gives

    held = gives(editor, [(edit, text) for edit in block for text in edit.rephrase])
    return sum(held) / len(held)


def show(document: dict[str, Any]) -> None:
    """One table."""
    table = Table("edits", *SHOWN, title=f"after {document['edits']} edits, free generation")
    for block in [*document["blocks"], {"edits": "all", **document["total"]}]:
        table.add_row(block["edits"], *(f"{block[name]:.3f}" for name in SHOWN))
    Console(width=120).print(table)


def plot(document: dict[str, Any], path: Path) -> None:
    """Shares by block, oldest first."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    names = [block["edits"] for block in document["blocks"]]
    for name, style in (("reliability", "o-"), ("generalization", "s-"), ("locality", "^--")):
        axes.plot(names, [block[name] for block in document["blocks"]], style, label=name)
    axes.set_ylim(0.8, 1.005)
    axes.set_xlabel(f"edits in the order in which they were made, asked after the last of "
                    f"{document['edits']}")  # fmt: skip
    axes.set_ylabel("share, free generation")
    axes.tick_params(axis="x", rotation=30)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
