"""An edit that is tried: trained into what is kept, asked, and kept or thrown away.

Knows nothing of HTTP.

    studio = Studio(editor, files)
    studio.look(edit)                      what is doubtful, and what would be made of it
    studio.train(edit, on_step)            from here on `ask` answers with it
    studio.ask("The capital of France is", chat=False)
    studio.keep(edit.id)                   or studio.drop(edit.id)
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from memoir_edge.editor import Editor, Foreseen, Outcome, Watch, foresee, look_at, unmeasured
from memoir_edge.editor.prompts import chat as chat_of
from memoir_edge.editor.prompts import refuse_endless, refuse_too_long, refuse_unsaid
from memoir_edge.edits import Edit, stored
from memoir_edge.errors import InputError
from memoir_edge.history import Audit, Journal
from memoir_edge.history.bank import Key
from memoir_edge.lint import Finding
from memoir_edge.memory import Memory
from memoir_edge.studio.files import Files

TOKENS = 32  # of an answer
Told = Callable[[str, int, float], None]  # what is done, its step, its loss


@dataclass(frozen=True)
class Trial:
    """An edit that was trained and is not kept yet."""

    edit: Edit
    outcome: Outcome
    audit: Audit  # of all edits that would be held
    seconds: float


@dataclass(frozen=True)
class Asked:
    """What the base model and the edited one make of a prompt."""

    base: str
    edited: str
    edit: str | None  # id of the edit that fired
    overlap: float
    key: Key | None  # the nearest; None where no edit is held


class Studio:
    """One model with what is kept, and at most one trial; safe to use from several threads.

    Args:
        editor: The editor of what is kept.
        files: Where it is kept.
    """

    def __init__(self, editor: Editor, files: Files) -> None:
        self.editor, self.files = editor, files
        self.trial: Trial | None = None
        self.held: list[Edit] = []  # the edits that are kept
        self._first = editor.journal
        self._alone = threading.Lock()
        self._closing = threading.Event()
        self._go_on()

    @property
    def _kept(self) -> Journal:
        return self.files.journal or self._first

    def _go_on(self) -> None:
        """Without a trial, from what is kept."""
        self.trial = None
        self.held = stored(self._kept.state().bank.records)
        self.editor.go_on_with(self._kept.copied())

    def look(self, edit: Edit) -> tuple[list[Finding], list[str], Foreseen]:
        """What is doubtful about an edit beside those that are kept, and what would be made of it.

        Raises:
            InputError: The edit is kept already or too long, or no answer can show its target.
        """
        with self._alone:
            now = self.editor.journal
            self.editor.go_on_with(self._kept)
            try:
                self._check(edit)
                found = look_at(self.editor, [edit]), unmeasured(self.editor, [edit])
                return *found, foresee(self.editor, edit)
            finally:
                self.editor.go_on_with(now)

    def _check(self, edit: Edit) -> None:
        if edit.id in self._kept.state().bank.records:
            raise InputError("this edit is kept already")
        if self.editor.settings.eos:
            refuse_endless(self.editor.base)
        refuse_too_long(self.editor.base, edit)
        refuse_unsaid(self.editor.base, edit)

    def train(self, edit: Edit, told: Told = lambda what, step, loss: None) -> Trial:
        """Train an edit into what is kept; a trial before it is thrown away.

        Raises:
            InputError: The edit is kept already or does not fit, its training diverged, or the
                studio is closed meanwhile.
        """
        with self._alone:
            self._check(edit)
            self._go_on()
            start = time.monotonic()
            try:
                [outcome] = self.editor.apply([edit], self._watch(told))
            except BaseException:
                self._go_on()
                raise
            audit = self.editor.journal.state().audit
            assert audit is not None  # what a run ends with
            self.trial = Trial(edit, outcome, audit, time.monotonic() - start)
            return self.trial

    def ask(self, prompt: str, *, chat: bool) -> Asked:
        """What the base model answers, and what the one with the trial and all that is kept.

        Args:
            prompt: What is asked.
            chat: Whether a user says it in a chat.

        Raises:
            InputError: It does not fit the model's context, or the model knows no chats.
        """
        with self._alone:
            model = self.editor.model
            text = self._text(prompt, chat)
            routes = model.routes([text], [(prompt.strip() or text) if chat else prompt])
            [old] = model.answer([text], TOKENS, memory=False)
            [edit], [best], [overlap] = model.fired(routes), routes.candidate, routes.overlap
            [new] = (
                [old] if edit is None else model.answer([text], TOKENS, memory=True, routes=routes)
            )
            key = self.editor.live.bank.keys[best] if best >= 0 else None
            return Asked(old.text.strip(), new.text.strip(), edit, float(overlap), key)

    def _text(self, prompt: str, chat: bool) -> str:
        base = self.editor.base
        if chat and not base.tokenizer.chat_template:
            raise InputError(f"{base.id} has no chat template", hint="ask without a chat")
        text = chat_of(base, prompt) if chat else prompt
        if (found := len(base.encode(text))) >= base.context:
            raise InputError(f"the prompt is {found} tokens, the model's context is {base.context}")
        return text

    def keep(self, id: str) -> Memory:
        """Write the edit of the trial, which is that of an id, into the files.

        Raises:
            InputError: There is no such trial, or a file cannot be written.
        """
        with self._alone:
            made = self.files.keep(self._tried(id).edit, self.editor.journal)
            self._go_on()
            return made

    def drop(self, id: str) -> None:
        """Throw the trial, which is that of an id, away; nothing was written.

        Raises:
            InputError: There is no such trial.
        """
        with self._alone:
            self._tried(id)
            self._go_on()

    def _tried(self, id: str) -> Trial:
        if self.trial is None or self.trial.edit.id != id:
            raise InputError(
                f"there is no trial of edit {id[:80]!r}", hint="load the page again to see what is"
            )
        return self.trial

    def close(self) -> None:
        """End a training that goes on, at its next step; no other begins."""
        self._closing.set()
        with self._alone:
            pass  # what was going on has ended

    def _watch(self, told: Told) -> Watch:
        def tell(what: str, step: int, loss: float) -> None:
            if self._closing.is_set():
                raise InputError("the studio is closing")
            told(what, step, loss)

        return Watch(
            begun=lambda edits: lambda step, loss: tell("training", step, loss),
            made=lambda count: tell("checking", 0, 0.0),
            again=lambda edit: lambda step, loss: tell("training again", step, loss),
        )
