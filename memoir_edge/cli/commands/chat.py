"""`memoir-edge chat`: talk to an exported model in the terminal, with a memory and without."""

import sys
from pathlib import Path

from memoir_edge.cli.conversation import COMMANDS, Complaint, Conversation
from memoir_edge.cli.output import Output, complain, printable
from memoir_edge.cli.sessions import open_session
from memoir_edge.cli.terminal import lines
from memoir_edge.errors import InputError


def command(
    directory: Path,
    /,
    *,
    memory: Path | None = None,
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Talk to an exported chat model; a line is a message, or one of the commands below.

    /base answers the last message again by the base model, /memory FILE swaps a memory in and
    /memory alone takes it out, /why says which edit answered, /clear begins anew, /help lists all.
    Alt-Enter begins a new line, Ctrl-C stops an answer, Ctrl-D ends. With --json, the whole
    conversation is printed at its end. A pipe of which a line failed ends with 2.

    Args:
        directory: An export directory.
        memory: The memory to answer with at first.
        system: A system prompt.
        max_new_tokens: Most tokens of an answer.
        temperature: 0 takes the likeliest token.
        top_p: Draw from the likeliest tokens that hold this share.
        seed: Makes drawing repeatable.
    """
    session = open_session(directory, memory)
    from memoir_edge_runtime import Options

    talk = Conversation(session, Options(max_new_tokens, temperature, 0, top_p, seed), system)
    typed = sys.stdin.isatty()
    if typed:
        output.say("/help lists the commands, Ctrl-D ends")
    for line in lines("> ", tuple(COMMANDS)):
        _answer(talk, line, output)
        if talk.over:
            break
    output.result({"turns": talk.turns})
    return InputError.exit_code if talk.failed and not typed else 0


def _answer(talk: Conversation, line: str, output: Output) -> None:
    quiet = output.json or output.quiet
    try:
        for piece in talk.hear(line):
            if isinstance(piece, Complaint):
                complain(piece)
            else:
                sys.stdout.write("" if quiet else printable(piece))
            sys.stdout.flush()
    except KeyboardInterrupt:  # the answer ends here, the conversation does not
        pass
    sys.stdout.write("" if quiet else "\n")
