"""Where kept edits go: a file of edits, a memory file, and the journal beside that.

Knows nothing of models. `memoir-edge apply` reads and writes such files, and can go on from these.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from memoir_edge.edits import Edit, read
from memoir_edge.errors import InputError
from memoir_edge.history import Journal, begin, path_of
from memoir_edge.memory import Memory


@dataclass
class Files:
    """The files of one studio.

    Raises:
        InputError: No line can be added to the file of edits.
    """

    memory: Path
    edits: Path  # JSON lines
    journal: Journal | None  # the memory's, open to be written; None: begun by the first edit
    about: Mapping[str, str]  # what a journal that is begun notes

    def __post_init__(self) -> None:
        """Refuse what could not be added to later."""
        if self.edits.is_dir() or not self.edits.parent.is_dir():
            raise InputError(f"cannot write {self.edits}: no file in an existing folder")
        if not self.edits.exists() or not self.edits.stat().st_size:
            return
        read(self.edits)
        if self.edits.read_text(encoding="utf-8-sig").lstrip().startswith("["):
            raise InputError(
                f"{self.edits} is one JSON array, to which no line can be added",
                hint="give another file with --edits",
            )

    def keep(self, edit: Edit, journal: Journal) -> Memory:
        """Add an edit to the files; a crash in between loses nothing that was asked to be kept.

        Args:
            edit: The edit.
            journal: What was done for it, beyond what the memory's own journal holds.

        Raises:
            InputError: A file cannot be written, or another command has begun the journal.
        """
        self._add(edit)
        if self.journal is None:
            self.journal = begin(path_of(self.memory), journal.origin, self.about)
        self.journal.take(journal)
        return self.journal.write(self.memory)

    def _add(self, edit: Edit) -> None:
        """A line more, unless the file's last word on the prompt is the edit."""
        old = self.edits.read_text(encoding="utf-8") if self.edits.exists() else ""
        held = read(self.edits)[0] if old.strip() else []
        alike = [one for one in held if one.prompt == edit.prompt]
        if alike and alike[-1].id == edit.id:
            return
        known = next((one for one in alike if one.id == edit.id), edit)
        record = edit.record() if known == edit else known.full_record()  # of an id all are equal
        line = json.dumps(record, ensure_ascii=False) + "\n"
        try:
            with self.edits.open("a", encoding="utf-8") as file:
                file.write(line if not old or old.endswith("\n") else f"\n{line}")
        except OSError as error:
            raise InputError(f"cannot write {self.edits}: {error.strerror}") from error

    def close(self) -> None:
        """Let the journal go."""
        if self.journal is not None:
            self.journal.__exit__()
