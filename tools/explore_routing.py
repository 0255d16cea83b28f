"""How routing behaves: one experiment a call, with a table, a plot and a JSON line.

    python tools/explore_routing.py features|keys|k|thresholds|collisions|density|chance|context
                                    [--edits 150] [--model DIR] [--seed 0] [--plot FILE]

Edits of the demo model; nothing is trained but in `collisions` and `density`. Paraphrases and hard
negatives are those of memoir_edge.demo.edits, which neither keys nor thresholds are made from.
docs/routing.md shows runs of all of them. The last line is one JSON document.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_training import gives, new_editor
from rich.console import Console
from rich.table import Table

from memoir_edge import tophash
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import BaseModel, Editor, load, quiet
from memoir_edge.editor.prompts import own_texts, ways
from memoir_edge.edits import Edit
from memoir_edge.history.bank import Bank
from memoir_edge.nearmiss import Pool
from memoir_edge.sites import DEFAULT
from memoir_edge.tophash import FEATURES

BOUNDS = (0.05, 0.01, 0.001)
GUARDS = 2  # of each kind, for each edit
TRAINED = 300  # of the edits whose masks `collisions` compares
Row = dict[str, Any]


def main() -> None:
    """One experiment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--edits", type=int, default=150)
    parser.add_argument("--model", type=Path, default=model_dir())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    quiet()
    base = load(str(given.model), device="cpu")
    rows = EXPERIMENTS[given.experiment](base, sample(given.edits, given.seed))
    columns = [name for name, value in rows[0].items() if not isinstance(value, list)]
    table = Table(*columns, title=f"{given.experiment}, {given.edits} edits")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v := row[c], float) else str(v) for c in columns))
    Console(width=130).print(table)
    if given.plot:
        plot(given.experiment, rows, given.plot)
    print(json.dumps({"experiment": given.experiment, "edits": given.edits, "rows": rows}))


# --- What is asked -------------------------------------------------------------------------------


@dataclass
class Held:
    """An editor that holds the keys of edits; none is trained."""

    editor: Editor
    edits: list[Edit]

    def overlaps(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The largest overlap of each text, and the place of that key's edit."""
        found = self.editor.model.routes(texts)
        place = {edit.id: i for i, edit in enumerate(self.edits)}
        owner = np.array([place.get(str(key.edit), -1) for key in self.editor.live.bank.keys])
        edit = owner[found.candidate]
        return np.where(edit < 0, 0, found.overlap), edit  # what comes nearest to a guard fires not

    @cached_property
    def hard(self) -> np.ndarray:
        """Overlaps of the hard negatives."""
        texts = dict.fromkeys(text for edit in self.edits for text in edit.hard_negatives)
        return self.overlaps(list(texts))[0]

    def recall(
        self, ways: Sequence[tuple[int, str]], bounds: Sequence[float] = BOUNDS
    ) -> dict[str, float]:
        """Share of ways to ask that reach their edit at one threshold for all, by false fires."""
        R, edit = self.overlaps([text for _, text in ways])
        right = edit == np.array([i for i, _ in ways])
        found = {"nearest": float(right.mean())}
        for bound in bounds:
            limit = np.quantile(self.hard, 1 - bound, method="higher")
            found[f"at {bound:.1%}"] = float((right & (limit < R)).mean())
        return found

    def calibrated(self, ways: Sequence[tuple[int, str]]) -> dict[str, float]:
        """The same with the thresholds that the tool sets by itself, and what fires then."""
        self.editor.calibrate()
        of = {edit.id: i for i, edit in enumerate(self.edits)}
        keys = self.editor.live.bank.keys
        found = self.editor.model.routes([text for _, text in ways])
        reached = [r > 0 and of[str(keys[r - 1].edit)] == i
                   for r, (i, _) in zip(found.route, ways, strict=True)]  # fmt: skip
        near = list(dict.fromkeys(t for edit in self.edits for t in edit.hard_negatives))
        far = list(dict.fromkeys(p.prompt for edit in self.edits for p in edit.locality))
        fires = [float((self.editor.model.routes(texts).route > 0).mean()) for texts in (near, far)]
        return {"calibrated": float(np.mean(reached)), "hard fire": fires[0], "far fire": fires[1]}


Texts = Callable[[Edit], Sequence[str]]
NONE: Texts = lambda edit: ()  # noqa: E731


def held(
    base: BaseModel,
    edits: list[Edit],
    keys: Texts = NONE,
    guards: Texts = NONE,
    **changes: Any,
) -> Held:
    """The keys of edits, further ones and guards; nothing is trained."""
    editor = new_editor(base, **changes)
    for edit in edits:
        other = replace(edit, keys=tuple(keys(edit)), guards=tuple(guards(edit)))
        primary, *masks = editor.masks([edit.prompt, *other.keys, *other.guards])
        n = len(other.keys)
        editor.live.bank.add(
            edit.id, other.record(), primary, masks[:n], masks[n:], editor.settings.threshold
        )
    return Held(editor, edits)


def told(count: int) -> Texts:
    """As keys, so many of an edit's paraphrases, which are then not to be asked."""
    return lambda edit: edit.rephrase[:count]


def paraphrases(edits: Sequence[Edit], skip: int = 0) -> list[tuple[int, str]]:
    """Every paraphrase with its edit's place."""
    return [(i, text) for i, edit in enumerate(edits) for text in edit.rephrase[skip:]]


def as_apply_makes(base: BaseModel) -> Texts:
    """The further keys that `apply` gives an edit by itself."""
    texts = own_texts(base, 1)
    return lambda edit: ways(base, edit.prompt, texts)[: DEFAULT.made_keys]


def apart(bank: Bank) -> np.ndarray:
    """Overlaps of each stored mask with the others, `[R, R]`; NaN with itself."""
    R = tophash.overlap(bank.packed(), bank.packed(), bank.k)
    np.fill_diagonal(R, np.nan)
    return R


# --- Experiments ---------------------------------------------------------------------------------


def features(base: BaseModel, edits: list[Edit]) -> list[Row]:
    """(f) All features side by side, and further keys."""
    rows = []
    for name, extra in [*((name, 0) for name in FEATURES), ("last", 1), ("last", 3)]:
        made = held(base, edits, told(extra), feature=name)
        ways = paraphrases(edits, skip=extra)
        label = f"{name}, {extra} further keys" if extra else name
        rows.append({"feature": label, **made.recall(ways), **made.calibrated(ways)})
    return rows


def keys(base: BaseModel, edits: list[Edit]) -> list[Row]:
    """Keys and guards that the tool makes from the records alone."""
    pool = Pool(edits)
    edited = {edit.prompt for edit in edits}
    made = as_apply_makes(base)

    def mined(edit: Edit) -> list[str]:
        near = pool.of(edit, GUARDS)
        return [text for text in (*near.template, *near.subject) if text not in edited]

    rows = []
    for label, further, guards in (
        ("the prompt alone", NONE, NONE),
        ("made keys", made, NONE),
        ("mined guards", NONE, mined),
        ("made keys and mined guards", made, mined),
        ("one paraphrase, made keys", lambda edit: (*edit.rephrase[:1], *made(edit)), NONE),
        ("one paraphrase, mined guards", told(1), mined),
    ):
        here = held(base, edits, further, guards)
        rest = paraphrases(edits, skip=1)
        rows.append({"keys": label, "rows": len(here.editor.live.bank.keys),
                     **here.recall(rest), **here.calibrated(rest)})  # fmt: skip
    return rows


def k(base: BaseModel, edits: list[Edit]) -> list[Row]:
    """(a) Number of active features."""
    D = len(new_editor(base).live.hashing.center)
    rows = []
    for share in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 2 / 7, 3 / 8, 1 / 2):
        made = held(base, edits, k=round(share * D))
        ways = paraphrases(edits)
        rows.append({"k / D": share, **made.recall(ways), **made.calibrated(ways)})
    return rows


def thresholds(base: BaseModel, edits: list[Edit]) -> list[Row]:
    """(b) One threshold for all: generalization against false fires of each kind."""
    made = held(base, edits)
    R, edit = made.overlaps([text for _, text in paraphrases(edits)])
    right = edit == np.array([i for i, _ in paraphrases(edits)])
    kinds: dict[str, list[str]] = {"same template": [], "same subject": []}
    for e in edits:
        for text in e.hard_negatives:
            kinds[
                "same subject" if str(e.subject).lower() in text.lower() else "same template"
            ] += [text]
    kinds["unrelated facts"] = [probe.prompt for e in edits for probe in e.locality]
    fires = {kind: made.overlaps(list(dict.fromkeys(texts)))[0] for kind, texts in kinds.items()}
    return [
        {"threshold": float(limit), "paraphrases": float((right & (limit <= R)).mean())}
        | {kind: float((limit <= found).mean()) for kind, found in fires.items()}
        for limit in np.arange(0.2, 0.91, 0.05)
    ]


def collisions(base: BaseModel, edits: list[Edit]) -> list[Row]:
    """(c) Overlaps between stored masks, and whether the crowded edits are the ones worn down."""
    everyone = apart(held(base, edits).editor.live.bank)
    rows = []
    trained = edits[:TRAINED]
    for spare in (0.0, 10.0):
        editor = new_editor(base, spare=spare, passes=1)
        for edit in trained:
            editor.edit([edit])
        R = apart(editor.live.bank)
        lost = ~np.array(gives(editor, [(edit, edit.prompt) for edit in trained]))
        held_up = gives(editor, [(e, t) for e in trained for t in e.rephrase])
        worn = 1 - np.array(held_up).reshape(len(trained), -1).mean(axis=1)
        later = np.array([np.nanmean(row[i + 1 :]) for i, row in enumerate(R[:-1])])
        rows.append(
            {
                "mean overlap": float(np.nanmean(everyone)),
                "share above .5": float(np.nanmean(everyone > 0.5)),
                "spare": spare,
                "trained": len(trained),
                "prompts lost": float(lost.mean()),
                "paraphrases lost": float(worn.mean()),
                "correlation with overlap of later edits": float(
                    np.corrcoef(later, worn[:-1])[0, 1]
                ),
                "overlaps": np.histogram(everyone[~np.isnan(everyone)], 50, (0, 1))[0].tolist(),
            }
        )
    return rows


def density(base: BaseModel, edits: list[Edit]) -> list[Row]:
    """(d) The same number of edits on many prompts, or several to a prompt's neighbourhood."""
    [(crowded, _)] = Counter(edit.tags["relation"] for edit in edits).most_common(1)
    few = [edit for edit in edits if edit.tags["relation"] == crowded]
    rows = []
    for label, chosen in (("all relations", edits[: len(few)]), ("one relation", few)):
        editor = new_editor(base, spare=0.0, passes=1)
        for edit in chosen:
            editor.edit([edit])
        R = apart(editor.live.bank)
        own = gives(editor, [(edit, edit.prompt) for edit in chosen])
        ways = gives(editor, [(e, t) for e in chosen for t in e.rephrase])
        rows.append({"edits": f"{len(chosen)}, {label}", "mean overlap": float(np.nanmean(R)),
                     "chance (k / D)": editor.live.bank.k / editor.live.bank.D,
                     "reliability": float(np.mean(own)),
                     "paraphrases": float(np.mean(ways))})  # fmt: skip
    return rows


def chance(base: BaseModel, edits: list[Edit]) -> list[Row]:
    """(e) Overlap of unrelated masks against that of random ones: k/D, hypergeometric."""
    rows = []
    D = len(new_editor(base).live.hashing.center)
    for share in (1 / 16, 1 / 8, 2 / 7, 1 / 2):
        size = round(share * D)
        spread = float(np.sqrt(size * share * (1 - share) * (D - size) / (D - 1))) / size
        for name in ("mean", "last"):
            made = held(base, edits, k=size, feature=name)
            bank = made.editor.live.bank.packed()
            unlike = [
                tophash.overlap(bank[[i]], bank[[j]], size)[0, 0]
                for i, a in enumerate(edits)
                for j, b in enumerate(edits[:i])
                if a.subject != b.subject and a.tags != b.tags
            ]
            rows.append(
                {
                    "feature": name,
                    "k / D": share,
                    "mean": float(np.mean(unlike)),
                    "spread": float(np.std(unlike)),
                    "spread by chance": spread,
                }
            )
    return rows


def context(base: BaseModel, edits: list[Edit]) -> list[Row]:
    """How edits are reached in context, from careless hands, and with typos.

    Of each form only the prompts that it changes are asked.
    """
    plain = held(base, edits)
    keyed = held(base, edits, as_apply_makes(base))
    dice = random.Random(0)
    texts = [(i, edit.prompt) for i, edit in enumerate(edits)] + paraphrases(edits)
    turns = "Q: {} A: Fine.\nQ: {} A: I see.\n".format("How are you?", "I like the sea.")
    forms: dict[str, Callable[[str], str]] = {
        "alone": lambda text: text,
        "behind a system line": lambda text: f"You are a helpful assistant.\n{text}",
        "as a chat": _chat,
        "third turn of a chat": lambda text: turns + _chat(text),
        "small letters": str.lower,
        "no punctuation": lambda text: text.rstrip("?:."),
        "doubled punctuation": lambda text: text + text[-1] if text[-1] in "?:" else text,
        "dots behind a statement": lambda text: text if text[-1] in "?:" else text + "...",
        "one typo": lambda text: _typo(text, dice),
    }
    rows = []
    for name, form in forms.items():
        asked = [(i, form(text)) for i, text in texts]
        if name != "alone":
            asked = [way for way, (_, text) in zip(asked, texts, strict=True) if way[1] != text]
        made = keyed.recall(asked) | keyed.calibrated(asked)
        rows.append({"asked": name, "prompts": len(asked), **plain.recall(asked),
                     "made keys: at 1.0%": made["at 1.0%"],
                     "calibrated": made["calibrated"]})  # fmt: skip
    return rows


def _chat(text: str) -> str:
    return text if text.startswith("Q: ") else f"Q: {text} A:"


def _typo(text: str, dice: random.Random) -> str:
    places = [i for i in range(1, len(text) - 2) if text[i : i + 2].isalpha()]
    i = dice.choice(places)
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


EXPERIMENTS: dict[str, Callable[[BaseModel, list[Edit]], list[Row]]] = {
    experiment.__name__: experiment
    for experiment in (features, keys, k, thresholds, collisions, density, chance, context)
}


# --- Plots ---------------------------------------------------------------------------------------


def plot(name: str, rows: list[Row], path: Path) -> None:
    """Every numeric column against the first."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    first, *columns = [c for c, value in rows[0].items() if not isinstance(value, list)]
    x = [row[first] for row in rows]
    if name == "collisions":
        for row in rows[:1]:
            axes.stairs(row["overlaps"], np.linspace(0, 1, 51), fill=True)
        axes.set_xlabel("overlap of two stored masks")
        axes.set_ylabel("pairs")
    elif isinstance(x[0], str):
        width = 0.8 / len(columns)
        for i, column in enumerate(columns):
            axes.bar(np.arange(len(x)) + i * width, [row[column] for row in rows], width,
                     label=column)  # fmt: skip
        axes.set_xticks(np.arange(len(x)) + 0.4, x, rotation=25, ha="right")
        axes.legend(fontsize="small")
    else:
        for column in columns:
            axes.plot(x, [row[column] for row in rows], "o-", label=column)
        axes.set_xlabel(first)
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
