"""The editor: sequential MEMOIR edits of one model into one memory.

The call tree is the method: `Editor.edit` hashes the prompt to its mask, trains the mask's columns
of Wm, and takes the keys into the bank; `Editor.answers` asks the edited model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import numpy as np
import torch

from memoir_edge import __version__, tophash
from memoir_edge.answers import Answer
from memoir_edge.editor.answers import Edited, check_fit
from memoir_edge.editor.config import Settings
from memoir_edge.editor.layer import find_site, width
from memoir_edge.editor.live import Hashing, LiveMemory, thaw
from memoir_edge.editor.model import BaseModel
from memoir_edge.editor.train import OnStep, Trained, own_texts, rows, train
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError, MismatchError
from memoir_edge.memory import Base, Memory, Probe

# Tokens that a check lets the model say beyond the target, to see whether it stops.
SLACK = 4


@dataclass(frozen=True)
class Outcome:
    """One edit, trained and asked."""

    edit: Edit
    loss: float  # nats a target token at the end of training
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
        return self.after.text == self.edit.target and self.after.edit == self.edit.id


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
        unrelated: Sequence[str] | None = None,
    ) -> None:
        site = find_site(base.net, settings.site)
        self.base = base
        self.settings = settings
        self.model = Edited(base, site, None, settings.batch)
        if memory is not None:
            check_fit(memory, base, width(site))
            check_settings(memory, settings)
            self.live = thaw(memory, next(site.parameters()).device)
        else:
            self.live = self._empty(unrelated or unrelated_prompts())
        self.model.live = self.live
        self.parent = memory.digest if memory is not None else None
        self._probes = memory.probes if memory is not None else ()
        self.prefixes = own_texts(base, settings.prefixes) if settings.prefixes else []

    def _empty(self, unrelated: Sequence[str]) -> LiveMemory:
        D, d = width(self.model.site)
        random = np.random.default_rng(self.settings.seed)
        hashing = Hashing(
            k=self.settings.k,
            feature=self.settings.feature,
            center=self.model.features(unrelated, self.settings.feature).mean(axis=0),
            scale=np.ones(D, np.float32),
            permutation=random.permutation(D).astype(np.int32),
        )
        device = next(self.model.site.parameters()).device
        return LiveMemory(torch.zeros(d, D, device=device), hashing)

    def masks(self, prompts: Sequence[str]) -> list[tophash.Bytes]:
        """Packed masks, each `[ceil(D/8)]`.

        One forward pass a prompt: a stored mask must not depend on what else was in its batch.
        """
        hashing = self.live.hashing
        alone = replace(self.model, batch=1)
        return list(hashing.mask(alone.features(prompts, hashing.feature))) if prompts else []

    def edit(self, edit: Edit, on_step: OnStep = lambda step, loss: None) -> Trained:
        """Make one edit: hash, train, remember."""
        made = rows(self.base, edit.prompt, edit.target, self.prefixes, eos=self.settings.eos)
        primary, *others = self.masks([edit.prompt, *edit.keys, *edit.guards])
        columns = self.live.columns(primary)
        trained = train(
            self.base, self.model.site, self.live.Wm, columns, made, self.settings, on_step
        )
        n = len(edit.keys)
        threshold = edit.threshold if edit.threshold is not None else self.settings.threshold
        self.live.add(edit, primary, others[:n], others[n:], threshold)
        return trained

    def apply(
        self,
        edits: Sequence[Edit],
        on_edit: Callable[[Edit], OnStep] = lambda edit: lambda step, loss: None,
        after_edit: Callable[[], None] = lambda: None,
    ) -> list[Outcome]:
        """Make the edits in order, then ask for each of them.

        Nothing is trained before every edit is known to fit the context.

        Args:
            edits: The edits; none may be in the memory already.
            on_edit: Told of each edit that begins; gives the function that is told of its steps.
            after_edit: Called when an edit is in the memory.

        Raises:
            InputError: An edit does not fit the context.
        """
        for edit in edits:
            self._refuse_too_long(edit)
        before = self.answers(edits, memory=False)
        trained = []
        for edit in edits:
            trained.append(self.edit(edit, on_edit(edit)))
            after_edit()
        after = self.answers(edits, memory=True)
        return [
            Outcome(edit, done.loss, done.steps, old.text, new)
            for edit, done, old, new in zip(edits, trained, before, after, strict=True)
        ]

    def _refuse_too_long(self, edit: Edit) -> None:
        for text in (f"{edit.prompt} {edit.target}", *edit.keys, *edit.guards):
            length = len(self.base.encode(text)) + 1  # the end-of-text token
            if length > self.base.context:
                raise InputError(
                    f"edit {edit.id}: {length} tokens, the model's context is {self.base.context}",
                    hint="shorten it, or leave it out",
                )

    def answers(self, edits: Sequence[Edit], *, memory: bool) -> list[Answer]:
        """Free answers to the edits' prompts, stripped, with room to run past the target."""
        room = max((len(self.base.encode_bare(f" {e.target}")) for e in edits), default=0) + SLACK
        asked = self.model.answer([edit.prompt for edit in edits], room, memory=memory)
        return [answer._replace(text=answer.text.strip()) for answer in asked]

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The former memory's probes, but those of edits that have been taken over since."""
        return tuple(p for p in self._probes if p.edit is None or p.edit in self.live.ids)

    def memory(self, **rest: Any) -> Memory:
        """What has been edited so far, as an artifact."""
        return self.live.freeze(
            site=self.settings.site,
            base=Base(self.base.id, self.base.digest),
            tool=f"memoir-edge {__version__}",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            parent=self.parent,
            **{"probes": self.probes} | rest,
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
