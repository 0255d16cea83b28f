"""The process: an app on a socket, a file that is followed, signals that end it gently.

Knows nothing of requests.
"""

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from memoir_edge import __version__
from memoir_edge.errors import InputError
from memoir_edge_runtime._session import Session
from memoir_edge_runtime.serve.app import create_app
from memoir_edge_runtime.serve.logs import configure, log
from memoir_edge_runtime.serve.names import Source, source, sources
from memoir_edge_runtime.serve.server import Server
from memoir_edge_runtime.serve.settings import Settings
from memoir_edge_runtime.serve.watch import Signature, follow, signature


def run(
    session: Session,
    settings: Settings,
    *,
    memories: tuple[Path, ...] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve until SIGTERM or SIGINT; then take no more requests and finish those that run.

    Args:
        session: The model.
        settings: Limits, keys and files.
        memories: Files (or NAME=FILE) that are loaded before the first request; the first one
            answers by default.
        host: Address to listen on.
        port: 0 is a free one; the log says which.

    Raises:
        MemoirEdgeError: A memory that cannot be loaded or verified.
        InputError: The address cannot be used.
    """
    configure()
    found = sources([*memories, *([] if settings.watch is None else [settings.watch])])
    # Tokens are sent by Python threads, and the scheduler's must not wait for the interpreter as
    # long as a token takes before each run of the graph: by default that is up to 5 ms.
    sys.setswitchinterval(0.0005)
    server = Server(session, settings)
    stop = threading.Event()
    try:
        watched = None if settings.watch is None else source(settings.watch)
        seen = None if watched is None else signature(watched.file)
        later = {watched} if seen is None and settings.watch not in memories else set()
        for i, each in enumerate(found):
            if each not in later:
                verify, active = settings.verify, i == 0
                server.memories.load(each.file, name=each.name, activate=active, verify=verify)
        if watched is not None:
            server.awaited = None if watched.name in server.memories.table.loaded else watched.name
            _follow(server, watched, stop, seen, activate=not memories)
        grace = int(settings.drain) + 5
        cut = partial(server.close, seconds=0)
        listen(create_app(server), host, port, grace=grace, drain=server.close, cut=cut)
    finally:
        stop.set()
        server.close()


def _follow(
    server: Server, watched: Source, stop: threading.Event, seen: Signature, *, activate: bool
) -> None:
    def load(path: Path) -> object:
        # A touch, other rights or a copy of the same file do not undo what was activated since.
        loaded = server.memories.load(
            path, name=watched.name, activate=activate, again=False, verify=server.settings.verify
        )
        server.awaited = None
        return loaded

    threading.Thread(
        target=follow, args=(watched.file, load, stop, seen), name="watch", daemon=True
    ).start()


def _nothing() -> None:
    pass


def listen(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    grace: int,
    drain: Callable[[], None] = _nothing,
    cut: Callable[[], None] = _nothing,
) -> None:
    """Serve an application until SIGTERM or SIGINT.

    Args:
        app: The application.
        host: Address to listen on.
        port: 0 is a free one; the log says which.
        grace: Seconds that open connections get at the end.
        drain: Called at the end while requests still run; it waits for them, or lets them fail.
        cut: Called beside it where a second Ctrl-C asks to wait no longer; it lets them fail.

    Raises:
        InputError: The address cannot be used.
    """
    config = uvicorn.Config(
        app,
        # h11 reads the body of a request that would rather upgrade (h2c, as Java's client), as HTTP
        # asks; httptools loses it.
        http="h11",
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
    )
    try:
        bound = config.bind_socket()
    except (SystemExit, OverflowError) as error:  # what uvicorn raises if it cannot, or no port
        raise InputError(
            f"cannot listen on {host} port {port}",
            hint="give an address of this machine, and a port that is free, from 0 to 65535",
        ) from error
    listener = _Listener(config, drain, cut)
    # From the first moment on, before uvicorn sets its own; and behind it, because it raises the
    # signal once more when it is done, and an orderly end is no error.
    signal.signal(signal.SIGTERM, listener.handle_exit)
    bound.listen(config.backlog)  # before the log says that clients can connect
    where = bound.getsockname()
    log(logging.INFO, "listening", host=where[0], port=where[1], version=__version__)
    with bound:
        listener.run(sockets=[bound])
    if listener.force_exit:  # uvicorn tells by a signal, which whoever started this may ignore
        raise KeyboardInterrupt


class _Listener(uvicorn.Server):
    """Drains before uvicorn waits for its connections: they wait for what is being written."""

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], None], cut: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._drain, self._cut = drain, cut

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and end those that there are."""
        drained = asyncio.create_task(asyncio.to_thread(self._drain))
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn would leave the application as it is
            await self.lifespan.shutdown()
        await drained

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End, or by a second Ctrl-C wait no longer; the signal may come between any two steps."""
        super().handle_exit(sig, frame)
        if self.force_exit:
            threading.Thread(target=self._cut, name="cut").start()
