"""The server as a Ray Serve application: the same routes on many machines, one memory on all.

Knows nothing of how a memory is fetched or exchanged: that is `wanted`. Needs the extra `ray`.

    serve run memoir_edge_runtime.serve.ray_app:app model=/models/llama-onnx

The deployment's `user_config` names the memory (`wanted.parse`). A change of it alone makes Ray
call `reconfigure` on every replica, some at a time and none restarted. docs/deploying.md shows the
configuration file.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from memoir_edge.errors import InputError
from memoir_edge_runtime._session import Session
from memoir_edge_runtime.serve import wanted
from memoir_edge_runtime.serve.app import create_app
from memoir_edge_runtime.serve.logs import configure
from memoir_edge_runtime.serve.server import Server
from memoir_edge_runtime.serve.settings import API_KEY, Settings

NAME = "memoir-edge"
_GRACE = 5.0  # seconds beyond the drain until Ray kills a replica


class Arguments(BaseModel):
    """What `app` takes.

    `settings` are fields of `Settings`; there are no admin routes here, because what answers is
    the configuration's to say. A replica reads its API key from MEMOIR_EDGE_API_KEY.
    """

    model_config = ConfigDict(extra="forbid")

    model: Path  # an export directory, on every machine
    threads: int | None = None  # of one operator
    max_memory_bytes: int = wanted.MAX_BYTES
    settings: dict[str, Any] = Field(default_factory=dict)


def app(arguments: Arguments) -> serve.Application:
    """Build the application.

    Raises:
        InputError: A setting that there is not, or that cannot be meant here.
    """
    settings = _settings(arguments)
    return serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        # The scheduler queues, batches and refuses: it must see what there is.
        max_ongoing_requests=settings.max_rows + settings.max_queue,
        graceful_shutdown_timeout_s=settings.drain + _GRACE,
    ).bind(arguments)


def _settings(arguments: Arguments) -> Settings:
    own = {"admin_key", "api_key", "memory_roots", "watch"} & set(arguments.settings)
    if own:
        raise InputError(
            f"{', '.join(sorted(own))} cannot be set here",
            hint=f"user_config names the memory, the environment's {API_KEY} the API key",
        )
    try:
        return Settings(**arguments.settings, api_key=os.environ.get(API_KEY) or None)
    except TypeError as error:
        raise InputError(f"settings: {error}") from error


class Replica:
    """One server of the application; not ready before the wanted memory answers."""

    def __init__(self, arguments: Arguments) -> None:
        configure()
        self._server = Server(
            Session(arguments.model, threads=arguments.threads), _settings(arguments)
        )
        self._server.unready = 'no memory is named; user_config {"memory": null} is the base model'
        self._most = arguments.max_memory_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="memoir-edge-")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The routes."""
        return create_app(self._server)

    async def reconfigure(self, user_config: object) -> None:
        """Exchange the memory beside the traffic.

        Raises:
            MemoirEdgeError: It cannot be had or does not fit. Ray then replaces this replica, tells
                why in the application's status, and leaves the others as they are.
        """
        folder = Path(self._folder.name)
        await asyncio.to_thread(wanted.follow, self._server, user_config, folder, self._most)

    def check_health(self) -> None:
        """Ray's question whether this replica may take requests.

        Raises:
            RuntimeError: It may not.
        """
        if not self._server.ready:
            raise RuntimeError(self._server.unready or "the scheduler has ended")
