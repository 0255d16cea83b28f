"""The way from a command to what may not be installed; says what to install where it is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from memoir_edge.errors import InputError

if TYPE_CHECKING:
    from memoir_edge.editor import BaseModel


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
            hint=f'in a checkout of memoir-edge: pip install -c constraints.txt ".[{extra}]"',
        ) from error


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
        with needs("PyTorch and transformers", "edit"):
            from memoir_edge.editor import load, quiet
        quiet()
        return load(self.model, device=self.device)
