"""The way from a command to the journal beside a memory file."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from memoir_edge import memory as memory_file
from memoir_edge.cli.output import Output
from memoir_edge.cli.places import check_file
from memoir_edge.errors import InputError
from memoir_edge.files import replacing
from memoir_edge.history import Journal, JournalError, Written, load, path_of
from memoir_edge.memory import Memory


@contextmanager
def opened(file: Path, output: Output, *, write: bool = True) -> Iterator[Journal]:
    """The journal of a memory file.

    Args:
        file: The memory file.
        output: Told of a file that is behind its journal.
        write: Whether the journal will be changed; the file is then brought up to it first.

    Raises:
        InputError: There is no such file, or no journal beside it.
        JournalError: The journal is damaged, or that of another memory.
    """
    if not file.exists():
        raise InputError(f"no memory file at {file}")
    journal = load(path_of(file), write=write)
    if journal is None:
        raise InputError(
            f"{file} has no journal beside it ({path_of(file).name}): what one edit changed cannot "
            "be told from what the others did",
            hint="keep the journal that `memoir-edge apply` writes with the memory",
        )
    with journal:
        behind = not journal.check_kin(file) and not _is_last(journal, file)
        if behind and not write:
            output.say(f"{file} is behind its journal")
        elif behind:
            before = memory_file.read(file)
            after = journal.write(file, finished=not journal.state().changed)
            moved = _moved(before, after)
            output.say(f"{file} is behind its journal; brought up to it first{moved}")
        yield journal


def _moved(before: Memory, after: Memory) -> str:
    """Which edits come and go, such as one that an interrupted run was to make anew."""
    old, new = (dict.fromkeys(entry.id for entry in memory.edits) for memory in (before, after))
    came = [f"{id} came" for id in new if id not in old]
    went = [f"{id} went" for id in old if id not in new]
    return f": {', '.join(came + went)}" if came or went else ""


def _is_last(journal: Journal, file: Path) -> bool:
    """Whether a memory file is what an interrupted run has left, and nothing came since."""
    return journal.place_of(memory_file.read(file).digest) == len(journal.frames) - 1


def former_of(
    out: Path, memory: Path | None, output: Output, stack: ExitStack, *, write: bool
) -> tuple[Journal | None, Memory | None]:
    """The journal to go on with and the memory it amounts to, each where there is one.

    Args:
        out: The memory file that is to be written.
        memory: A memory to begin from instead of what `out` holds, unless that is what a run that
            began from it and was interrupted has left.
        output: Told of what a user should know of them.
        stack: Closes the journal.
        write: Whether the journal will be gone on with.

    Raises:
        InputError: The file cannot be written, or would be lost.
        JournalError: The journal is damaged, or that of another memory.
    """
    check_file(out)
    path = path_of(out)
    other = memory if memory and not (out.exists() and out.samefile(memory)) else None
    begun = other is not None and _begun(path, other)
    if other and not begun and (out.exists() or path.exists()):
        raise InputError(
            f"{out if out.exists() else path} exists and would be lost, because the run begins "
            f"from {other}",
            hint=f"leave --memory out to go on from {out}, or give another --out",
        )
    if other and not begun and (source := load(path_of(other), write=False)):
        return _read(source, other, output, stack)
    if journal := load(path, write=write):
        return _read(journal, out, output, stack)
    start = memory or (out if out.exists() else None)
    if start:
        output.say(f"{start} has no journal: its edits cannot be deleted one by one")
    return None, memory_file.read(start) if start else None


def _begun(path: Path, memory: Path) -> bool:
    """Whether a journal is that of a run which began from a memory and has not been finished."""
    journal = load(path, write=False)
    if journal is None:
        return False
    with journal:
        try:
            place = journal.place_of(memory_file.read(memory).digest)
        except JournalError:
            return False
        since = journal.frames[place + 1 :]
        return not any(f.kind == Written.kind and f.data.get("finished") for f in since)


def _read(
    journal: Journal, memory: Path, output: Output, stack: ExitStack
) -> tuple[Journal, Memory]:
    """The journal of a memory file and what it amounts to, once a user knows what is not there."""
    stack.enter_context(journal)
    if journal.dropped:
        output.say(f"{journal.path}: the end of an interrupted run was dropped; going on before it")
    if memory.exists():
        _say_earlier(memory, journal, output)
    return journal, journal.compile()


def _say_earlier(memory: Path, journal: Journal, output: Output) -> None:
    """Say where a memory is not what its journal amounts to, but for an interrupted run."""
    if not journal.check_kin(memory) and not journal.state().changed:
        output.say(f"{memory} is an earlier state; going on from the last of {journal.path}")


def taken_along(journal: Journal | None, out: Path, stack: ExitStack) -> Journal | None:
    """The journal beside the memory file that is to be written: of another memory's, a copy.

    Args:
        journal: What `former_of` found.
        out: The memory file.
        stack: Closes the journal.

    Raises:
        InputError: The file cannot be written, or is there by now.
    """
    path = path_of(out)
    if journal is None or journal.path == path:
        return journal
    with replacing(path) as partial:
        shutil.copyfile(journal.path, partial)
        if path.exists():
            raise InputError(
                f"{path} was begun by another command meanwhile",
                hint=f"leave --memory out to go on from {out}, or give another --out",
            )
    copy = load(path, write=True)
    assert copy is not None  # a whole one was copied
    return stack.enter_context(copy)
