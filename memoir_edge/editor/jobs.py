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
        return Job(columns, self.rows(edit), self._avoid(columns, None))

    def again(self, edit: Edit, wrong: Sequence[Wrong]) -> Job:
        """Of an edit that the memory holds; what was found wrong is asked besides."""
        columns = self._live.columns_of(edit.id)
        own = self._read(edit, columns) if self.settings.spare else None
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

    def _avoid(self, columns: Tensor, own: Tensor | None) -> Tensor | None:
        if not self.settings.spare:
            return None
        reads = self._of_tile(self._gathered(), columns)
        return reads.avoided(columns % self._live.D, own, self.settings.spare)

    def _gathered(self) -> dict[int, Reads]:
        if self._reads is None:
            self._reads = {}
            for edit in stored(self._live.bank.records):
                self._add(self._reads, edit)
        return self._reads

    def _add(self, reads: dict[int, Reads], edit: Edit) -> None:
        columns = self._live.columns_of(edit.id)
        self._of_tile(reads, columns).add(self._read(edit, columns), columns % self._live.D)

    def _of_tile(self, reads: dict[int, Reads], columns: Tensor) -> Reads:
        """What is read in the tile of these columns: edits in other tiles do not meet them."""
        D = self._live.D
        tile = int(columns[0]) // D
        if tile not in reads:
            reads[tile] = Reads(torch.zeros(D, D, device=columns.device))
        return reads[tile]

    def _read(self, edit: Edit, columns: Tensor) -> Tensor:
        """What the site reads where the target tokens of the edit's rows are predicted: [n, k]."""
        read = self.readings.of(self.rows(edit)).a
        return read.to(columns.device)[:, columns % self._live.D].float()

    @property
    def _live(self) -> LiveMemory:
        assert self.model.live is not None
        return self.model.live
