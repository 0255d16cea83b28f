"""The way from a command to what may not be installed; says what to install where it is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from memoir_edge.cli.modes import refuse
from memoir_edge.errors import InputError, install
from memoir_edge.history import Journal
from memoir_edge.relations import Relation, without
from memoir_edge.relations import load as load_relations

if TYPE_CHECKING:
    from memoir_edge.editor import BaseModel
    from memoir_edge.router import Encoder


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """While open, an import that fails says what the command needs.

    Args:
        what: Named in the message.
        extra: Of this project's extras, the one that brings it.

    Raises:
        InputError: Something is not installed.

    Example:
        >>> with needs("PyTorch and transformers", "edit"):
        ...     from memoir_edge import editor
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"this command needs {what} ({error.name} is missing)",
            hint=install(extra),
        ) from error


def refuse_empty(option: str, value: str | None) -> None:
    """Raise InputError for an option that is given and empty, as of a variable that is not set."""
    if value is not None and not value.strip():
        raise InputError(f"{option} is empty", hint="give it a value, or leave it out")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Torch:
    """A model to be loaded in PyTorch."""

    model: str
    """A transformers folder or hub id."""

    device: str | None = None
    """cpu, cuda, cuda:1 ..., or auto to spread a model over several; default CUDA where there is
    one."""

    def load(self) -> "BaseModel":
        """The model, with transformers kept quiet.

        Raises:
            InputError: torch or transformers is not installed, or there is no such model.
        """
        refuse_empty("--model", self.model)
        refuse_empty("--device", self.device)
        with needs("PyTorch and transformers", "edit"):
            from memoir_edge.editor import load, quiet
        quiet()
        return load(self.model, device=self.device)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Routed:
    """What prompts are routed by."""

    encoder: str | None = None
    """A sentence encoder, folder or hub id, that reads what is asked, instead of the model's
    activations; default what the memory was begun with."""

    relations: Path | None = None
    """A file with relations of your own, beside those that are built in."""

    without: str | None = None
    """Relations to leave out, such as country.capital,P19: those that a measurement asks about."""

    def load(self, journal: Journal | None = None) -> "Encoder | None":
        """The encoder; None where neither a wish nor the journal to go on with names one.

        Raises:
            InputError: sentence-transformers is not installed, there is no such encoder, or
                relations are named and there is none to make keys of them.
        """
        refuse_empty("--encoder", self.encoder)
        noted = journal.frames[0].data.get("encoder") if journal else None
        name = self.encoder or noted
        if name is None:
            refuse("a run without --encoder", relations=self.relations, without=self.without)
            return None
        with needs("sentence-transformers", "router"):
            from memoir_edge.router import Encoder
        try:
            return Encoder(str(name))
        except InputError as error:
            if self.encoder is not None:
                raise
            raise InputError(
                f"the encoder that the journal names: {error}",
                hint="say where it is now with --encoder",
            ) from error

    def known(self) -> tuple[Relation, ...]:
        """The relations that keys and guards are made of.

        Raises:
            InputError: The file is none of relations, or one to be left out is unknown.
        """
        refuse_empty("--without", self.without)
        left_out = [part.strip() for part in (self.without or "").split(",") if part.strip()]
        return without(load_relations(self.relations), left_out)

    def about(self) -> dict[str, str]:
        """What a journal that is begun notes: a hub id as it is, a folder in full."""
        return {"encoder": named(self.encoder)} if self.encoder else {}


def named(model: str) -> str:
    """A model as a journal names it: a hub id as it is, a folder or file in full."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model
