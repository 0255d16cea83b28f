"""What answers when routing is asked, and how often rightly.

A `Look` finds the edit nearest to each text: by the product's table, or beside it by a bare measure
or faiss. Of a world it knows what must be reached and what must not, and nothing of where its texts
come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Printed
from router_worlds import World

from memoir_edge import tophash
from memoir_edge.evaluate.metrics import wilson
from memoir_edge.router.codes import codes
from memoir_edge.router.encoder import Encoder
from memoir_edge.router.measure import hindsight
from memoir_edge.router.table import Table
from memoir_edge.tophash import Bytes, Floats, Ints
from memoir_edge.views import views

BOUNDS = (0.05, 0.01, 0.002)
Row = dict[str, Any]


# --- What answers --------------------------------------------------------------------------------


class Remembering:
    """An encoder that encodes each text once."""

    kind = "encoder"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.bits, self.weight, self.digest = encoder.bits, encoder.weight, encoder.digest
        self.respelling = encoder.respelling
        self._known: dict[str, Floats] = {}

    def embeddings(self, texts: Sequence[str]) -> Floats:
        """As the encoder gives them."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, self.encoder.embeddings(new), strict=True)
        return np.array([self._known[text] for text in texts], np.float32)

    def codes(self, texts: Sequence[str]) -> Bytes:
        """Packed codes."""
        return codes(self.embeddings(texts), self.bits)


@dataclass
class Found:
    """What was nearest to some texts: the edit (-1 a guard), and by how much it passed."""

    edit: Ints
    above: Floats  # overlap, less the key's threshold

    def fires(self, moved: float = 0.0) -> np.ndarray:
        """Which texts reach an edit."""
        return (self.edit >= 0) & (self.above >= moved)


Look = Callable[[Sequence[str]], Found]


def look_up(table: Table, router: Remembering) -> Look:
    """Nearest row of a table, as Route finds it."""

    def look(texts: Sequence[str]) -> Found:
        undecided = np.zeros(1, np.int64)
        found = [
            tophash.route(
                some,
                undecided,
                table.codes,
                table.owner,
                table.thresholds,
                router.weight,
            )
            for some in np.array_split(router.codes(texts), len(texts) // 256 + 1)
        ]
        row = np.concatenate([f.candidate for f in found])
        R = np.concatenate([f.overlap for f in found])
        return Found(table.owner[row].astype(np.int64), R - table.thresholds[row])

    return look


def every_view(look: Look, respell: Callable[[str], str] | None) -> Look:
    """The whole text, its last sentence, or either with typos put right: what passes by most."""

    def looked(prompts: Sequence[str]) -> Found:
        texts, of = views(prompts, respell)
        found = look(texts)
        order = np.lexsort((-found.above, found.edit < 0, of))
        best = order[np.searchsorted(of[order], np.arange(len(prompts)))]
        return Found(found.edit[best], found.above[best])

    return looked


def bare(texts: Sequence[str], owner: Sequence[int], embed: Callable[[Sequence[str]], Floats],
         near: Callable[[Floats, Floats], Floats]) -> Look:  # fmt: skip
    """Nearest of some keys by any measure; one threshold for all."""
    keys, of = embed(texts), np.array(owner)

    def look(asked: Sequence[str]) -> Found:
        R = near(embed(asked), keys)
        row = R.argmax(axis=1)
        return Found(of[row], R[np.arange(len(R)), row])

    return look


def by_faiss(texts: Sequence[str], owner: Sequence[int], router: Remembering) -> Look | None:
    """Nearest of the same codes, as faiss finds it; one threshold for all."""
    try:
        import faiss
    except ImportError:
        return None
    index, of = faiss.IndexBinaryFlat(router.bits), np.array(owner)
    index.add(router.codes(texts))

    def look(asked: Sequence[str]) -> Found:
        distance, row = index.search(router.codes(asked), 1)
        return Found(of[row[:, 0]], 1 - distance[:, 0] / (2 * router.weight))

    return look


def cosine(a: Floats, b: Floats) -> Floats:
    """Cosines of rows, `[n, m]`."""
    norm = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    return np.asarray(norm[0] @ norm[1].T)


# --- How often rightly ---------------------------------------------------------------------------


def measure(world: World, look: Look, *, own: bool = True) -> Row:
    """Recall and false fires, with hindsight and, for `own`, at the thresholds as they are."""
    asked = look([text for _, text in world.asked])
    right = world.right(asked.edit)
    hard = {sort: look(texts) for sort, texts in world.hard.items() if texts}
    above = np.concatenate([np.where(f.edit >= 0, f.above, -9) for f in hard.values()])
    row: Row = {"nearest": float(right.mean())}
    for bound in BOUNDS:
        row[f"at {bound:.1%}"] = hindsight(right, asked.above, above, bound)
    if own:
        reached = right & asked.fires()
        row["own"] = float(reached.mean())
        row["interval"] = [round(e or 0, 3) for e in wilson(int(reached.sum()), len(reached))]
        row["fires"] = float((above >= 0).mean())
        row |= {f"fires: {sort}": float(f.fires().mean()) for sort, f in hard.items()}
    return row


def show(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Printed(*columns, title=title)
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v := row.get(c, ""), float) else str(v)
                        for c in columns))  # fmt: skip
    Console(width=150).print(table)
