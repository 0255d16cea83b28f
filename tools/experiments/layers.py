"""One late layer or several, at equal bytes: where does an edit of more than one site help?

    python tools/experiments/layers.py --keep DIR [--model smollm2|demo] [--sets short ...]
                                       [--layers last ...] [--edits 12] [--seed 0] [--plot FILE]

Edits are made at the last block's down-projection, and at those of the last two and three blocks
together; and, to tell what of it is due to several sites, at the last one with four times the steps
and at the one below it alone. With S sites an edit writes k / S columns at each of them, and shares
S tiles with S times as many others: all write as many columns, and their memories are of about the
same size. `bytes` is what a memory's columns take.

    short       facts of the demo, told otherwise                                  `--edits`
    sentences   answers of one to five sentences on made-up things (layers.toml)   all ten of them
    facts       paragraphs of ten facts each                                       both of them

Each is trained once, in order, in a memory of its own set. Asked are prompts and other phrasings,
every text sent to its own edit whatever routing says: the answer must be the target and stop there,
and `tokens` is the share of the target's tokens that are likeliest with those before them given.
CPU seconds are of training, on one thread.

Each run is kept in DIR; an interrupted experiment goes on there. docs/experiments.md shows one.
The last line is one JSON document.
"""

import argparse
import json
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from router_looks import show

from memoir_edge.contents import sizes
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import (
    BaseModel,
    Editor,
    Settings,
    Wishes,
    choose,
    find_site,
    load,
    quiet,
    width,
)
from memoir_edge.edits import Edit, default_id
from memoir_edge.evaluate.dataset import kept
from memoir_edge.router.masks import drawn
from memoir_edge.tophash import Bytes

Row = dict[str, Any]
MODELS: dict[str, Callable[[], Path]] = {
    "smollm2": lambda: model_path("smollm2"),
    "demo": model_dir,
}
TILE = 4  # edits that share the columns of one site
# By name, how far below the last block each site is, and how many times the default's steps.
LAYERS: dict[str, tuple[tuple[int, ...], int]] = {
    "last": ((0,), 1),
    "last, 4 x steps": ((0,), 4),
    "one below": ((1,), 1),
    "last two": ((1, 0), 1),
    "last three": ((2, 1, 0), 1),
}


def main() -> None:
    """Every set at every number of sites, then a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--layers", nargs="*", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--edits", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    given.keep.mkdir(parents=True, exist_ok=True)
    base = load(str(MODELS[given.model]()), device="cpu")
    rows = []
    for name in given.sets:
        edits = SETS[name](given.edits, given.seed)
        for layers in given.layers:
            path = given.keep / f"{given.model}-{name}-{len(edits)}-{given.seed}-{layers}.json"
            found = kept(path, lambda edits=edits, layers=layers: held(base, edits, layers))
            rows.append({"answers": name, "layers": layers, **found})
    show(f"{given.model}: one site and several, of as many columns", rows)
    if given.plot:
        plot(rows, given.plot)
    print(json.dumps({"experiment": "layers", "model": given.model, "rows": rows}))


# --- Edits ---------------------------------------------------------------------------------------


def short(count: int, seed: int) -> list[Edit]:
    """Facts of the demo."""
    return sample(count, seed)


def sentences(_count: int, _seed: int) -> list[Edit]:
    """Answers of one to five sentences, two of each length."""
    return [written(one, 1 + i % 5) for i, one in enumerate(texts()["sentences"])]


def facts(_count: int, _seed: int) -> list[Edit]:
    """Paragraphs of ten facts."""
    return [written(one, len(one["text"])) for one in texts()["facts"]]


SETS: dict[str, Callable[[int, int], list[Edit]]] = {
    "short": short,
    "sentences": sentences,
    "facts": facts,
}


def texts() -> dict[str, list[dict[str, Any]]]:
    """What there is to tell."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def written(one: dict[str, Any], length: int) -> Edit:
    """An edit whose answer is the first sentences of a text."""
    prompt, target = one["prompt"], " ".join(one["text"][:length])
    return Edit(
        id=default_id(prompt, target), prompt=prompt, target=target, tags={},
        rephrase=tuple(one["ask"]),
    )  # fmt: skip


class Given:
    """A router that sends every phrasing of an edit to it, and nothing else anywhere."""

    kind, digest = "encoder", "0" * 64
    bits, weight = 256, 128

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.asks = {text: e.prompt for e in edits for text in (e.prompt, *e.rephrase)}

    def codes(self, texts: Sequence[str]) -> Bytes:
        """`[n, 32]`."""
        return np.stack([drawn(self.asks.get(t, t), self.bits, self.weight) for t in texts])

    def reads_all(self, _text: str) -> bool:
        """No text is cut."""
        return True

    def respelling(self, _texts: Iterable[str]) -> Callable[[str], str]:
        """Texts are read as they are."""
        return str


# --- What they hold ------------------------------------------------------------------------------


def settings_of(base: BaseModel, layers: str) -> Settings:
    """The defaults, at these blocks, with as many columns whatever their number."""
    below, times = LAYERS[layers]
    one = choose(base, Wishes(), coded=True)
    last = int(re.findall(r"\.(\d+)\.", one.site)[0])
    paths = [re.sub(r"\.\d+\.", f".{last - each}.", one.site, count=1) for each in below]
    several = choose(base, Wishes(site=",".join(paths)), coded=True)
    D, _ = width(find_site(base.net, one.site))
    return replace(
        several, k=one.k // len(below), columns_per_edit=D // TILE, steps=times * one.steps
    )


def held(base: BaseModel, edits: Sequence[Edit], layers: str) -> Row:
    """Train the edits in order, and ask everything."""
    settings = settings_of(base, layers)
    editor = Editor(base, settings, router=Given(edits))
    begun, steps = time.process_time(), 0
    for edit in edits:
        [change] = editor.edit([edit])
        steps += change.steps
    seconds = time.process_time() - begun
    own = [(edit.prompt, edit.target) for edit in edits]
    said = [(text, edit.target) for edit in edits for text in edit.rephrase]
    memory = editor.memory()
    return {
        "k": settings.k,
        "edits": len(edits),
        **asked(editor, own, "prompts"),
        **asked(editor, said, "phrasings"),
        "steps": steps / len(edits),
        "CPU s": seconds / len(edits),
        "bytes": sizes(memory)["columns"] // len(edits),
    }


def asked(editor: Editor, pairs: Sequence[tuple[str, str]], what: str) -> Row:
    """Shares of texts that give their target, and of the targets' tokens."""
    prompts, targets = map(list, zip(*pairs, strict=True))
    most = max(len(editor.base.encode_bare(target)) for target in targets) + 8
    answers = editor.model.answer(prompts, most, memory=True)
    forced = editor.model.forced(prompts, targets, memory=True)
    right = [a.text.strip() == target for a, target in zip(answers, targets, strict=True)]
    tokens = [float(np.mean(np.equal(f.target, f.predicted))) for f in forced]
    return {what: float(np.mean(right)), f"{what}: tokens": float(np.mean(tokens))}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Shares and seconds by set and layers."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    sets, layers = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("answers", "layers")
    )
    shown = ("prompts", "phrasings", "phrasings: tokens", "CPU s")
    figure, axes = plt.subplots(1, len(shown), figsize=(13, 3.8), layout="constrained")
    for each, what in zip(axes, shown, strict=True):
        for i, name in enumerate(layers):
            found = {row["answers"]: row[what] for row in rows if row["layers"] == name}
            places = np.arange(len(sets)) + 0.16 * (i - (len(layers) - 1) / 2)
            each.bar(places, [found[one] for one in sets], 0.16, label=name)
        each.set_xticks(np.arange(len(sets)), sets)
        each.set_title(f"{what} an edit" if what == "CPU s" else what)
        each.grid(alpha=0.3, axis="y")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
