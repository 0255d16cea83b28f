"""Limits of a memory file, far beyond any real one.

A hostile file is refused before it costs more than its size.
"""

from memoir_edge.memory.refusals import LimitError

MAX_FILE_BYTES = 2**36
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own
MAX_DOCUMENT_BYTES = 2**26
MAX_JSON_DEPTH = 64
MAX_INPUT_WIDTH = 2**20  # D
MAX_OUTPUT_WIDTH = 2**20  # d
MAX_COLUMNS = 2**20  # C
MAX_TILES = 2**10
MAX_KEYS = 2**21  # R: a million edits with a paraphrase each
MAX_EDITS = 2**20
MAX_CODE_BITS = 2**16  # P


def check(what: str, found: int, limit: int, unit: str = "") -> None:
    """Raise LimitError for what is larger than a limit."""
    if found > limit:
        raise LimitError(f"{what} {found} {unit}".rstrip() + f", at most {limit} are read")
