"""What edits are trained on: their rows, and what a change avoids of what other edits read."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from memoir_edge.editor.batch import Job
from memoir_edge.editor.live import LiveMemory
from memoir_edge.editor.model import Row
from memoir_edge.editor.prompts import chat
from memoir_edge.editor.questions import Questions
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.recall import Edited
from memoir_edge.editor.rows import asked, rows
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
        self._reads: dict[int, list[Reads]] = {}  # at each site, by the first tile of a mask

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
        base, (texts, chats) = self.model.base, self.further(edit)
        texts += [one.text for one in wrong if one.text not in (edit.prompt, *texts)]
        return rows(
            base, edit.prompt, edit.target, self.prefixes,
            eos=self.settings.eos, texts=texts, chats=chats,
        )  # fmt: skip

    def further(self, edit: Edit) -> tuple[list[str], list[str]]:
        """What the further rows of an edit ask: as texts, and in chats.

        Where the prompt is a chat as a text, other chats are texts, too: their targets would begin
        otherwise than the prompt's.
        """
        base, plain, settings = self.model.base, self.questions.plain(edit), self.settings
        told = [text for text in self.questions.phrasings(edit) if text != edit.prompt]
        if plain is None:
            return asked(edit.prompt, told, replace(settings, forms=0, ends=0, chats=0))
        texts, chats = asked(plain, told, settings, edit.subject)
        if plain == edit.prompt:
            return texts, chats
        made = [chat(base, text) for text in chats] if base.tokenizer.chat_template else []
        return [text for text in (plain, *texts, *made) if text != edit.prompt], []

    # --- What other edits read -------------------------------------------------------------------

    def take_in(self, edit: Edit) -> None:
        """From now on others avoid what an edit reads that the memory has just taken in."""
        columns = self._live.columns_of(edit.id)
        if (first := self._tile(columns)) in self._reads:
            self._add(self._reads[first], edit, columns)

    def gather_anew(self) -> None:
        """Forget what edits read: one of them is gone."""
        self._reads = {}

    def _avoid(self, columns: Tensor, own: Sequence[Tensor]) -> list[Tensor]:
        """What turns a change away from others, at each site; `own` is of an edit that is held."""
        if not self.settings.spare:
            return []
        features = columns % self._live.D
        found = [
            reads.avoided(features, own[s] if own else None, self.settings.spare)
            for s, reads in enumerate(self._gathered(self._tile(columns)))
        ]
        return [each for each in found if each is not None]

    def _tile(self, columns: Tensor) -> int:
        """The first tile that a mask reads."""
        return int(columns[0]) // self._live.D

    def _gathered(self, first: int) -> list[Reads]:
        """What the edits of a tile read, at each site: edits of other tiles do not meet them."""
        if first not in self._reads:
            D, device = self._live.D, self._live.Wm.device
            found = [Reads(torch.zeros(D, D, device=device)) for _ in range(self._live.sites)]
            tile = self._live.bank.tile
            here = [e for e in stored(self._live.bank.records) if tile.get(e.id, 0) == first]
            self.questions.read(here)
            for edit in here:
                self._add(found, edit, self._live.columns_of(edit.id))
            self._reads[first] = found
        return self._reads[first]

    def _add(self, reads: Sequence[Reads], edit: Edit, columns: Tensor) -> None:
        for site, x in zip(reads, self._read(edit, columns), strict=True):
            site.add(x, columns % self._live.D)

    def _read(self, edit: Edit, columns: Tensor) -> list[Tensor]:
        """What each site reads where target tokens of the edit's rows are predicted: [n, k]."""
        sites = self.readings.of(self.rows(edit)).a.to(columns.device).chunk(self._live.sites, 1)
        return [a[:, columns % self._live.D].float() for a in sites]

    @property
    def _live(self) -> LiveMemory:
        assert self.model.live is not None
        return self.model.live
