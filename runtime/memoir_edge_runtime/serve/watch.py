"""A memory file that is followed: when it is replaced, it is loaded.

Knows nothing of servers. Told of a replacement by rename, of a file written in place once it is
whole, and of Kubernetes' way, where the file is a link through a link that is replaced.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import watchfiles

from memoir_edge.errors import MemoirEdgeError
from memoir_edge_runtime.serve.logs import log

Signature = tuple[int, ...] | None
_LOOK_MS = 2000  # without any event: links may lead to folders that are not watched


def signature(file: Path) -> Signature:
    """What tells a replaced file from the one before, or from one that nobody here may read.

    None where there is none.
    """
    try:
        found = file.stat()
    except OSError:
        return None
    rights = found.st_mode, found.st_uid, found.st_gid
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, *rights


def follow(
    file: Path, load: Callable[[Path], object], stop: threading.Event, seen: Signature = None
) -> None:
    """Load a file each time it is another one, until stopped.

    A file that cannot be loaded is left alone until it changes again. No error ends the following.

    Args:
        file: The file; neither it nor its folder need be there yet.
        load: What is done with it; its `MemoirEdgeError` is its own to report.
        stop: Ends the following.
        seen: The signature of the file that is loaded already.
    """
    for _ in _looks(file.parent, stop):
        found = signature(file)
        if found not in (seen, None):
            _tried(load, file)
        seen = found or seen


def _tried(load: Callable[[Path], object], file: Path) -> None:
    try:
        load(file)
    except MemoirEdgeError:
        pass
    except Exception as error:
        _report(file, error)


def _looks(folder: Path, stop: threading.Event) -> Iterator[None]:
    """A time to look at a folder's file: now, after each event, and every while without one."""
    while not stop.is_set():
        yield
        try:
            for _ in watchfiles.watch(
                folder,
                recursive=False,
                stop_event=stop,
                yield_on_timeout=True,
                rust_timeout=_LOOK_MS,
                raise_interrupt=False,
                watch_filter=None,
            ):
                yield
        except FileNotFoundError:  # the folder may come later
            pass
        except Exception as error:  # the system may have no more watches: looking is enough
            _report(folder, error)
        stop.wait(_LOOK_MS / 1000)


def _report(path: Path, error: Exception) -> None:
    log(logging.ERROR, "watch", file=str(path), error=f"{type(error).__name__}: {error}")
