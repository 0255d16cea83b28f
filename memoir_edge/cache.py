"""Where what was fetched or converted is kept: outside of every project folder, safe to delete."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """`$MEMOIR_EDGE_CACHE`, else `memoir-edge` in the user's cache folder."""
    own = os.environ.get("MEMOIR_EDGE_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or f"{shared}/memoir-edge").expanduser()


def made(place: Path, fill: Callable[[Path], None]) -> Path:
    """The folder `place`, filled first where it is missing.

    It appears whole or not at all: `fill` writes into a folder beside it, which is then renamed.
    Of two processes that fill it at once, the first to finish wins.
    """
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as beside:
        whole = Path(beside) / "whole"
        whole.mkdir()
        fill(whole)
        try:
            whole.rename(place)
        except OSError:
            if not place.is_dir():
                raise
            shutil.rmtree(whole)
    return place
