"""A thousand edits, one after the other, then ask for all of them: does the first still hold?

    python tools/lifelong.py [--edits 1000] [--model DIR] [--site PATH] [--seed 0] [--keep DIR]
                             [--plot FILE] [--set NAME=VALUE]

Edits of the demo model, or of a sibling that tools/train_demo_model.py made, in order, checked and
repaired once at the end, as `memoir-edge apply` does. Then each block of a hundred, oldest first,
by free generation with the routing of the day. Unrelated prompts are everyday sentences that
nothing was centred on; neighbours are facts that nobody edited, asked in the edited facts' own
phrasings. At last two of each edit's seven paraphrases become further keys, as a record's `keys`
would, and the other five are asked once more: what is lost then is lost in training, not routing.
With --keep an interrupted run goes on from the journal in that folder. docs/editor.md shows a run.
The last line is one JSON document.
"""

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from compare_training import gives
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import (
    Editor,
    Watch,
    Wishes,
    choose,
    journaled,
    load,
    quiet,
)
from memoir_edge.edits import Edit
from memoir_edge.history.bank import Key

BLOCK = 100
KEYS = 2
SETTINGS = ("site", "k", "thinned", "spare", "lr", "momentum", "passes", "steps", "made_keys",
            "false_fires")  # fmt: skip
SHOWN = ("reliability", "generalization", "on own row", "recall")
WHO = ("My uncle", "The old teacher", "Our neighbour", "A tired driver", "The girl next door",
       "Nobody", "The cook", "His brother", "Every child", "The new clerk")  # fmt: skip
DID = (
    "forgot to bring the", "walked slowly towards the", "could not stop laughing at the",
    "bought two pairs of", "was late again because of the", "likes to read about",
    "dreamed of an", "painted the fence in", "waited an hour for the", "has never heard of",
)  # fmt: skip
EVERYDAY = [f"{who} {did}" for who in WHO for did in DID]


def main() -> None:
    """Edit, evaluate, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--model", type=Path, default=model_dir())
    parser.add_argument("--site")
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
        document = live(given, folder, changes, stack)
    show(document)
    if given.plot:
        plot(document, given.plot)
    print(json.dumps(document))


def live(
    given: argparse.Namespace, folder: Path, changes: dict[str, Any], stack: ExitStack
) -> dict[str, Any]:
    """Make the edits, then ask for each block."""
    count: int = given.edits
    base = load(str(given.model), device="cpu")
    settings = choose(base, Wishes(site=given.site, **changes))
    edits = sample(count, given.seed)
    editor = stack.enter_context(journaled(base, settings, folder / "lifelong"))
    journal = editor.journal
    new = [edit for edit in edits if edit.id not in editor.live.bank.records]
    bar = stack.enter_context(Progress(console=Console(stderr=True)))
    making = bar.add_task("editing", total=len(new))
    watch = Watch(made=lambda n: bar.advance(making, n))
    before, start = len(journal.frames), time.monotonic()
    editor.apply(new, watch)
    seconds = time.monotonic() - start
    trained = sum(frame.kind in ("made", "again") for frame in journal.frames[before:])
    made = [frame for frame in journal.frames if frame.kind == "made"]
    audits = [len(frame.data["failed"]) for frame in journal.frames if frame.kind == "audit"]
    steps = [item["steps"] for frame in made for item in frame.data["edits"]]
    asking = bar.add_task("asking", total=count)
    blocks = []
    for start in range(0, count, BLOCK):
        block = edits[start : start + BLOCK]
        blocks.append({"edits": f"{start + 1}-{start + len(block)}", **asked(editor, block)})
        bar.advance(asking, len(block))
    weights = [min(BLOCK, count - start) for start in range(0, count, BLOCK)]
    total = {
        name: sum(w * block[name] for w, block in zip(weights, blocks, strict=True)) / count
        for name in SHOWN
    }
    near = [probe.prompt for edit in edits for probe in edit.locality]
    return {
        "edits": count,
        "seed": given.seed,
        "D": editor.live.Wm.shape[1],
        "settings": {n: getattr(settings, n) for n in SETTINGS},
        "seconds_per_training": seconds / max(trained, 1),
        "steps_per_edit": sum(steps) / count,
        "failed_by_audit": audits,
        "journal_bytes": journal.path.stat().st_size,
        "blocks": blocks,
        "total": total,
        "unrelated": untouched(editor, EVERYDAY),
        "neighbours": untouched(editor, list(dict.fromkeys(near))),
        "with two keys": keyed(editor, edits),
    }  # fmt: skip


def keyed(editor: Editor, edits: list[Edit]) -> dict[str, float]:
    """Once more, with some phrasings as keys and the others asked. Training saw none of them."""
    bank = editor.live.bank
    threshold = {edit: bank.keys[row].threshold for edit, row in bank.rows().items()}
    for edit in edits:
        if edit.id in threshold:
            for mask in editor.masks(edit.rephrase[:KEYS]):
                bank.keys.append(Key(mask, edit.id, threshold[edit.id], edit.id))
    rest = [replace(edit, rephrase=edit.rephrase[KEYS:]) for edit in edits]
    return asked(editor, rest) | {"locality": untouched(editor, EVERYDAY)["locality"]}


def asked(editor: Editor, block: list[Edit]) -> dict[str, float]:
    """How a block of edits holds: its prompts and its paraphrases, by free generation."""
    room = 16
    own = editor.model.answer([edit.prompt for edit in block], room, memory=True)
    pairs = [(edit, text) for edit in block for text in edit.rephrase]
    said = editor.model.answer([text for _, text in pairs], room, memory=True)
    right = [answer.text.strip() == e.target for (e, _), answer in zip(pairs, said, strict=True)]
    reached = [answer.edit == e.id for (e, _), answer in zip(pairs, said, strict=True)]
    held = [answer.text.strip() == e.target for e, answer in zip(block, own, strict=True)]
    return {
        "reliability": sum(held) / len(held),
        "generalization": sum(right) / len(right),
        "on own row": sum(gives(editor, pairs)) / len(pairs),
        "recall": sum(reached) / len(reached),
    }


def untouched(editor: Editor, prompts: list[str]) -> dict[str, float]:
    """Prompts that no edit is about: locality, and the share that reaches an edit anyway."""
    with_memory, without = (editor.model.answer(prompts, 16, memory=m) for m in (True, False))
    same = [a.text == b.text for a, b in zip(with_memory, without, strict=True)]
    return {
        "prompts": len(prompts),
        "locality": sum(same) / len(same),
        "fires": sum(answer.edit is not None for answer in with_memory) / len(with_memory),
    }


def show(document: dict[str, Any]) -> None:
    """One table."""
    table = Table("edits", *SHOWN, title=f"after {document['edits']} edits, free generation")
    for block in [*document["blocks"], {"edits": "all", **document["total"]}]:
        table.add_row(block["edits"], *(f"{block[name]:.3f}" for name in SHOWN))
    console = Console(width=120)
    console.print(table)
    for name in ("unrelated", "neighbours"):
        found = document[name]
        console.print(f"{name}: {found['prompts']} prompts, locality {found['locality']:.3f}, "
                      f"fires {found['fires']:.3f}")  # fmt: skip
    keyed = ", ".join(f"{name} {value:.3f}" for name, value in document["with two keys"].items())
    console.print(f"with two further phrasings as keys: {keyed}")
    console.print(f"{document['seconds_per_training']:.2f} s a training, "
                  f"{document['steps_per_edit']:.0f} steps; broken at each check: "
                  f"{document['failed_by_audit']}")  # fmt: skip


def plot(document: dict[str, Any], path: Path) -> None:
    """Shares by block, oldest first."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    names = [block["edits"] for block in document["blocks"]]
    for name, style in (("reliability", "o-"), ("generalization", "s-")):
        axes.plot(names, [block[name] for block in document["blocks"]], style, label=name)
    locality = document["unrelated"]["locality"]
    axes.axhline(locality, color="gray", linestyle="--", label="locality, unrelated prompts")
    lowest = min(block["generalization"] for block in document["blocks"])
    axes.set_ylim(min(0.8, lowest - 0.05), 1.005)
    axes.set_xlabel(f"edits in the order in which they were made, asked after the last of "
                    f"{document['edits']}")  # fmt: skip
    axes.set_ylabel("share, free generation")
    axes.tick_params(axis="x", rotation=30)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
