"""The editor: MEMOIR edits of one model into one memory.

The call tree is the method: `Editor.edit` hashes the prompt to its mask, trains the mask's columns
of Wm, and takes the keys into the bank; `Editor.settle` asks for every edit of the memory and
trains again those that later ones have worn down; `Editor.answers` asks the edited model.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memoir_edge import __version__, tophash
from memoir_edge.answers import Answer
from memoir_edge.calibrate import UNKNOWN, Keys, Misses, thresholds
from memoir_edge.editor.config import Settings
from memoir_edge.editor.layer import find_site, input_of, width
from memoir_edge.editor.live import Hashing, LiveMemory, empty, thaw
from memoir_edge.editor.model import BaseModel, collate, device_of
from memoir_edge.editor.recall import Edited, check_fit
from memoir_edge.editor.spare import Reads
from memoir_edge.editor.train import Job, OnStep, own_texts, rows, train
from memoir_edge.editor.ways import ways
from memoir_edge.edits import Edit, from_record
from memoir_edge.errors import InputError, MismatchError
from memoir_edge.journal import Audit, Change, Journal, Made, State, begin, load, path_of
from memoir_edge.memory import Base, Memory, Probe
from memoir_edge.nearmiss import misses as near_misses
from memoir_edge.nearmiss import subjects
from memoir_edge.tophash import GUARD, SCALED

# Tokens that a check lets the model say beyond the target, to see whether it stops.
SLACK = 4
MAX_PROBES = 16


@dataclass(frozen=True)
class Outcome:
    """One edit, trained and asked."""

    edit: Edit
    loss: float  # nats a target token at the end of its first training
    steps: int
    before: str  # what the base model says
    after: Answer  # what the edited model says

    @property
    def known(self) -> bool:
        """The base model gave the target already."""
        return self.before == self.edit.target

    @property
    def took(self) -> bool:
        """The edit's own prompt reaches it, and the free answer is the target."""
        return took(self.edit, self.after)


def took(edit: Edit, answer: Answer) -> bool:
    """Whether a free answer to an edit's own prompt is its target, and given by that edit."""
    return answer.text == edit.target and answer.edit == edit.id


@dataclass
class Watch:
    """Who is told of what an editor does; all silent unless given."""

    begun: Callable[[Sequence[Edit]], OnStep] = lambda edits: lambda step, loss: None
    made: Callable[[int], None] = lambda count: None  # edits that are in the memory now
    again: Callable[[Edit], OnStep] = lambda edit: lambda step, loss: None
    audited: Callable[[int, int], None] = lambda checked, failed: None


def unrelated_prompts() -> list[str]:
    """About a hundred everyday prompts that the routing feature is centred on."""
    text = resources.files("memoir_edge.editor").joinpath("unrelated.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line]


class Editor:
    """Edits one model, from an empty memory or on from a given one.

    Args:
        base: The frozen model.
        settings: Site, k, feature, threshold, and how to train.
        memory: A memory of the same model, site and k to go on from.
        journal: Told of everything before it counts; the memory must be what it compiles to.
        unrelated: Prompts to centre the routing feature on; default `unrelated_prompts()`.

    Raises:
        SiteError: The model has no such site.
        MismatchError: The memory is of another model, site or k.
    """

    def __init__(
        self,
        base: BaseModel,
        settings: Settings,
        memory: Memory | None = None,
        *,
        journal: Journal | None = None,
        unrelated: Sequence[str] | None = None,
    ) -> None:
        site = find_site(base.net, settings.site)
        self.base = base
        self.settings = settings
        self.journal = journal
        self.device = device_of(site)
        self.model = Edited(base, site, None, settings.batch)
        if memory is not None:
            check_fit(memory, base, width(site))
            check_settings(memory, settings)
            self.live = thaw(memory, self.device)
        else:
            self.live = self._empty(unrelated or unrelated_prompts())
        self.model.live = self.live
        self.prefixes = own_texts(base, settings.prefixes) if settings.prefixes else []
        self._texts = own_texts(base, 1) if settings.made_keys else []  # to stand before a prompt
        self.audit: Audit | None = None  # the last one
        self._former = memory
        self._reads: Reads | None = None  # of the edits held; None: to be gathered
        self._asked: dict[str, Answer] = {}  # by the last audit
        self._masks: dict[str, tophash.Bytes] = {}  # by text

    def _empty(self, unrelated: Sequence[str]) -> LiveMemory:
        D, d = width(self.model.site)
        random = np.random.default_rng(self.settings.seed)
        f = self.model.features(unrelated, self.settings.feature)
        hashing = Hashing(
            k=self.settings.k,
            feature=self.settings.feature,
            center=f.mean(axis=0),
            scale=tophash.scale(f) if self.settings.feature in SCALED else np.ones(D, np.float32),
            permutation=random.permutation(D).astype(np.int32),
        )
        return empty(hashing, d, self.device)

    def masks(self, prompts: Sequence[str]) -> list[tophash.Bytes]:
        """Packed masks, each `[ceil(D/8)]`.

        One forward pass a prompt: a stored mask must not depend on what else was in its batch. It
        does not depend on Wm either (MEMOIR section 2), so it is formed once.
        """
        hashing = self.live.hashing
        alone = replace(self.model, batch=1)
        new = [text for text in dict.fromkeys(prompts) if text not in self._masks]
        if new:
            masks = hashing.mask(alone.features(new, hashing.feature))
            self._masks |= zip(new, masks, strict=True)
        return [self._masks[text] for text in prompts]

    # --- Making edits ----------------------------------------------------------------------------

    def edit(
        self, edits: Sequence[Edit], on_step: OnStep = lambda step, loss: None
    ) -> list[Change]:
        """Make edits, trained together: hash, train, remember.

        Args:
            edits: The edits, most often one.
            on_step: Told of every measured loss.

        Returns:
            What training did for each of them.

        Raises:
            InputError: Training diverged; the memory is as it was.
        """
        made = []
        masks = [self.masks([e.prompt, *e.keys, *e.guards]) for e in edits]
        jobs = [self._job(edit, own[0], held=False) for edit, own in zip(edits, masks, strict=True)]
        changes = train(self.base, self.model.site, self.live.Wm, jobs, self.settings, on_step)
        for edit, own, change in zip(edits, masks, changes, strict=True):
            n = 1 + len(edit.keys)
            threshold = edit.threshold if edit.threshold is not None else self.settings.threshold
            made.append(Made(edit.id, edit.record(), own[0], own[1:n], own[n:], threshold, change))
        if self.journal:
            self.journal.made(made)
        for edit, new in zip(edits, made, strict=True):
            self.live.change(new.primary, new.change)
            former = self.live.bank.add(
                new.id, new.record, new.primary, new.others, new.guards, new.threshold
            )
            if former is not None:
                self._reads = None
            elif self._reads is not None:
                self._take_in(self._reads, edit, new.primary)
        return changes

    def again(self, edit: Edit, on_step: OnStep = lambda step, loss: None) -> Change:
        """Train an edit that the memory holds once more, from where Wm is now."""
        primary = self._primary(edit)
        job = self._job(edit, primary, held=True)
        [change] = train(self.base, self.model.site, self.live.Wm, [job], self.settings, on_step)
        if self.journal:
            self.journal.again(edit.id, change)
        self.live.change(primary, change)
        return change

    def _job(self, edit: Edit, primary: tophash.Bytes, *, held: bool) -> Job:
        columns = self.live.columns(primary)
        made = rows(self.base, edit.prompt, edit.target, self.prefixes, eos=self.settings.eos)
        if not self.settings.spare:
            return Job(columns, made)
        own = self._read(edit, columns) if held else None
        return Job(columns, made, self._gathered().avoided(columns, own, self.settings.spare))

    def _primary(self, edit: Edit) -> tophash.Bytes:
        return self.live.bank.keys[self.live.bank.rows()[edit.id]].mask

    def _gathered(self) -> Reads:
        if self._reads is None:
            D = self.live.Wm.shape[1]
            self._reads = Reads(torch.zeros(D, D, device=self.device))
            for edit in self.edits:
                self._take_in(self._reads, edit, self._primary(edit))
        return self._reads

    def _take_in(self, reads: Reads, edit: Edit, primary: tophash.Bytes) -> None:
        columns = self.live.columns(primary)
        reads.add(self._read(edit, columns), columns)

    def _read(self, edit: Edit, columns: Tensor) -> Tensor:
        """What the site reads where the edit's target tokens are predicted: `[tokens, k]`."""
        [row] = rows(self.base, edit.prompt, edit.target, [], eos=self.settings.eos)
        batch = collate(self.base, [[*row.prompt, *row.target]], side="right")
        a = input_of(self.base.net, self.model.site, batch).reshape(-1, self.live.Wm.shape[1])
        return a[len(row.prompt) - 1 : -1, columns].float()

    # --- The whole job ---------------------------------------------------------------------------

    @property
    def edits(self) -> list[Edit]:
        """The edits that the memory holds, but those whose record is withheld or unusable."""
        found: list[Edit] = []
        for id, record in self.live.bank.records.items():
            with suppress(ValueError):
                found.append(replace(from_record(record), id=id))
        return found

    def apply(
        self, edits: Sequence[Edit], watch: Watch | None = None, begun: State | None = None
    ) -> list[Outcome]:
        """Make the edits in order, and see to it that every edit of the memory holds.

        Nothing is trained before every edit is known to fit the context. After the last one, each
        is trained once more from where Wm is by then (one that still holds costs a forward pass);
        then every edit of the memory is asked for, the broken ones are trained again, and each key
        gets its threshold.

        Args:
            edits: The edits; none may be in the memory already.
            watch: Who is told.
            begun: What the journal of an interrupted run amounts to, to be gone on with.

        Raises:
            InputError: An edit does not fit the context.
        """
        watch = watch or Watch()
        for edit in edits:
            self.refuse_too_long(edit)
        edits = self.keyed(edits)
        before = self.answers(edits, memory=False)
        trained: list[Change] = []
        size = self.settings.batch_edits
        for group in (edits[i : i + size] for i in range(0, len(edits), size)):
            trained += self.edit(group, watch.begun(group))
            watch.made(len(group))
        state = begun or State(self.live.bank)
        asked = not edits and state.broken is not None
        if not asked:
            self._pass(
                [*state.fresh, *(edit.id for edit in edits)],
                Counter() if edits else state.passes,
                watch,
            )
        if edits or not state.settled(self.settings.repairs):
            broken, audits = (state.broken, state.audits) if asked else (None, 0)
            self.settle(watch, broken=broken, audits=audits)
        if edits or not state.calibrated:
            self.calibrate()
        # A later edit of the same prompt may have taken an earlier one's place.
        gone = [edit for edit in edits if edit.id not in self._asked]
        after = self._asked | dict(
            zip((edit.id for edit in gone), self.answers(gone, memory=True), strict=True)
        )
        return [
            Outcome(edit, done.loss, done.steps, old.text, after[edit.id])
            for edit, done, old in zip(edits, trained, before, strict=True)
        ]

    def keyed(self, edits: Sequence[Edit]) -> list[Edit]:
        """Edits with the further keys that the settings ask the tool to make (ways.py).

        No edit's own prompt is made another's key.
        """
        if not self.settings.made_keys:
            return list(edits)
        asked = {edit.prompt for edit in (*self.edits, *edits)}
        found = []
        for edit in edits:
            known = asked | set(edit.keys) | set(edit.guards)
            made = [text for text in ways(self.base, edit.prompt, self._texts) if text not in known]
            found.append(replace(edit, keys=(*edit.keys, *made[: self.settings.made_keys])))
        return found

    def _pass(self, ids: Sequence[str], done: Counter[str], watch: Watch) -> None:
        """Train edits again, in order, as often as the settings say; `done` times already."""
        by_id = {edit.id: edit for edit in self.edits}
        for number in range(1, self.settings.passes):
            for edit in (by_id[id] for id in ids if id in by_id and done[id] < number):
                self.again(edit, watch.again(edit))

    def settle(
        self, watch: Watch | None = None, *, broken: Sequence[str] | None = None, audits: int = 0
    ) -> Audit:
        """Ask for every edit, train the broken ones again, and ask again, until all hold.

        Args:
            watch: Who is told.
            broken: Edits that an interrupted run found broken and had not trained again yet.
            audits: How many audits that run has made since the last edit was made.
        """
        watch = watch or Watch()
        by_id = {edit.id: edit for edit in self.edits}
        while True:
            for edit in (by_id[id] for id in broken or ()):
                self.again(edit, watch.again(edit))
            self.audit = self._audit(list(by_id.values()))
            if self.journal:
                self.journal.audited(self.audit)
            watch.audited(self.audit.checked, len(self.audit.failed))
            broken, audits = self.audit.failed, audits + 1
            if not broken or audits > self.settings.repairs:
                return self.audit

    def _audit(self, edits: Sequence[Edit]) -> Audit:
        answers = self.answers(edits, memory=True)
        self._asked = {edit.id: answer for edit, answer in zip(edits, answers, strict=True)}
        good = [edit for edit in edits if took(edit, self._asked[edit.id])]
        held = {edit.id for edit in good}
        return Audit(
            checked=len(edits),
            failed=[edit.id for edit in edits if edit.id not in held],
            probes=[Probe(edit.prompt, edit.target, edit.id) for edit in good[:MAX_PROBES]],
        )

    def calibrate(self) -> tophash.Floats | None:
        """Give each key the threshold that its near misses ask for (memoir_edge.calibrate).

        Where the settings' bound is 0, or too few records name their subject to make near misses
        from, or an edit brought its own threshold, all stays as it is.

        Returns:
            The thresholds `[R]`, if any were set.
        """
        bank = self.live.bank
        if not self.settings.false_fires or not bank.keys:
            return None
        edits = self.edits
        place = {edit.id: i for i, edit in enumerate(edits)}
        owner = [GUARD if k.edit is None else place.get(k.edit, UNKNOWN) for k in bank.keys]
        of = subjects(edits)
        about = [of[i] if i >= 0 else UNKNOWN for i in owner]
        keys = Keys(bank.packed(), np.array(owner), np.array(about))
        near = near_misses(edits)
        met = Misses(
            self._hashed([miss.text for miss in near]),
            np.array([miss.edit for miss in near]),
            np.array([miss.subject for miss in near]),
        )
        strays = self._hashed(unrelated_prompts())
        found = thresholds(keys, bank.k, met, strays, self.settings.false_fires)
        if found is None:
            return None
        own = {edit.id: edit.threshold for edit in edits if edit.threshold is not None}
        for row, key in enumerate(bank.keys):
            if key.edit in own:
                found[row] = own[key.edit]
        if self.journal:
            self.journal.calibrated(found)
        bank.calibrate(found)
        return found

    def _hashed(self, texts: Sequence[str]) -> tophash.Bytes:
        """Packed masks of texts that are asked, not stored; batched by length."""
        unique = sorted(dict.fromkeys(texts), key=lambda text: (len(text), text))
        if not unique:
            return np.zeros((0, -(-self.live.bank.D // 8)), np.uint8)
        hashing = self.live.hashing
        masks = hashing.mask(self.model.features(unique, hashing.feature))
        place = {text: i for i, text in enumerate(unique)}
        return masks[[place[text] for text in texts]]

    def refuse_too_long(self, edit: Edit) -> None:
        """Raise InputError unless an edit fits the model's context."""
        if (length := self.length(edit)) > self.base.context:
            raise InputError(
                f"edit {edit.id}: {length} tokens, the model's context is {self.base.context}",
                hint="shorten it, or leave it out",
            )

    def length(self, edit: Edit) -> int:
        """Tokens of the longest text that an edit makes the model read, its end included."""
        texts = (f"{edit.prompt} {edit.target}", *edit.keys, *edit.guards)
        return max(len(self.base.encode(text)) for text in texts) + 1

    def answers(self, edits: Sequence[Edit], *, memory: bool) -> list[Answer]:
        """Free answers to the edits' prompts, stripped, with room to run past the target."""
        room = max((len(self.base.encode_bare(f" {e.target}")) for e in edits), default=0) + SLACK
        asked = self.model.answer([edit.prompt for edit in edits], room, memory=memory)
        return [answer._replace(text=answer.text.strip()) for answer in asked]

    def memory(self, **rest: Any) -> Memory:
        """What has been edited so far, as an artifact."""
        if self.audit:
            probes: Sequence[Probe] = self.audit.probes
            evaluation = self.audit.evaluation
        else:
            probes = self._former.probes if self._former else ()
            evaluation = self._former.evaluation if self._former else {}
        ids = self.live.bank.records
        document = {
            "tool": f"memoir-edge {__version__}",
            "parent": self._former.digest if self._former else None,
            "probes": tuple(p for p in probes if p.edit is None or p.edit in ids),
            "evaluation": evaluation,
        }
        return self.live.freeze(
            site=self.settings.site,
            base=Base(self.base.id, self.base.digest),
            **document | rest,
        )


def check_settings(memory: Memory, settings: Settings) -> None:
    """Raise MismatchError unless a memory can be gone on from with these settings."""
    for name in ("site", "k", "feature"):
        has, wants = getattr(memory, name), getattr(settings, name)
        if has != wants:
            raise MismatchError(
                f"the memory's {name} is {has}, asked for is {wants}",
                hint=f"leave --{name} out to go on with the memory's, or write to a new file",
            )


@contextmanager
def journaled(
    base: BaseModel, settings: Settings, memory: Path
) -> Iterator[tuple[Editor, Journal]]:
    """An editor and the journal beside a memory file, begun or gone on with.

    `editor.apply(edits, watch, journal.state())` makes what the journal does not hold yet.

    Raises:
        JournalError: The journal is damaged.
        MismatchError: It is of another model, site or k.
    """
    path = path_of(memory)
    held = load(path, write=True)
    with ExitStack() as opened:
        if held:
            opened.enter_context(held)
        editor = Editor(base, settings, held.compile() if held else None)
        journal = held or opened.enter_context(begin(path, editor.memory(), {}))
        editor.journal = journal
        yield editor, journal
