"""A thousand edits, one after the other, then ask for all of them: does the first still hold?

    python tools/lifelong.py [--facts demo|counterfact] [--edits 1000] [--model DIR] [--site PATH]
                             [--encoder DIR] [--relations present|out] [--seed 0] [--blocks N]
                             [--keep DIR] [--plot FILE] [--set NAME=VALUE]

`demo`: edits of the demo model, or of a sibling that tools/train_demo_model.py made, routed by its
activations. `counterfact`: edits of tools/world.py in a real chat model, routed by an encoder;
SmolLM2 and MiniLM unless told otherwise. They are made in order, checked and repaired once at the
end, as `memoir-edge apply` does. Then each block of a hundred, or `--blocks` of equal size, oldest
first, by free generation with the routing of the day: its prompts, its paraphrases, and its hard
negatives, which must be answered as before. Unrelated prompts are everyday sentences that nothing
was centred on; of the demo model, neighbours are facts that nobody edited, asked in the edited
facts' own phrasings, and at last two of each edit's seven paraphrases become further keys, as a
record's `keys` would, and the other five are asked once more: what is lost then is lost in
training, not routing.
With --keep an interrupted run goes on in that folder. docs/editor.md shows a run.
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
from world import EVERYDAY, relations_of, world

from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import Editor, Watch, Wishes, choose, load, quiet
from memoir_edge.edits import Edit
from memoir_edge.evaluate.dataset import Way, claim, kept
from memoir_edge.history.bank import Key
from memoir_edge.router import Encoder

BLOCK = 100
KEYS = 2
SETTINGS = ("site", "k", "optimiser", "thinned", "spare", "lr", "momentum", "passes", "steps",
            "made_keys", "false_fires")  # fmt: skip
SHOWN = ("reliability", "generalization", "on own row", "recall", "hard changed")


def main() -> None:
    """Edit, evaluate, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--facts", choices=("demo", "counterfact"), default="demo")
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--model")
    parser.add_argument("--site")
    parser.add_argument("--encoder")
    parser.add_argument("--relations", choices=("present", "out"), default="present")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    changes = {name: json.loads(value) for name, value in (s.split("=") for s in given.set)}
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wishes = Wishes(site=given.site, **changes)
        way, edits = of_demo(given, wishes) if given.facts == "demo" else of_chat(given, wishes)
        size = -(-len(edits) // given.blocks) if given.blocks else BLOCK
        document = live(way, edits, folder, stack, size)
        document |= {"facts": given.facts, "seed": given.seed}
    show(document)
    if given.plot:
        plot(document, given.plot)
    print(json.dumps(document))


def of_demo(given: argparse.Namespace, wishes: Wishes) -> tuple[Way, list[Edit]]:
    """The demo model's facts."""
    base = load(given.model or str(model_dir()), device="cpu")
    return Way(base, choose(base, wishes)), sample(given.edits, given.seed)


def of_chat(given: argparse.Namespace, wishes: Wishes) -> tuple[Way, list[Edit]]:
    """CounterFact's."""
    base = load(given.model or str(model_path("smollm2")), device="cpu")
    router = Encoder(given.encoder or str(model_path("minilm")))
    relations = relations_of(given.relations)
    edits = world(relations, given.edits, given.seed)
    return Way(base, choose(base, wishes, coded=True), router, relations), edits


def live(way: Way, edits: list[Edit], folder: Path, stack: ExitStack, size: int) -> dict[str, Any]:
    """Make the edits, then ask for each block."""
    claim(folder, way.about(), edits)
    editor = stack.enter_context(way.editor(folder / "lifelong"))
    journal, settings = editor.journal, way.settings
    new = [edit for edit in edits if edit.id not in editor.live.bank.records]
    bar = stack.enter_context(Progress(console=Console(stderr=True)))
    making = bar.add_task("editing", total=len(new))
    watch = Watch(made=lambda n: bar.advance(making, n))
    before, cpu, start = len(journal.frames), time.process_time(), time.monotonic()
    editor.apply(new, watch)
    cpu, seconds = time.process_time() - cpu, time.monotonic() - start
    trained = sum(frame.kind in ("made", "again") for frame in journal.frames[before:])
    made = [frame for frame in journal.frames if frame.kind == "made"]
    audits = [len(frame.data["failed"]) for frame in journal.frames if frame.kind == "audit"]
    steps = [item["steps"] for frame in made for item in frame.data["edits"]]
    asking = bar.add_task("asking", total=len(edits))
    blocks = []
    for first in range(0, len(edits), size):
        block = edits[first : first + size]
        name = f"{first + 1}-{first + len(block)}"
        scores = kept(folder / f"block-{name}.json", lambda block=block: asked(editor, block))
        blocks.append({"edits": name, **scores})
        bar.advance(asking, len(block))
    near = list(dict.fromkeys(probe.prompt for edit in edits for probe in edit.locality))
    return {
        "model": way.base.id,
        "edits": len(edits),
        "D": editor.live.D,
        "settings": {n: getattr(settings, n) for n in SETTINGS},
        "seconds_per_training": seconds / max(trained, 1),
        "cpu_seconds_per_edit": cpu / len(edits) if len(new) == len(edits) else None,
        "steps_per_edit": sum(steps) / len(edits),
        "failed_by_audit": audits,
        "journal_bytes": journal.path.stat().st_size,
        "blocks": blocks,
        "total": total(blocks, len(edits), size),
        "unrelated": untouched(editor, EVERYDAY),
        **({"neighbours": untouched(editor, near)} if near else {}),
        **({} if way.router else {"with two keys": keyed(editor, edits)}),
    }


def total(blocks: list[dict[str, Any]], count: int, size: int) -> dict[str, float]:
    """The mean over all edits."""
    weights = [min(size, count - start) for start in range(0, count, size)]
    return {
        name: sum(w * block[name] for w, block in zip(weights, blocks, strict=True)) / count
        for name in SHOWN
    }


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
    """How a block of edits holds: prompts, paraphrases, hard negatives, by free generation."""
    room = 16
    hard = [text for edit in block for text in edit.hard_negatives]
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
        "hard changed": 1 - untouched(editor, hard)["locality"] if hard else 0.0,
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
        if found := document.get(name):
            console.print(f"{name}: {found['prompts']} prompts, locality {found['locality']:.3f}, "
                          f"fires {found['fires']:.3f}")  # fmt: skip
    if keyed := document.get("with two keys"):
        told = ", ".join(f"{name} {value:.3f}" for name, value in keyed.items())
        console.print(f"with two further phrasings as keys: {told}")
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
