"""Every error that memoir-edge raises on purpose.

    MemoirEdgeError
    ├── InputError              bad input or wrong use               exit code 2
    │   ├── EditsError          a record of an edits file
    │   └── SiteError           no such site, or more than one
    └── IncompatibleError       an artifact that does not fit        exit code 3
        ├── MemoryFormatError   a file that is no valid memory (cases: memoir_edge.memory)
        ├── MismatchError       a memory of another model or site
        └── GraphError          an export directory or graph without ports

A message says what was found and what was expected; ``hint`` says what to do. The command line
prints both as one readable line each and exits with ``exit_code``:

    try:
        memory = memoir_edge.memory.read("facts.safetensors")
    except memoir_edge.errors.MemoirEdgeError as error:
        print(error, error.hint)
"""


def install(extras: str) -> str:
    """The hint for a package that is missing: which of this project's extras bring it.

    >>> install("edit")
    'in a checkout of memoir-edge: pip install -c constraints.txt -e ".[edit]"'
    """
    return f'in a checkout of memoir-edge: pip install -c constraints.txt -e ".[{extras}]"'


class MemoirEdgeError(Exception):
    """Root of the tree.

    Args:
        message: What was found and what was expected.
        hint: What to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(MemoirEdgeError):
    """Bad input or wrong use."""


class EditsError(InputError):
    """One record of an edits file cannot be used.

    ``line`` is the number of its line, counted from 1, or of what else the file has as units.
    """

    def __init__(
        self, message: str, *, line: int, unit: str = "line", hint: str | None = None
    ) -> None:
        super().__init__(f"{unit} {line}: {message}", hint=hint)
        self.line = line


class SiteError(InputError):
    """The site names no layer, or more than one."""


class IncompatibleError(MemoirEdgeError):
    """An artifact that does not fit what it was used with."""

    exit_code = 3


class MemoryFormatError(IncompatibleError):
    """The file is no memory that this version can read; each case has its own subclass."""


class MismatchError(IncompatibleError):
    """The memory belongs to another model or site."""


class GraphError(IncompatibleError):
    """The directory or graph cannot take a memory."""


def first_line(error: Exception) -> str:
    r"""What another library's error says, in one line.

    >>> first_line(ValueError("no such op\nat node 7")), first_line(KeyError())
    ('no such op', 'KeyError')
    """
    return (str(error) or type(error).__name__).splitlines()[0]
