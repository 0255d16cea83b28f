"""The command line: a table of commands, each a module that is imported when it is called.

    memoir-edge apply edits.jsonl --model DIR --out facts.safetensors

Exit codes: 0 done; 1 a check that did not hold; 2 wrong use or bad input; 3 an artifact that does
not fit; 130 interrupted; 141 the reader of the output has closed it; 143 ended by SIGTERM.
"""

import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError

from memoir_edge import __version__
from memoir_edge.errors import MemoirEdgeError, first_line

COMMANDS = (
    "apply", "export", "generate", "chat", "serve", "studio", "verify", "eval", "report", "inspect",
    "calibrate", "diff", "delete", "rollback", "adapter", "package", "demo",
)  # fmt: skip
INTERRUPTED, UNREAD, TERMINATED = 130, 141, 143

app = App(
    name="memoir-edge",
    help="Edit facts in a language model offline, and swap them into a served ONNX model.",
    version=__version__,
    default_parameter=Parameter(negative=()),  # no --no-json and the like
    suppress_keyboard_interrupt=False,  # `main` says so
)
for name in COMMANDS:
    app.command(f"memoir_edge.cli.commands.{name}:command", name=name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one readable line and a hint."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = " ".join(error.command_chain or ())
        _complain(_misuse(error, command), " ".join(filter(None, [app.name[0], command, "--help"])))
        return MemoirEdgeError.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # a file or folder that no command looked at itself
        if "--debug" in tokens:
            raise
        _complain(f"{error.filename}: {error.strerror}" if error.filename else first_line(error))
        return MemoirEdgeError.exit_code
    except MemoirEdgeError as error:
        if "--debug" in tokens:
            raise
        _complain(str(error), error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _misuse(error: CycloptsError, command: str) -> str:
    """What is wrong with a command's arguments."""
    if isinstance(error, UnusedCliTokensError):
        return f"{command} takes no further argument: {' '.join(error.unused_tokens or ())}"
    said = re.sub(r"(?<!\.)\.$", "", str(error))
    if not isinstance(error, MissingArgumentError) or error.argument is None:
        return said
    # Its own words are those of an option without its value, also where there is no such option.
    wanted, [_, *guess] = error.argument.name, said.split(". ")
    what = f"{wanted} needs a value" if error.keyword else f"{command} needs {wanted}"
    return ". ".join([what, *guess])


def _complain(message: str, hint: str | None = None) -> None:
    from memoir_edge.cli.output import complain  # what prints is imported where it is needed

    complain(message, hint)


def _open_streams() -> None:
    """Put nothing where a standard stream was closed, as by `>&-` or a daemon.

    Python has None there, and the next file to be opened, such as a journal, would get the stream's
    number and with it what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - open to the end


def run() -> None:
    """Entry point of the installed program."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an id or a path may hold what it cannot encode
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # what is half made is removed
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        code = UNREAD
    raise SystemExit(code)
