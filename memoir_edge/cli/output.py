"""What commands print: tables and progress for people, one JSON document for programs."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
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
            Console(highlight=False, soft_wrap=True).print(*things, markup=False)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        group: int = 0,
    ) -> None:
        """Print a table for people; numbers stand at the right, a line ends each `group` rows."""
        if self.json or self.quiet or not rows:
            return
        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for i, column in enumerate(columns):
            numeric = all(isinstance(row[i], int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for number, row in enumerate(rows, start=1):
            end = bool(group) and number % group == 0
            table.add_row(*(escape(shown(cell)) for cell in row), end_section=end)
        Console(highlight=False).print(table)

    def result(self, document: dict[str, Any]) -> None:
        """Print for programs."""
        if self.json:
            print(json.dumps(document, ensure_ascii=False))  # noqa: T201 - the result itself

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator["Bar"]:
        """A progress bar on standard error; nothing where it is not a terminal's or not wanted."""
        console = Console(stderr=True)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=self.quiet or not console.is_terminal,
        )
        with bar:
            yield Bar(bar, bar.add_task(what, total=total, note=""))


@dataclass(frozen=True)
class Bar:
    """One running progress bar."""

    progress: Progress
    task: TaskID

    def advance(self, by: int = 1) -> None:
        """Move on."""
        self.progress.advance(self.task, by)

    def note(self, text: str) -> None:
        """Change the text behind the bar."""
        self.progress.update(self.task, note=text)


def shown(cell: object) -> str:
    """One table cell: shares with three digits, nothing as a dash."""
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def size(count: int) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
