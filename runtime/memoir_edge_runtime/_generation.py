"""One loaded memory: checked against the graph, placed on its device, never changed again.

Knows nothing of prompts or decoding. A request keeps the generation that it started with, so it
notices nothing of a swap.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from memoir_edge import ports, tophash
from memoir_edge.memory import Memory, to_bytes
from memoir_edge_runtime._provider import OrtValue, value
from memoir_edge_runtime._results import Routing


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

    @property
    def routes(self) -> bool:
        """Whether any prompt can reach an edit."""
        return self.memory is not None and len(self.memory.bank) > 0

    def routing(self, routes: tophash.Routes, row: int) -> Routing:
        """What was decided for one row of a batch, with the ids of the memory's edits."""
        if self.memory is None or not self.routes:
            return Routing(digest=self.digest)
        key = int(routes.candidate[row])
        thresholds = np.broadcast_to(self.memory.thresholds, self.memory.owner.shape)
        return Routing(
            edit=self.ids.get(int(routes.route[row]) - 1),
            overlap=float(routes.overlap[row]),
            threshold=float(thresholds[key]),
            candidate=self.ids.get(int(self.memory.owner[key])),
            digest=self.digest,
        )


def place(memory: Memory, number: int, device: str) -> Generation:
    """A memory as a generation: its tensors copied to the device.

    Raises:
        MemoryFormatError: The memory is not valid.
    """
    digest = memory.digest or hashlib.sha256(to_bytes(memory)).hexdigest()
    # The TopK operator reads k on the host, whatever the device.
    home = {name: "cpu" if name == "memory.k" else device for name in ports.MEMORY}
    # Copies, because on the CPU a value is a view and the caller may change the array later.
    feeds = {n: value(array.copy(), home[n]) for n, array in ports.feeds(memory).items()}
    return Generation(number, memory, digest, feeds, {e.row: e.id for e in memory.edits})
