"""What commands print: tables and progress for people, one JSON document for programs."""

import codecs
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

LISTED = 30  # rows of a table that may have thousands
SHORT = 16  # characters of a cell that is not broken, as an id's
LONG = 14  # characters that a column of longer cells gets, at least
PADDING = 3  # of a column
LOG = 160  # characters of a line where there is no terminal
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and ends of lines


@Parameter(name="*", negative=())
@dataclass(frozen=True)
class Output:
    """How a command talks. Results go to standard output, progress to standard error."""

    json: bool = False
    """Print one JSON document instead of tables."""

    quiet: bool = False
    """Print no tables and no progress, errors only."""

    debug: bool = False
    """Show tracebacks of errors."""

    def say(self, *things: object) -> None:
        """Print for people."""
        if not (self.json or self.quiet):
            Printer(soft_wrap=True).print(*(printable(str(thing)) for thing in things))

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        group: int = 0,
        spare: Sequence[str] = (),
    ) -> None:
        """Print a table for people; numbers stand at the right, a line ends each `group` rows.

        Short cells are broken only where nothing else will do: what is left is for long ones. Where
        that is too little, `spare` columns are left out, the last first.
        """
        if self.json or self.quiet or not rows:
            return
        console = _wide()
        table = Table(
            title=printable(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD
        )
        kept, fit = _fitting(columns, rows, spare, console.width)
        for i in kept:
            numeric = all(isinstance(row[i], int | float) for row in rows)
            table.add_column(
                columns[i],
                justify="right" if numeric else "left",
                overflow="fold",
                no_wrap=fit and _widest(i, rows) <= SHORT,
            )
        for number, row in enumerate(rows, start=1):
            end = bool(group) and number % group == 0
            table.add_row(*(shown(row[i]) for i in kept), end_section=end)
        console.print(table)

    def listing(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table of the first rows, and how many there are besides."""
        self.table(title, columns, rows[:LISTED])
        if len(rows) > LISTED:
            self.say(f"... and {len(rows) - LISTED} more; --json lists all")

    def result(self, document: dict[str, Any]) -> None:
        """Print for programs."""
        if self.json:
            plain = not _is_utf8(sys.stdout.encoding)
            print(json.dumps(document, ensure_ascii=plain))  # noqa: T201 - the result itself

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator["Bar"]:
        """A progress bar on standard error; where that is no terminal, a line every few seconds."""
        console = Printer(stderr=True)
        if not (self.quiet or console.is_terminal):
            yield Lines(what, total, lambda line: console.print(printable(line), soft_wrap=True))
            return
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=self.quiet,
        )
        with bar:
            yield Drawn(bar, bar.add_task(what, total=total, note=""))


class Printer(Console):
    """Prints what it is given as it stands: no markup, no emoji, no colours of its own."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        """Of standard output, or of standard error."""
        super().__init__(
            stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False
        )

    def on_broken_pipe(self) -> None:
        """Leave it to the entry point, as any other output that nobody reads."""
        raise BrokenPipeError


def _is_utf8(encoding: str | None) -> bool:
    """Whether a stream takes any text; one that says nothing, such as a string, does."""
    return encoding is None or codecs.lookup(encoding).name == "utf-8"


def complain(message: str, hint: str | None = None) -> None:
    """Print an error for people, on standard error."""
    print(f"error: {printable(message)}", file=sys.stderr)  # noqa: T201 - the one home of errors
    if hint:
        print(f"hint: {printable(hint)}", file=sys.stderr)  # noqa: T201


def _wide() -> Printer:
    """Standard output; as wide as a log can be where it is no terminal and nobody says how wide."""
    console = Printer()
    if not (console.is_terminal or "COLUMNS" in os.environ):
        console.width = LOG
    return console


def _widest(i: int, rows: Sequence[Sequence[object]]) -> int:
    """Characters of a column's longest cell."""
    return max(len(shown(row[i])) for row in rows)


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[object]], spare: Sequence[str], width: int
) -> tuple[list[int], bool]:
    """Places of the columns that a terminal has room for, and whether it has for all of those."""

    def needed(i: int) -> int:
        cell = _widest(i, rows)
        return PADDING + max(len(columns[i]), cell if cell <= SHORT else LONG)

    need = {i: needed(i) for i in range(len(columns))}
    for name in reversed(spare):
        if sum(need.values()) > width:
            del need[columns.index(name)]
    return list(need), sum(need.values()) <= width


class Bar(Protocol):
    """How far something is."""

    def advance(self, by: int = 1) -> None:
        """Move on."""

    def note(self, text: str) -> None:
        """Say what is being done just now."""


@dataclass
class Lines:
    """Progress as lines, for a log: one every few seconds, and none of what is done sooner."""

    what: str
    total: int
    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    every: float = 5.0  # seconds
    done: int = 0
    begun: float = field(init=False)
    told: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin now."""
        self.begun = self.told = self.clock()

    def advance(self, by: int = 1) -> None:
        """Move on; what was not foreseen counts no further than the whole."""
        self.done = min(self.done + by, self.total)
        self.note("")

    def note(self, text: str) -> None:
        """Say what is being done just now, if the last line is some seconds old."""
        now = self.clock()
        if now - self.told < self.every:
            return
        self.told, spent = now, now - self.begun
        left = spent / self.done * (self.total - self.done) if self.done else 0
        about = f", about {left:.0f} s left" if left else ""
        self.write(
            f"{self.what}: {self.done} of {self.total}, {spent:.0f} s{about}  {text}".rstrip()
        )


@dataclass(frozen=True)
class Drawn:
    """Progress as a bar on a terminal."""

    progress: Progress
    task: TaskID

    def advance(self, by: int = 1) -> None:
        """Move on."""
        self.progress.advance(self.task, by)

    def note(self, text: str) -> None:
        """Change the text behind the bar."""
        self.progress.update(self.task, note=printable(text))


def shown(cell: object) -> str:
    """One table cell: shares with three digits, nothing as a dash."""
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else printable(str(cell))


def printable(text: str) -> str:
    r"""A text whose control characters are escaped: a terminal would do what they say.

    >>> print(printable("a\x1b[2Jb\n\x9bc"))
    a\x1b[2Jb
    \x9bc
    """
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def size(count: int) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
