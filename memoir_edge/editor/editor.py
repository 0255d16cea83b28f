"""The editor: MEMOIR edits of one model, recorded in one journal.

`Editor.edit` hashes a prompt to its mask, trains the mask's columns of Wm, and records what came of
it; `Editor.apply` makes many edits and goes on until what the journal amounts to is settled. All
that an editor knows of former edits is what the journal says, so a run that was interrupted and
one that was not are the same loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memoir_edge.answers import Answer, holds, phrase, room
from memoir_edge.editor.batch import Job, OnStep
from memoir_edge.editor.checks import Asked, audit
from memoir_edge.editor.holds import checked
from memoir_edge.editor.jobs import Jobs
from memoir_edge.editor.live import live
from memoir_edge.editor.model import BaseModel, device_of
from memoir_edge.editor.origin import check_settings, nothing
from memoir_edge.editor.prompts import keyed, own_texts, refuse_too_long
from memoir_edge.editor.questions import Questions
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.recall import Edited, check_fit
from memoir_edge.editor.site import find_sites, width
from memoir_edge.editor.thresholds import rules, stands, tabled
from memoir_edge.editor.train import train
from memoir_edge.edits import Edit, from_stored, stored
from memoir_edge.history import (
    Again,
    Calibrated,
    Change,
    Event,
    Journal,
    Made,
    State,
    Together,
    Train,
    begin,
    next_step,
)
from memoir_edge.history.events import MISS, PROMPT, Wrong
from memoir_edge.keys import calibrated
from memoir_edge.memory import Memory
from memoir_edge.relations import Relation
from memoir_edge.router import Router, asks, check_router
from memoir_edge.router.masks import drawn
from memoir_edge.router.reading import Reading
from memoir_edge.settings import Settings
from memoir_edge.tophash import Bytes, Floats
from memoir_edge.views import bare


@dataclass(frozen=True)
class Outcome:
    """One edit, trained and asked."""

    edit: Edit
    loss: float  # nats a target token at the end of its first training
    steps: int
    before: str  # what the base model says
    after: Answer  # what the edited model says
    reading: Reading | None  # what a router takes the prompt to ask

    @property
    def known(self) -> bool:
        """The base model gave the target already."""
        return self.before == self.edit.target

    @property
    def took(self) -> bool:
        """The edit's own prompt reaches it, and the free answer is the target."""
        return holds(self.after, self.edit.target, self.edit.id)


@dataclass
class Watch:
    """Who is told of what an editor does; all silent unless given."""

    begun: Callable[[Sequence[Edit]], OnStep] = lambda edits: lambda step, loss: None
    made: Callable[[int], None] = lambda count: None  # edits that are in the memory now
    again: Callable[[Edit], OnStep] = lambda edit: lambda step, loss: None
    audited: Callable[[int, int], None] = lambda asked, failed: None  # edits


class Editor:
    """Edits one model: begins a memory, or continues an existing one.

    Args:
        base: The frozen model.
        settings: Sites, k, feature, threshold, and how to train.
        memory: A memory of the same model, sites and k to go on from.
        journal: What was done so far, to be gone on with instead; it is told of everything before
            it counts. Where none is given, one is kept in memory.
        unrelated: Prompts to centre the routing feature of an empty memory on; default
            `unrelated_prompts()`.
        router: What prompts are routed by, instead of the first site's activations.
        relations: What a router's keys and guards are made of.

    Raises:
        SiteError: The model has no such site, or several do not go together.
        MismatchError: The memory is of another model, site, k or router.

    Example:
        >>> editor = Editor(base, choose(base))
        >>> outcomes = editor.apply(edits)
        >>> memory = editor.memory()
    """

    def __init__(
        self,
        base: BaseModel,
        settings: Settings,
        memory: Memory | None = None,
        *,
        journal: Journal | None = None,
        unrelated: Sequence[str] | None = None,
        router: Router | None = None,
        relations: Sequence[Relation] = (),
    ) -> None:
        site, *later = find_sites(base.net, settings.sites)
        if journal is None:
            journal = begin(None, memory or nothing(base, settings, unrelated, router), {})
        check_fit(journal.origin, base, width(site))
        check_settings(journal.origin, settings)
        check_router(journal.origin, router)
        self.base = base
        self.settings = settings
        self.device = device_of(site)
        self.router = router
        self.relations = relations
        self.model = Edited(base, site, None, settings.batch, router, later)
        self.prefixes = own_texts(base, settings.prefixes) if settings.prefixes else []
        behind = bool(settings.made_keys and not router)
        self._texts = own_texts(base, 1) if behind else []  # to stand before a prompt
        self._masks: dict[str, Bytes] = {}  # by text
        self.readings = Readings(base, *settings.sites)
        self.questions = Questions(self.model, relations)
        self.go_on_with(journal)

    def go_on_with(self, journal: Journal) -> None:
        """From now on add to this journal, which begins from what the former one began from."""
        self.journal = journal
        self.live = live(journal, self.device)
        self.model.live = self.live
        self.jobs = Jobs(self.model, self.readings, self.questions, self.settings, self.prefixes)
        self._asked: dict[str, Answer] = {}  # by the last audit

    def masks(self, prompts: Sequence[str]) -> list[Bytes]:
        """Packed masks, each `[ceil(D/8)]`; drawn by lot where codes route.

        One forward pass a prompt: a stored mask must not depend on what else was in its batch. It
        does not depend on Wm either, which is added behind the site, so it is formed once.
        """
        hashing = self.live.hashing
        if self.router is not None:
            return [drawn(text, self.live.D, hashing.k) for text in prompts]
        alone = replace(self.model, batch=1)
        new = [text for text in dict.fromkeys(prompts) if text not in self._masks]
        if new:
            masks = hashing.mask(alone.features(new, hashing.feature))
            self._masks |= zip(new, masks, strict=True)
        return [self._masks[text] for text in prompts]

    def tiles(self, masks: Sequence[Bytes]) -> list[int]:
        """The first tile of Wm that each new edit's mask is to read; one unless codes route."""
        width = self.settings.columns_per_edit
        if self.router is None or not width:
            return [0] * len(masks)
        room = max(self.live.sites * self.live.D // width, 1)
        return self.live.bank.tiles_for(masks, room)

    def refuse_too_many(self, edits: Sequence[Edit]) -> None:
        """Raise InputError unless Wm has tiles for all of these edits."""
        if self.router is not None:  # masks are cheap: drawn, not read off the model
            self.tiles(self.masks([edit.prompt for edit in edits]))

    def hashed(self, texts: Sequence[str]) -> Bytes:
        """Packed keys of texts that are asked, not stored; batched by length."""
        unique = sorted(dict.fromkeys(texts), key=lambda text: (len(text), text))
        if not unique:
            return np.zeros((0, -(-self.live.bank.bits // 8)), np.uint8)
        keys = self.model.keys(unique)
        place = {text: i for i, text in enumerate(unique)}
        return keys[[place[text] for text in texts]]

    # --- One edit --------------------------------------------------------------------------------

    def edit(
        self, edits: Sequence[Edit], on_step: OnStep = lambda step, loss: None
    ) -> list[Change]:
        """Make edits, trained together: hash, train, record.

        Args:
            edits: The edits, most often one.
            on_step: Told of every measured loss.

        Returns:
            What training did for each of them.

        Raises:
            InputError: Training diverged; the memory is as it was.
        """
        masks = self.masks([edit.prompt for edit in edits])
        tiles = self.tiles(masks)
        self.live.widen(self.live.sites + max(tiles))
        jobs = [
            self.jobs.new(edit, self.live.columns(mask, tile))
            for edit, mask, tile in zip(edits, masks, tiles, strict=True)
        ]
        changes = self._train(jobs, on_step)
        made = [self._made(*one) for one in zip(edits, masks, tiles, changes, strict=True)]
        before = len(self.live.bank.records)
        self._record(Together(tuple(made)))
        for edit, new in zip(edits, made, strict=True):
            self.live.change(new.primary, new.change, new.tile)
            self.jobs.take_in(edit)
        if len(self.live.bank.records) < before + len(made):  # a former edit was taken over
            self.jobs.gather_anew()
        return changes

    def again(self, edit: Edit, on_step: OnStep = lambda step, loss: None) -> Change:
        """Train an edit that the memory holds once more, from where Wm is now."""
        bank = self.live.bank
        job = self.jobs.again(edit, self._wrong(edit))
        [change] = self._train([job], on_step)
        self._record(Again(edit.id, change))
        self.live.change(bank.recalled()[edit.id], change, bank.tile.get(edit.id, 0))
        return change

    def _train(self, jobs: Sequence[Job], on_step: OnStep) -> list[Change]:
        return train(self.readings, self.live.Wm, jobs, self.settings, on_step)

    def keys(self, texts: Sequence[str]) -> list[Bytes]:
        """What texts are routed by, to be stored: codes `[ceil(P/8)]`, or masks `[ceil(D/8)]`."""
        if self.router is None:
            return self.masks(texts)
        return list(self.router.codes([bare(text) for text in texts]))

    def _made(self, edit: Edit, primary: Bytes, tile: int, change: Change) -> Made:
        own, *rest = self.keys([edit.prompt, *edit.keys, *edit.guards])
        others, guards = rest[: len(edit.keys)], rest[len(edit.keys) :]
        threshold = edit.threshold if edit.threshold is not None else self.settings.threshold
        code = None if self.router is None else own
        return Made(edit.id, edit.record(), primary, others, guards, threshold, change, code, tile)

    def _record(self, event: Event) -> State:
        """Tell the journal; what it then amounts to, the keys of the live memory included."""
        self.journal.record(event)
        return self.journal.state()

    def _wrong(self, edit: Edit) -> list[Wrong]:
        """What the last check found to reach an edit and not to give its target."""
        found = self.journal.state().audit
        told = found.wrong if found else []
        return [one for one in told if one.edit == one.fired == edit.id and one.sort != MISS]

    # --- The whole job ---------------------------------------------------------------------------

    @property
    def edits(self) -> list[Edit]:
        """The edits that the memory holds, but those whose record is withheld or unusable."""
        return stored(self.live.bank.records)

    def apply(
        self, edits: Sequence[Edit], watch: Watch | None = None, *, anew: bool = False
    ) -> list[Outcome]:
        """Make the edits in order, and see to it that every edit of the memory holds.

        Nothing is trained before every edit is known to fit the context and the memory. After the
        last one comes whatever the journal then asks for, whoever began it: a threshold for each
        key, further passes, checks of every edit, and repairs.

        Args:
            edits: The edits; none may be in the memory already.
            watch: Who is told.
            anew: Measure thresholds of all edits and ask all of them, however few are new.

        Raises:
            InputError: An edit does not fit the context, or the memory has no room for all.
        """
        watch = watch or Watch()
        for edit in edits:
            refuse_too_long(self.base, edit)
        self.refuse_too_many(edits)
        edits = self.keyed(edits)
        before = self.answers(edits, memory=False)
        edits = self.formerly(edits, before)
        self.questions.read(edits)
        trained: list[Change] = []
        size = self.settings.batch_edits
        for group in (edits[i : i + size] for i in range(0, len(edits), size)):
            trained += self.edit(group, watch.begun(group))
            watch.made(len(group))
        if anew or not self.journal.state().calibrated:
            self.calibrate(anew=anew)  # before the check, which asks what the keys promise
        if anew and self.journal.state().broken is not None:  # nothing has changed
            self.settle(watch, every=True)
        else:
            self._finish(watch)
        after = self._answered(edits)
        return [
            Outcome(
                edit, done.loss, done.steps, old.text, after[edit.id], self.questions.reading(edit)
            )
            for edit, done, old in zip(edits, trained, before, strict=True)
        ]

    def settle(self, watch: Watch | None = None, *, every: bool = False) -> State:
        """Ask for every edit that may have changed, or for all; train those again that are broken.

        And ask again, until all hold or the rounds of repairs are through.
        """
        watch = watch or Watch()
        self._ask(watch, every=every)
        return self._finish(watch)

    def _finish(self, watch: Watch) -> State:
        state = self.journal.state()
        while step := next_step(state, self.settings):
            if isinstance(step, Train):
                edit = replace(from_stored(state.bank.records[step.edit]), id=step.edit)
                self.again(edit, watch.again(edit))
            else:
                self._ask(watch)
        return state

    def _ask(self, watch: Watch, *, every: bool = False) -> None:
        edits, state = self.edits, self.journal.state()
        changed = set(state.unasked)
        some = [edit for edit in edits if every or edit.id in changed]
        asked = self.check(some)
        self._asked |= {
            one.case.edit.id: Answer(one.answer, one.fired)
            for one in asked
            if one.case.sort == PROMPT
        }
        found = audit(edits, asked, self.settings.false_fires, state.last_audit)
        self._record(found)
        watch.audited(len(some), len(found.failed))

    def check(self, edits: Sequence[Edit]) -> list[Asked]:
        """Ask edits of the memory whatever a check asks; nothing is recorded."""
        cases = self.questions.cases(edits, self.settings.asked)
        return checked(self.model, cases, self.readings, self.jobs.rows)

    def _answered(self, edits: Sequence[Edit]) -> dict[str, Answer]:
        """The last audit's answers; those that a later edit of their prompt replaced are asked."""
        gone = [edit for edit in edits if edit.id not in self._asked]
        answers = self.answers(gone, memory=True)
        return self._asked | dict(zip((edit.id for edit in gone), answers, strict=True))

    def calibrate(self, *, anew: bool = True) -> Floats | None:
        """Give each key the threshold that its near misses ask for.

        Where a router's codes are the keys, keys and guards are made anew first, but for the codes
        of texts that the memory holds. Where the settings' bound is 0, or too few records name
        their subject to make near misses from, or an edit brought its own threshold, thresholds
        stay as they are.

        Args:
            anew: Of every edit. Else, where a router's codes are the keys and the new edits are few
                beside those that thresholds were measured with: of these, and of those that name
                their subjects, by what was measured.

        Returns:
            The thresholds that were set, `[R]`, if any were.
        """
        bank, bound = self.live.bank, self.settings.false_fires
        if self.router is not None and self.edits:
            return self._tabulated(self.router, anew=anew)
        if not bound or not bank.keys:
            return None
        found = calibrated(bank, self.edits, self.hashed, bound)
        if found is not None:
            self._record(Calibrated(found))
        return found

    def _tabulated(self, router: Router, *, anew: bool) -> Floats:
        state, edits = self.journal.state(), self.edits
        by, beside, measured = rules(self.settings, self.relations), None, None
        if not anew and state.unkeyed and stands(state.measured, state.since, by):
            edits = self.questions.akin([edit for edit in edits if edit.id in state.unkeyed])
            beside, measured = self.questions.beside(edits), state.measured
        known = {key.text: key.mask for key in self.live.bank.keys if key.text is not None}
        asked = asks(edits, self.relations, router, beside)
        table = tabled(edits, asked, router, self.settings, known, by, measured)
        self._record(table)
        return table.thresholds

    def keyed(self, edits: Sequence[Edit]) -> list[Edit]:
        """Edits with the further keys that the settings ask the tool to make of activations."""
        most = self.settings.made_keys if self.router is None else 0
        held = [edit.prompt for edit in self.edits]
        return keyed(self.base, edits, held, self._texts, most)

    def formerly(self, edits: Sequence[Edit], before: Sequence[Answer]) -> list[Edit]:
        """The same edits, saying what was answered before, of which a router makes guards.

        Args:
            edits: The edits.
            before: What the base model says; taken where a record does not say it, if it is short.
        """
        if self.router is None:
            return list(edits)
        return [
            edit if edit.ground_truth else replace(edit, ground_truth=phrase(said.text))
            for edit, said in zip(edits, before, strict=True)
        ]

    def answers(self, edits: Sequence[Edit], *, memory: bool) -> list[Answer]:
        """Free answers to the edits' prompts, stripped, with room to run past the target."""
        most = room(self.base.encode_bare, [edit.target for edit in edits])
        asked = self.model.answer([edit.prompt for edit in edits], most, memory=memory)
        return [answer._replace(text=answer.text.strip()) for answer in asked]

    def memory(self) -> Memory:
        """What has been edited so far, as an artifact."""
        return self.journal.compile()
