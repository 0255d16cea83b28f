"""A cache that is longer than its tokens, for graphs whose attention writes into it in place.

A step writes behind the tokens that are there, and nothing is copied. Of all states that share such
a cache, only the one that was written last may go on in it. Knows nothing of what a graph computes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memoir_edge_runtime._cache import Cached
from memoir_edge_runtime._provider import Array, OrtValue, value

_STEP = 64  # a cache has room for a multiple of so many tokens


@dataclass
class Room:
    """A cache with room for further tokens."""

    size: int  # tokens that it has room for
    written: int  # tokens of the state that was written last
    binding: Any = None  # what is the same at every step stays bound

    def run(
        self,
        graph: Any,
        lasting: Callable[[], Mapping[str, OrtValue]],
        changing: Mapping[str, Array],
        cached: Sequence[Cached],
        outputs: Sequence[str],
    ) -> list[OrtValue]:
        """A step whose cache is input and output.

        Args:
            graph: The InferenceSession.
            lasting: Gives inputs that are the same at every step, the cache among them; asked once.
            changing: Inputs that differ from step to step.
            cached: The tensors of the cache.
            outputs: What else is wanted, on the host.

        Returns:
            What was wanted, in that order.
        """
        if self.binding is None:
            self.binding = _bound(graph, lasting(), cached, outputs)
        for name, array in changing.items():
            self.binding.bind_ortvalue_input(name, value(array))
        graph.run_with_iobinding(self.binding)
        values = self.binding.get_outputs_as_ortvaluevector()
        return [values[i] for i in range(len(outputs))]


def _bound(
    graph: Any, feeds: Mapping[str, OrtValue], cached: Sequence[Cached], outputs: Sequence[str]
) -> Any:
    binding = graph.io_binding()
    for name, fed in feeds.items():
        binding.bind_ortvalue_input(name, fed)
    for name in outputs:
        binding.bind_output(name, "cpu")
    for each in cached:
        binding.bind_ortvalue_output(each.present, feeds[each.past])
    return binding


def roomy(
    cache: Mapping[str, OrtValue],
    T: int,
    room: Room | None,
    cached: Sequence[Cached],
    device: str,
) -> tuple[Mapping[str, OrtValue], Room]:
    """A cache of T tokens with room for another: itself, or a longer copy."""
    if room is None or room.written != T or room.size == T:
        # A quarter more than is needed: what is copied stays in proportion to what is written.
        room = Room(((T + T // 4) // _STEP + 1) * _STEP, T)
        cache = {c.past: c.longer(cache[c.past], T, room.size, device) for c in cached}
    room.written = T + 1
    return cache, room
