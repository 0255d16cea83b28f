"""One loaded memory: checked against the graph, placed on its device, never changed again.

Knows nothing of prompts or decoding. A request keeps the generation that it started with, so it
notices nothing of a swap.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from memoir_edge import ports, tophash
from memoir_edge.memory import Memory, to_bytes
from memoir_edge_runtime._provider import OrtValue, value
from memoir_edge_runtime._results import Routing
from memoir_edge_runtime._router import Decided, Keys, Router


@dataclass(frozen=True, eq=False)
class Generation:
    """A memory on the device; without one, the base model.

    `number` tells a session's generations apart, 0 is the base model.
    """

    number: int
    memory: Memory | None = None
    digest: str | None = None  # SHA-256 of the memory's file
    feeds: Mapping[str, OrtValue] = field(default_factory=dict, repr=False)
    ids: Mapping[int, str] = field(default_factory=dict, repr=False)  # edit by primary bank row
    router: Router | None = field(default=None, repr=False)  # of a memory whose keys are codes
    keys: Keys | None = field(default=None, repr=False)  # as the router takes them

    @property
    def routes(self) -> bool:
        """Whether any prompt can reach an edit."""
        return self.memory is not None and len((self.memory.codes or self.memory).owner) > 0

    def decide(self, texts: Sequence[str]) -> Decided | None:
        """Where prompts go, by what they say; None where the graph itself decides.

        Args:
            texts: What is asked, one text a prompt.
        """
        if self.router is None or self.keys is None or not self.routes:
            return None
        return self.router.decide(texts, self.keys)

    def routings(self, found: Decided) -> list[Routing]:
        """What was decided for each row of a batch, by the router or by the graph."""
        cut = found.cut or [False] * len(found.routes.route)
        return [replace(self.routing(found.routes, i), cut=c) for i, c in enumerate(cut)]

    def routing(self, routes: tophash.Routes, row: int) -> Routing:
        """What was decided for one row of a batch, with the ids of the memory's edits."""
        if self.memory is None or not self.routes:
            return Routing(digest=self.digest)
        codes, best = self.memory.codes, int(routes.candidate[row])
        keys = codes or self.memory
        owner = int(keys.owner[best])
        return Routing(
            edit=self.ids.get(int(routes.route[row]) - 1),
            overlap=float(routes.overlap[row]),
            threshold=float(np.broadcast_to(keys.thresholds, keys.owner.shape)[best]),
            candidate=self.ids.get(owner),
            digest=self.digest,
            guard=owner < 0,
            key=codes.texts[best] if codes and codes.texts else None,
        )


def place(memory: Memory, number: int, device: str, router: Router | None = None) -> Generation:
    """A memory as a generation: its tensors copied to the device.

    Args:
        memory: One that fits the graph.
        number: Of the generation.
        device: The graph's.
        router: The one that made the codes of a memory that has some.

    Raises:
        MemoryFormatError: The memory is not valid.
    """
    digest = memory.digest or hashlib.sha256(to_bytes(memory)).hexdigest()
    # The TopK operator reads k on the host, whatever the device.
    home = {name: "cpu" if name == "memory.k" else device for name in ports.MEMORY}
    # Copies, because on the CPU a value is a view and the caller may change the array later.
    feeds = {n: value(array.copy(), home[n]) for n, array in ports.feeds(memory).items()}
    ids = {e.row: e.id for e in memory.edits}
    if memory.codes is None or router is None:
        return Generation(number, memory, digest, feeds, ids)
    return Generation(number, memory, digest, feeds, ids, router, router.place(memory.codes))
