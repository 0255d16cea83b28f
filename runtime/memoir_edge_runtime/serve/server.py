"""What all routes work with: one model, its memories, the scheduler that writes answers, metrics.

Knows nothing of HTTP.
"""

import asyncio
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor

from memoir_edge_runtime._reading import Reader
from memoir_edge_runtime._session import Session
from memoir_edge_runtime.serve import tracing
from memoir_edge_runtime.serve.logs import log
from memoir_edge_runtime.serve.memories import Loaded, Memories
from memoir_edge_runtime.serve.metrics import Metrics
from memoir_edge_runtime.serve.names import BASE
from memoir_edge_runtime.serve.scheduler import Scheduler
from memoir_edge_runtime.serve.settings import Settings
from memoir_edge_runtime.serve.tracing import Traces

# Tokens of a long prompt that others wait for at a time. On a CPU a token takes hardly longer in a
# part of 64 than in one of 1,024; a GPU wants large parts.
CPU_PART = 64


class Server:
    """One server's parts, put together.

    Args:
        session: The model.
        settings: Limits and keys.
    """

    def __init__(self, session: Session, settings: Settings) -> None:
        self.session, self.settings = session, settings
        self.created = int(time.time())
        self.metrics = Metrics()
        self.traces = Traces(tracing.exporting()) if settings.traces else None
        on_cpu, most = session.decoder.device == "cpu", settings.prefill_tokens
        self.scheduler = Scheduler(
            session.decoder,
            context=session.language.context,
            max_rows=settings.max_rows,
            max_queue=settings.max_queue,
            prefill_tokens=most,
            reader=Reader(
                session.decoder,
                base=session.sidecar.digest or "",
                chunk=min(most, CPU_PART) if on_cpu else most,
                max_bytes=settings.prefix_mb * 2**20,
            ),
        )
        self.memories = Memories(
            session,
            roots=settings.memory_roots,
            max_loaded=settings.max_memories,
            complete=self.scheduler.complete,  # probes take turns with the traffic
            observe=self._changed,
        )
        self.metrics.watch(self.scheduler, self.memories)
        self.awaited: str | None = None  # the memory of a followed file that has not come yet
        self.stopping = False
        self.unready: str | None = None  # why requests should go elsewhere, while they should
        self.aside = ThreadPoolExecutor(1, "aside")  # reads what the scheduler does not: by turns
        self.administering = asyncio.Lock()  # loads wait here, not in threads that answers need
        log(logging.INFO, "model", device=session.decoder.device, ops=session.ops)

    @property
    def ready(self) -> bool:
        """Whether requests are taken, and answered by what they should be."""
        return self.scheduler.alive and not self.stopping and self.unready is None

    @property
    def waiting_for(self) -> str | None:
        """The model whose file is followed and has not been there yet."""
        return None if self.awaited is None else f"{BASE}@{self.awaited}"

    def unload(self, name: str) -> Loaded:
        """Forget a memory, and all that was counted of it.

        Raises:
            MemoirEdgeError: As `Memories.unload`.
        """
        loaded = self.memories.unload(name)
        self.metrics.forget(name)
        return loaded

    def deadline(self, seconds: float | None) -> float:
        """Of time.monotonic, for a request that begins and may take so long; never beyond ours."""
        return time.monotonic() + min(seconds or math.inf, self.settings.deadline)

    def _changed(self, what: str, name: str, seconds: float, error: Exception | None) -> None:
        self.metrics.changed(what, seconds, error)
        name, active = name[:80], self.memories.table.default
        failure = None if error is None else f"{type(error).__name__}: {error}"
        digest = active.generation.digest
        if self.traces is not None:
            told = {"memory.name": name, "memory.active": active.name, "memory.digest": digest}
            self.traces.swap(what, seconds, told | {"error": failure})
        log(
            logging.INFO if error is None else logging.ERROR,
            f"memory {what}",
            memory=name,
            seconds=round(seconds, 6),
            active=active.name,
            digest=digest,
            **({} if failure is None else {"error": failure}),
        )

    def close(self, *, seconds: float | None = None) -> None:
        """Finish what was taken, and end.

        Args:
            seconds: How long that may take; None is as long as the settings say.
        """
        self.stopping = True
        self.aside.shutdown(wait=False, cancel_futures=True)
        self.scheduler.close(seconds=self.settings.drain if seconds is None else seconds)
        if self.traces is not None:
            self.traces.close()
