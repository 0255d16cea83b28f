"""Lines that people type: at a terminal with history and editing, from a pipe as they come."""

import io
import sys
from collections.abc import Iterator, Sequence

from memoir_edge import cache
from memoir_edge.cli.extras import needs


def lines(prompt: str, commands: Sequence[str]) -> Iterator[str]:
    """What is typed until the end of the input, Ctrl-D at a terminal.

    At a terminal, Alt-Enter begins a new line, the arrow keys go through what was typed before, in
    earlier runs too, and Ctrl-C empties the line.

    Args:
        prompt: Shown before each.
        commands: Completed by Tab.

    Raises:
        InputError: At a terminal, without prompt_toolkit.
    """
    return _typed(prompt, commands) if sys.stdin.isatty() else _piped()


def _piped() -> Iterator[str]:
    """A line that is no UTF-8 is one as well: whoever reads it says so."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return (line.rstrip("\n") for line in sys.stdin)


def _typed(prompt: str, commands: Sequence[str]) -> Iterator[str]:
    with needs("prompt_toolkit", "chat"):
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory
        from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    cache.folder().mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(cache.folder() / "chat-history")),
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
        prompt_continuation=lambda width, number, wrapped: " " * width,
    )
    while True:
        try:
            yield session.prompt(prompt)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
