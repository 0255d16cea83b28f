"""A cache that is longer than its tokens, for graphs whose attention writes into it in place.

A step writes behind the tokens that are there, and nothing is copied. Of all states that share such
a cache, only the one that was written last may go on in it. Knows nothing of what a graph computes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memoir_edge_runtime._cache import Cached
from memoir_edge_runtime._provider import OrtValue

_STEP = 64  # tokens by which a cache grows


@dataclass
class Room:
    """A cache with room for further tokens."""

    size: int  # tokens that it has room for
    written: int  # tokens of the state that was written last
    binding: Any = None  # what is the same at every step stays bound

    def run(
        self,
        graph: Any,
        feeds: Mapping[str, OrtValue],
        cached: Sequence[Cached],
        outputs: Sequence[str],
        changing: Collection[str],
    ) -> dict[str, OrtValue]:
        """A step whose cache is input and output.

        Args:
            graph: The InferenceSession.
            feeds: All inputs, the cache among them.
            cached: The tensors of the cache.
            outputs: What else is wanted, on the host.
            changing: Inputs that differ from step to step.
        """
        first = self.binding is None
        binding = self.binding = graph.io_binding() if first else self.binding
        for name, fed in feeds.items():
            if first or name in changing:
                binding.bind_ortvalue_input(name, fed)
        if first:
            for name in outputs:
                binding.bind_output(name, "cpu")
            for each in cached:
                binding.bind_ortvalue_output(each.present, feeds[each.past])
        graph.run_with_iobinding(binding)
        values = binding.get_outputs_as_ortvaluevector()
        found = {name: values[i] for i, name in enumerate(outputs)}
        return found | {each.present: feeds[each.past] for each in cached}


def roomy(
    cache: Mapping[str, OrtValue],
    T: int,
    room: Room | None,
    cached: Sequence[Cached],
    device: str,
) -> tuple[Mapping[str, OrtValue], Room]:
    """A cache of T tokens with room for another: itself, or a longer copy."""
    if room is None or room.written != T or room.size == T:
        room = Room((T // _STEP + 1) * _STEP, T)
        cache = {c.past: c.longer(cache[c.past], T, room.size, device) for c in cached}
    room.written = T + 1
    return cache, room
