"""What may be asked of a memory's edits: phrasings, keys and near misses, and the cases of a check.

Trains nothing and answers nothing.
"""

from collections.abc import Sequence

from memoir_edge.editor.checks import MISSES, Case, cases
from memoir_edge.editor.holds import fits
from memoir_edge.editor.recall import Edited
from memoir_edge.editor.rows import is_chat
from memoir_edge.edits import Edit, plain_name, stored
from memoir_edge.history import Bank
from memoir_edge.history.events import MISS, PROMPT
from memoir_edge.nearmiss import Pool
from memoir_edge.relations import Relation
from memoir_edge.router import asks
from memoir_edge.router.asks import Beside, keys, naming, read, subject_of
from memoir_edge.router.reading import Index, Reading
from memoir_edge.views import message


class Questions:
    """What may be asked of edits, each made once.

    Args:
        model: The base model with the memory.
        relations: What a router's keys and guards are made of.
    """

    def __init__(self, model: Edited, relations: Sequence[Relation]) -> None:
        self.model, self.relations = model, relations
        self._readings: dict[tuple[object, ...], Reading] = {}  # by what is read
        self._index: Index | None = None  # made when a prompt is first read

    @property
    def _bank(self) -> Bank:
        assert self.model.live is not None
        return self.model.live.bank

    def plain(self, edit: Edit) -> str | None:
        """The text whose forms must reach an edit, too; None where its prompt is all that does.

        A router reads a chat as what its user says last, so that reaches the edit by itself.
        """
        text = edit.prompt if self.model.router is None else message(edit.prompt)
        return None if is_chat(self.model.base, text) else text

    def phrasings(self, edit: Edit) -> tuple[str, ...]:
        """Other texts that ask what an edit's prompt asks: its keys, its relation's phrasings.

        Where activations route, what the tool makes of a prompt is left out: it is read much alike.
        """
        if self.model.router is None:
            return edit.own_keys
        reading = self.reading(edit)
        if reading is None:  # a deletion brings no relations: what the memory was given then
            return tuple(self._keys_of([edit])[edit.id])
        return keys(edit, reading)[1:]

    def reading(self, edit: Edit) -> Reading | None:
        """What a router takes an edit's prompt to ask, where it is known what may be asked."""
        self.read([edit])
        return self._readings.get(_name(edit))

    def read(self, edits: Sequence[Edit]) -> None:
        """Read edits' prompts together: that is quicker, and tells more of those of one subject."""
        new = [edit for edit in edits if _name(edit) not in self._readings]
        if self.model.router is None or not self.relations or not new:
            return
        index, subjects = self._indexed(), self._subjects(new)
        ids = {edit.id for edit in new}
        held = [edit for edit in stored(self._bank.records) if edit.id not in ids]
        some = [*naming(held, subjects), *new]
        for edit, reading in zip(some, read(some, index), strict=True):
            if edit.id in ids:
                self._readings[_name(edit)] = reading

    def _indexed(self) -> Index:
        if self._index is None:
            assert self.model.router is not None
            self._index = Index(self.relations, self.model.router)
        return self._index

    def akin(self, edits: Sequence[Edit]) -> list[Edit]:
        """Edits that are held, and of the others those that name their subjects; in order."""
        held, some = stored(self._bank.records), {edit.id for edit in edits}
        others = [edit for edit in held if edit.id not in some]
        if others:
            some |= {edit.id for edit in naming(others, self._subjects(edits))}
        return [edit for edit in held if edit.id in some]

    def _subjects(self, edits: Sequence[Edit]) -> set[str]:
        index = self._indexed()
        return {subject for edit in edits if (subject := subject_of(edit, index))}

    def beside(self, edits: Sequence[Edit]) -> Beside:
        """What the memory holds of others than these."""
        some = {edit.id for edit in edits}
        others = [edit for edit in stored(self._bank.records) if edit.id not in some]
        texts = {text for edit in others for text in (edit.prompt, *edit.keys)}
        texts |= {
            key.text
            for key in self._bank.keys
            if key.text is not None and key.edit is not None and key.edit not in some
        }
        names = frozenset(plain_name(edit.subject) for edit in others if edit.subject)
        return Beside(frozenset(texts), names)

    def cases(self, edits: Sequence[Edit], count: int) -> list[Case]:
        """What a check asks of each of these edits, which the memory holds.

        Args:
            edits: The edits.
            count: Texts of each sort; 0 asks the prompts alone.
        """
        base, coded = self.model.base, self.model.router is not None
        chat = bool(base.tokenizer.chat_template)
        keys, misses = self._keys_of(edits), self._misses_of(edits, count) if count else {}
        found = [
            case
            for edit in edits
            for case in cases(
                edit, keys[edit.id], misses.get(edit.id, ()), count,
                formed=coded and self.plain(edit) is not None, chat=chat,
            )
        ]  # fmt: skip
        return [case for case in found if case.sort in (PROMPT, MISS) or fits(base, case)]

    def _keys_of(self, edits: Sequence[Edit]) -> dict[str, list[str]]:
        """Texts of each edit's keys; of codes, those that the memory was given."""
        found = {edit.id: list(edit.keys) for edit in edits}
        if self.model.router is not None:
            for key in self._bank.keys:
                if key.edit in found and key.text is not None:
                    found[key.edit].append(key.text)
        return found

    def _misses_of(self, edits: Sequence[Edit], count: int) -> dict[str, list[str]]:
        """Near misses of each edit, none of which is a prompt or key of another."""
        router = self.model.router
        if router is not None and self.relations:
            some = self.akin(edits)
            asked = asks(some, self.relations, router, self.beside(some))
            return {
                edit.id: [miss.text for miss in one.misses]
                for edit, one in zip(some, asked, strict=True)
            }
        pool, taken = Pool(edits), {text for e in edits for text in (e.prompt, *e.keys)}
        near = {edit.id: pool.of(edit, MISSES * count) for edit in edits}
        return {
            edit: [text for text in (*some.template, *some.subject) if text not in taken]
            for edit, some in near.items()
        }


def _name(edit: Edit) -> tuple[object, ...]:
    """What an edit's phrasings follow from."""
    return edit.prompt, edit.target, edit.subject, edit.keys
