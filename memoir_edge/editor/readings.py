"""What training rows read of the frozen model where their target tokens are predicted.

At the first site no memory changes it. At a later one it is what an edit's change spans, and what
others avoid; what is read there with the change made, training sees for itself (editor/run.py).

So a model is run once for a group of rows, whatever is asked of them later: training, sparing, a
second pass, a check. A group is always run by itself, so that not a bit of what is read depends on
what else is kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from memoir_edge.editor.batch import collate_rows, even, places, tokens
from memoir_edge.editor.layer import Part, decoded, inputs_of, part_of, site_input
from memoir_edge.editor.model import BaseModel, Row
from memoir_edge.editor.site import find_sites
from memoir_edge.editor.tail import Tail, tail_of
from memoir_edge.editor.woven import weave

ROOM = 128 << 20  # bytes of readings that are kept
LONGEST = 1024  # tokens of a woven sequence: each attends to all others' places


class Read(NamedTuple):
    """What the `n` places of a group of rows come to, row by row."""

    a: Tensor  # [n, S * D] the sites' inputs, one beside the other
    out: Tensor | None  # [n, d] the last block's output, where the site is at the model's tail


class Readings:
    """The readings of groups of rows, those that came first kept while there is room.

    Args:
        base: The model.
        paths: Its sites, in the model's order.
        room: Bytes that may be kept. A run over all edits goes through them in order, so that
            making room for the latest would lose what is needed next.
    """

    def __init__(self, base: BaseModel, *paths: str, room: int = ROOM) -> None:
        self.base, self.path, self.room = base, paths[0], room
        self.sites = find_sites(base.net, paths)
        self.tail = tail_of(base, self.path) if len(paths) == 1 else None
        self._kept: dict[tuple[tuple[int, ...], ...], Read] = {}

    def of(self, rows: Sequence[Row]) -> Read:
        """What a group of rows reads."""
        found = self.kept(rows)
        return found if found is not None else self.keep(rows, self._run(rows))

    def kept(self, rows: Sequence[Row]) -> Read | None:
        """What a group of rows reads, if it is at hand."""
        return self._kept.get(_name(rows))

    def keep(self, rows: Sequence[Row], read: Read) -> Read:
        """Keep what a group reads, if there is room."""
        size = sum(x.nbytes for x in read if x is not None)
        if size <= self.room and _name(rows) not in self._kept:
            self._kept[_name(rows)] = read
            self.room -= size
        return read

    def _run(self, rows: Sequence[Row]) -> Read:
        if self.tail is not None:
            return _at_tail(self.tail, rows)
        given = [tokens(row) for row in rows]
        batch, parts = collate_rows(self.base, rows), even(list(map(len, given)), 0)
        if len(self.sites) > 1:
            ran = [self._beside(part_of(batch, part)) for part in parts]
            return Read(_picked(parts, ran, places(rows)), None)
        a = site_input(self.base.net, self.path, batch, parts)
        return Read(a.reshape(*decoded(batch)[0].shape, -1)[places(rows)], None)

    def _beside(self, batch: dict[str, Tensor]) -> Tensor:
        """The sites' inputs `[B, T, S * D]`."""
        found = inputs_of(self.base.net, self.sites, batch)
        B, T = decoded(batch)[0].shape
        return torch.cat([a.reshape(B, T, -1).to(found[0].device) for a in found], dim=-1)


def _at_tail(tail: Tail, rows: Sequence[Row]) -> Read:
    given, (row, position) = [tokens(row) for row in rows], places(rows)
    woven = weave(given)
    # A mask of ours takes the place of the model's own, which may let tokens see only so far.
    most = min(LONGEST, tail.base.config.get("sliding_window") or LONGEST)
    if tail.weaves and len(woven.ids) <= most:
        a, out = tail.reach(woven.batch(tail.base))
        at = [woven.places[i][j] for i, j in zip(row.tolist(), position.tolist(), strict=True)]
        return Read(a[0, at], out[0, at])
    batch, parts = collate_rows(tail.base, rows), even(list(map(len, given)), 0)
    ran = [tail.reach(part_of(batch, part)) for part in parts]
    return Read(*(_picked(parts, found, (row, position)) for found in zip(*ran, strict=True)))


def _picked(parts: Sequence[Part], found: Sequence[Tensor], at: tuple[Tensor, Tensor]) -> Tensor:
    """What was found at places of rows that were run in parts: `[n, width]`."""
    row, position = at
    picked = found[0].new_empty(len(row), found[0].shape[-1])
    for part, x in zip(parts, found, strict=True):
        for i, own in enumerate(part.rows):
            here = row == own
            picked[here] = x[i, position[here]]
    return picked


def _name(rows: Sequence[Row]) -> tuple[tuple[int, ...], ...]:
    return tuple(
        (len(row.source), *row.source, len(row.prompt), *row.prompt, *row.target) for row in rows
    )
