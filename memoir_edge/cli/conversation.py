"""A chat with a deployed model: messages, answers, and lines that are commands.

Knows nothing of terminals: a line comes in, pieces of text go out.

    talk = Conversation(session, Options(max_new_tokens=64))
    for piece in talk.hear("What is the capital of France?"): ...
    for piece in talk.hear("/why"): ...
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoir_edge.errors import InputError, MemoirEdgeError

if TYPE_CHECKING:
    from memoir_edge_runtime import Options, Result, Session


class Complaint(str):
    """What is said to a line that came to nothing."""

    __slots__ = ()


@dataclass
class Conversation:
    """Messages and their answers.

    An answer of `/base` is told, not remembered: the conversation goes on from the one before.
    """

    session: "Session"
    options: "Options"
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)  # answers and errors, as JSON
    over: bool = False
    last: "Result | None" = None

    def hear(self, line: str) -> Iterator[str]:
        """What is said to a message or a command; an error is said, too, and changes nothing."""
        name, _, rest = line.strip().partition(" ")
        if not name:
            return
        try:
            if not name.startswith("/"):
                yield from self._message(line)
            elif name in COMMANDS:
                yield from COMMANDS[name](self, rest.strip())
            else:
                raise InputError(f"there is no command {name}; /help lists those there are")
        except MemoirEdgeError as error:
            said = Complaint(f"{error}" + (f" ({error.hint})" if error.hint else ""))
            # What is no UTF-8 was decoded to surrogates, which JSON cannot be written with.
            self.turns.append({"user": line.encode(errors="replace").decode(), "error": said})
            yield said

    @property
    def failed(self) -> bool:
        """Whether a line came to nothing."""
        return any("error" in turn for turn in self.turns)

    def _message(self, text: str) -> Iterator[str]:
        asked = [*self.messages, {"role": "user", "content": text}]
        yield from self._answer(asked, base=False)
        assert self.last is not None
        self.messages = [*asked, {"role": "assistant", "content": self.last.text}]

    def _answer(self, asked: list[dict[str, str]], *, base: bool) -> Iterator[str]:
        from memoir_edge_runtime import Token

        generation = self.session.base if base else self.session.generation
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        prompt = self.session.chat_prompt([*system, *asked])
        for event in self.session.stream(prompt, self.options, memory=generation):
            if isinstance(event, Token):
                yield event.text
                continue
            self.last = event
            routing = asdict(event.routing)
            answer = {"user": asked[-1]["content"], "assistant": event.text, "base": base}
            self.turns.append(answer | {"memory": routing})

    # --- Commands --------------------------------------------------------------------------------

    def _base(self, _: str) -> Iterator[str]:
        """Answer the last message again, by the base model."""
        if not self.messages:
            raise InputError("nothing has been asked yet")
        before = self.last
        yield from self._answer(self.messages[:-1], base=True)
        self.last = before

    def _memory(self, file: str) -> Iterator[str]:
        """/memory FILE answers from that memory, /memory alone from none."""
        memory = self.session.swap(Path(file).expanduser() if file else None).memory
        yield f"{len(memory.edits)} edits, {memory.digest}" if memory else "the base model answers"

    def _why(self, _: str) -> Iterator[str]:
        """Which edit the last answer came from, and how near the message was to it."""
        from memoir_edge_runtime.serve.replies import explanation

        yield explanation(self.last.routing) if self.last else "nothing has been asked yet"

    def _clear(self, _: str) -> Iterator[str]:
        """Begin a new conversation."""
        self.messages, self.last = [], None
        yield "a new conversation"

    def _help(self, _: str) -> Iterator[str]:
        """List the commands."""
        yield "\n".join(f"{name:9}{said.__doc__}" for name, said in COMMANDS.items())

    def _quit(self, _: str) -> Iterator[str]:
        """End."""
        self.over = True
        yield from ()


COMMANDS: dict[str, Callable[[Conversation, str], Iterator[str]]] = {
    "/base": Conversation._base,
    "/memory": Conversation._memory,
    "/why": Conversation._why,
    "/clear": Conversation._clear,
    "/help": Conversation._help,
    "/quit": Conversation._quit,
}
