"""The way from a command to the journal beside a memory file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memoir_edge.cli.output import Output
from memoir_edge.errors import InputError
from memoir_edge.history import Journal, load, path_of


@contextmanager
def opened(file: Path, output: Output) -> Iterator[Journal]:
    """The journal of a memory file, to be changed; what an interrupted command left is finished.

    Raises:
        InputError: There is no such file, or no journal beside it.
        JournalError: The journal is damaged, or that of another memory.
    """
    if not file.exists():
        raise InputError(f"no memory file at {file}")
    journal = load(path_of(file), write=True)
    if journal is None:
        raise InputError(
            f"{file} has no journal beside it ({path_of(file).name}): what one edit changed cannot "
            "be told from what the others did",
            hint="keep the journal that `memoir-edge apply` writes with the memory",
        )
    with journal:
        if not journal.check_kin(file):
            output.say(f"{file} is behind its journal; brought up to it first")
            journal.write(file)
        yield journal
