"""A memory file that is followed: when it is replaced, it is loaded.

Knows nothing of servers. Told of a replacement by rename, of a file written in place once it is
whole, and of Kubernetes' way, where the file is a link through a link that is replaced.
"""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import watchfiles

from memoir_edge.errors import MemoirEdgeError

Signature = tuple[int, int, int, int] | None
_LOOK_MS = 2000  # without any event: links may lead to folders that are not watched


def signature(file: Path) -> Signature:
    """What tells a replaced file from the one before; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def follow(
    file: Path, load: Callable[[Path], object], stop: threading.Event, seen: Signature = None
) -> None:
    """Load a file each time it is another one, until stopped.

    A file that cannot be loaded is left alone until it changes again.

    Args:
        file: The file; it need not be there yet.
        load: What is done with it; its `MemoirEdgeError` is its own to report.
        stop: Ends the following.
        seen: The signature of the file that is loaded already.
    """
    events = watchfiles.watch(
        file.parent,
        recursive=False,
        stop_event=stop,
        yield_on_timeout=True,
        rust_timeout=_LOOK_MS,
        raise_interrupt=False,
        watch_filter=None,
    )
    while not stop.is_set():
        found = signature(file)
        if found not in (seen, None):
            with contextlib.suppress(MemoirEdgeError):
                load(file)
        seen = found or seen
        next(events, None)
