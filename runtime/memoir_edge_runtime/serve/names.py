"""What requests call memories: by the names of their files, or by names that are given to them.

Knows nothing of what is loaded.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from memoir_edge.errors import InputError

BASE, DEFAULT = "base", "default"  # names of models: without a memory; with the active one
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GIVEN = re.compile(r"([^/=]*)=(.+)", re.DOTALL)


class Source(NamedTuple):
    """A memory's file, and what requests call it."""

    name: str
    file: Path


def name_of(file: PurePath) -> str:
    """A memory's name where none is given.

    >>> name_of(PurePath("v1/facts.2026.safetensors"))
    'facts'
    """
    return file.name.partition(".")[0]


def checked(name: str) -> str:
    """The name of a memory.

    Raises:
        InputError: It cannot stand behind `base@`, or means another model.
    """
    if name in (BASE, DEFAULT) or not _NAME.fullmatch(name):
        raise InputError(
            f"a memory cannot be called {name[:80]!r}",
            hint=f"use up to 64 letters, digits, '.', '_' and '-', and not {BASE} or {DEFAULT}; "
            "NAME=FILE gives a file's memory another name",
        )
    return name


def source(given: Path) -> Source:
    """What `FILE` or `NAME=FILE` says; a file that is there is meant as it stands.

    Raises:
        InputError: The memory cannot be called so.

    >>> source(Path("today=facts/2026.safetensors"))
    Source(name='today', file=PosixPath('facts/2026.safetensors'))
    """
    named = None if given.exists() else _GIVEN.fullmatch(str(given))
    name, file = (named[1], Path(named[2])) if named else (name_of(given), given)
    return Source(checked(name), file)


def sources(given: Sequence[Path]) -> list[Source]:
    """What each says; one that is given twice counts once.

    Raises:
        InputError: A memory cannot be called so, or two have one name.
    """
    found: dict[str, Source] = {}
    for each in map(source, given):
        other = found.setdefault(each.name, each)
        if other.file.absolute() != each.file.absolute():
            raise InputError(
                f"{other.file} and {each.file} would both be called {each.name}",
                hint=f"give one of them another name: NAME={each.file}",
            )
    return list(found.values())
