"""A cache that is longer than its tokens, for graphs whose attention writes into it in place.

A step writes behind the tokens that are there, a row that joins behind those that are there or in
the place of one that has left, and nothing else is copied. Of all states that share such a cache,
only the one that was written last may go on in it. Knows nothing of what a graph computes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memoir_edge_runtime._cache import Cached
from memoir_edge_runtime._provider import Array, OrtValue

# A cache has room for multiples of so many tokens and rows; what is not written takes no memory of
# a CPU.
_STEP, _SEATS = 256, 8


@dataclass
class Room:
    """A cache with room for further tokens and rows."""

    held: Mapping[str, OrtValue]  # by input name; the cache is its first rows
    size: int  # tokens that it has room for
    last: Array  # the mask of the state that was written last
    binding: Any = None  # what is the same at every step stays bound
    bound: Mapping[str, OrtValue] | None = None  # those values: a binding does not keep arrays

    def takes(self, T: int, *, after: Array) -> bool:
        """Whether a state may go on in it to T tokens; `after` is its mask."""
        return self.last is after and self.size >= T

    def run(
        self,
        graph: Any,
        lasting: Callable[[], Mapping[str, OrtValue]],
        changing: Mapping[str, Array],
        cached: Sequence[Cached],
    ) -> OrtValue:
        """A step whose cache is input and output.

        Args:
            graph: The InferenceSession.
            lasting: Gives inputs that are the same at every step, the cache among them; asked once.
            changing: Inputs that differ from step to step.
            cached: The tensors of the cache.

        Returns:
            The logits, on the host.
        """
        if self.binding is None:
            self.bound = lasting()
            self.binding = _bound(graph, self.bound, cached)
        for name, array in changing.items():
            self.binding.bind_cpu_input(name, array)
        graph.run_with_iobinding(self.binding)
        return self.binding.get_outputs_as_ortvaluevector()[0]


def _bound(graph: Any, feeds: Mapping[str, OrtValue], cached: Sequence[Cached]) -> Any:
    binding = graph.io_binding()
    for name, fed in feeds.items():
        binding.bind_ortvalue_input(name, fed)
    binding.bind_output("logits", "cpu")
    for each in cached:
        binding.bind_ortvalue_output(each.present, feeds[each.past])
    return binding


def roomy(T: int) -> int:
    """Tokens to have room for where there are T."""
    return _more(T, _STEP)


def seats(B: int) -> int:
    """Rows to have room for where there are B."""
    return _more(B, _SEATS)


def _more(n: int, step: int) -> int:
    """A quarter more than is needed: what is copied stays in proportion to what is written."""
    return ((n + n // 4) // step + 1) * step
