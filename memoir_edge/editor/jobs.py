"""What edits are trained on: their rows, and what a change avoids of what other edits read."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from memoir_edge.editor.batch import Job
from memoir_edge.editor.live import LiveMemory
from memoir_edge.editor.model import Row
from memoir_edge.editor.questions import Questions
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.recall import Edited
from memoir_edge.editor.rows import asked, is_chat, rows
from memoir_edge.editor.spare import Reads
from memoir_edge.edits import Edit, stored
from memoir_edge.history.events import Wrong
from memoir_edge.settings import Settings


class Jobs:
    """The training of each edit, made from what the memory holds by then.

    Args:
        model: The base model with the memory.
        readings: What rows read on the base model.
        questions: What else asks what an edit asks.
        settings: How many rows of each sort, and how strongly others are avoided.
        prefixes: Texts that the prompt stands behind in a row each.
    """

    def __init__(
        self,
        model: Edited,
        readings: Readings,
        questions: Questions,
        settings: Settings,
        prefixes: Sequence[str],
    ) -> None:
        self.model, self.readings, self.questions = model, readings, questions
        self.settings, self.prefixes = settings, prefixes
        self._reads: dict[int, Reads] | None = None  # of the edits in a tile; None: to be gathered

    def new(self, edit: Edit, columns: Tensor) -> Job:
        """Of an edit that the memory does not hold yet; `columns` of Wm are its mask's."""
        return Job(columns, self.rows(edit), self._avoid(columns, []))

    def again(self, edit: Edit, wrong: Sequence[Wrong]) -> Job:
        """Of an edit that the memory holds; what was found wrong is asked besides."""
        columns = self._live.columns_of(edit.id)
        own = self._read(edit, columns) if self.settings.spare else []
        return Job(columns, self.rows(edit, wrong), self._avoid(columns, own))

    def rows(self, edit: Edit, wrong: Sequence[Wrong] = ()) -> list[Row]:
        """Training rows; what was found wrong is asked besides."""
        base, plain = self.model.base, not is_chat(self.model.base, edit.prompt)
        settings = self.settings if plain else replace(self.settings, forms=0, chats=0)
        texts, chats = asked(edit.prompt, self.questions.phrasings(edit), settings)
        texts += [one.text for one in wrong if one.text not in (edit.prompt, *texts)]
        return rows(
            base, edit.prompt, edit.target, self.prefixes,
            eos=self.settings.eos, texts=texts, chats=chats,
        )  # fmt: skip

    # --- What other edits read -------------------------------------------------------------------

    def take_in(self, edit: Edit) -> None:
        """From now on others avoid what an edit reads that the memory has just taken in."""
        if self._reads is not None:
            self._add(self._reads, edit)

    def gather_anew(self) -> None:
        """Forget what edits read: one of them is gone."""
        self._reads = None

    def _avoid(self, columns: Tensor, own: Sequence[Tensor]) -> list[Tensor]:
        """What turns a change away from others, at each site; `own` is of an edit that is held."""
        if not self.settings.spare:
            return []
        tiles, features = self._of_tiles(self._gathered(), columns), columns % self._live.D
        found = [
            reads.avoided(features, own[s] if own else None, self.settings.spare)
            for s, reads in enumerate(tiles)
        ]
        return [each for each in found if each is not None]

    def _gathered(self) -> dict[int, Reads]:
        if self._reads is None:
            self._reads = {}
            for edit in stored(self._live.bank.records):
                self._add(self._reads, edit)
        return self._reads

    def _add(self, reads: dict[int, Reads], edit: Edit) -> None:
        columns = self._live.columns_of(edit.id)
        tiles = self._of_tiles(reads, columns)
        for tile, x in zip(tiles, self._read(edit, columns), strict=True):
            tile.add(x, columns % self._live.D)

    def _of_tiles(self, reads: dict[int, Reads], columns: Tensor) -> list[Reads]:
        """What is read in the tiles of a mask: edits in other tiles do not meet them."""
        D = self._live.D
        first = int(columns[0]) // D
        tiles = range(first, first + self._live.sites)
        for tile in tiles:
            if tile not in reads:
                reads[tile] = Reads(torch.zeros(D, D, device=columns.device))
        return [reads[tile] for tile in tiles]

    def _read(self, edit: Edit, columns: Tensor) -> list[Tensor]:
        """What each site reads where target tokens of the edit's rows are predicted: [n, k]."""
        sites = self.readings.of(self.rows(edit)).a.to(columns.device).chunk(self._live.sites, 1)
        return [a[:, columns % self._live.D].float() for a in sites]

    @property
    def _live(self) -> LiveMemory:
        assert self.model.live is not None
        return self.model.live
