"""A prompt read in parts, and behind what was read before of one that begins alike.

Knows nothing of requests or of when a part may be read. Keys and values of a prompt's tokens depend
on the tokens before them and on the route: so they are kept under the digest of the base model, of
the memory and route where an edit answers, and of all tokens from the first on. A block that is
found is never a stale one; swaps need no clearing, and a prompt's beginning that the base model
reads serves all memories.

    reader = Reader(decoder, base=digest, chunk=256, max_bytes=2**28)
    for found in reader.read(row, generation, given):     None until the last part is read
        ...

Where the graph itself decides the route, tokens that count for it are read at once, as the last
part, behind what the base model read of the others. If an edit fires, the prompt is read again.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from memoir_edge import tophash
from memoir_edge.tophash import Routes
from memoir_edge_runtime._decoder import Decoder, Floats
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._provider import Array
from memoir_edge_runtime._state import State
from memoir_edge_runtime._tokens import Row

Kept = Mapping[str, Array]  # keys and values of a block of tokens, by input name
Read = tuple[State, Floats]  # a prompt's state, and the logits `[1, V]` behind it
_BASE = Routes(np.array([tophash.BASE]), np.zeros(1, np.float32), np.array([-1]))


class Prefixes:
    """Blocks of prompts' beginnings, the least used of which are dropped.

    Args:
        base: Digest of the base model.
        max_bytes: Most bytes that are kept; 0 keeps nothing.
        block: Tokens of a block.
    """

    def __init__(self, base: str, max_bytes: int, block: int = 32) -> None:
        self.block, self.max_bytes, self.bytes = block, max_bytes, 0
        self._base = base
        self._blocks = OrderedDict[bytes, Kept]()

    def names(self, kind: str, ids: Sequence[int]) -> list[bytes]:
        """The names of a prompt's whole blocks; each tells of all tokens up to its end."""
        told, names = hashlib.blake2b(f"{self._base}\n{kind}\n".encode(), digest_size=32), []
        for end in range(self.block, len(ids) + 1, self.block):
            told.update(np.array(ids[end - self.block : end], np.int64).tobytes())
            names.append(told.digest())
        return names

    def find(self, names: Sequence[bytes]) -> list[Kept]:
        """What is kept of a prompt from its first block on."""
        found = []
        for name in names:
            if name not in self._blocks:
                break
            found.append(self._blocks[name])
        for name in reversed(names[: len(found)]):  # the last blocks of a prompt are dropped first
            self._blocks.move_to_end(name)
        return found

    def __contains__(self, name: bytes) -> bool:
        return name in self._blocks

    def keep(self, name: bytes, block: Kept) -> None:
        """Keep a block, and drop others where there is no room for all."""
        self._blocks[name] = block
        self.bytes += _bytes(block)
        while self.bytes > self.max_bytes:
            self.bytes -= _bytes(self._blocks.popitem(last=False)[1])


def _bytes(block: Kept) -> int:
    return sum(array.nbytes for array in block.values())


class Reader:
    """Reads prompts of one graph; for one thread.

    Args:
        decoder: The graph.
        base: Digest of the base model.
        chunk: Most tokens of a part, but for those that must be read at once.
        max_bytes: Of beginnings that are kept.
        block: Tokens that are kept together.
    """

    def __init__(
        self, decoder: Decoder, *, base: str, chunk: int, max_bytes: int, block: int = 32
    ) -> None:
        self._decoder, self._chunk = decoder, chunk
        self.prefixes = Prefixes(base, max_bytes, block)
        self.found = 0  # tokens that needed no reading, so far

    def wants(self, row: Row, generation: Generation, given: Routes | None) -> bool:
        """Whether a prompt is better read by itself: it is long, or begins as one before."""
        before = _before(row, generation, given)
        names = self.prefixes.names(_kind(given or _BASE, generation), row.ids[:before])
        known = bool(names) and names[0] in self.prefixes
        return known or (before > 0 and len(row.ids) > self._chunk)

    def read(self, row: Row, generation: Generation, given: Routes | None) -> Iterator[Read | None]:
        """Read a prompt part by part: None for each part but the last.

        Args:
            row: The prompt.
            generation: What it is answered with.
            given: Its route `[1]`, or None where the graph decides.
        """
        routes, before = given or _BASE, _before(row, generation, given)
        state = self._begun(row.ids[:before], routes, generation)
        done = 0 if state is None else state.attention.shape[1]
        while done < before and len(row.ids) - done > self._chunk:
            part = Row(row.ids[done : min(done + self._chunk, before)])
            if state is None:
                state, _ = self._decoder.prefill([part], generation, routes)
            else:
                state, _ = self._decoder.extend(state, part)
            done += len(part.ids)
            yield None
        if state is None:
            read = self._decoder.prefill([row], generation, given)
        else:
            decide = given is None and generation.routes
            read = self._decoder.extend(state, _rest(row, done), decide=decide)
        fired = read[0].routes
        if given is None and done and fired.route[0] > tophash.UNDECIDED:
            yield None
            yield from self.read(row, generation, fired)  # the edit's, not the base model's
            return
        self.keep(read[0], [row])
        yield read

    def keep(self, state: State, rows: Sequence[Row]) -> None:
        """Keep what was read of whole prompts, for others that begin alike.

        Args:
            state: Behind the last token of each prompt.
            rows: The prompts, as many as the state has rows.
        """
        block, wanted = self.prefixes.block, dict[bytes, tuple[int, int]]()
        if not self.prefixes.max_bytes:
            return
        for i, row in enumerate(rows):
            kind = _kind(Routes._make(field[i : i + 1] for field in state.routes), state.generation)
            for j, name in enumerate(self.prefixes.names(kind, row.ids)):
                if name not in self.prefixes:
                    wanted.setdefault(name, (i, j * block))
        kept = self._decoder.cut(state, list(wanted.values()), block) if wanted else []
        for name, each in zip(wanted, kept, strict=True):
            self.prefixes.keep(name, each)

    def _begun(self, ids: Sequence[int], routes: Routes, generation: Generation) -> State | None:
        """What is kept of a prompt's beginning."""
        found = self.prefixes.find(self.prefixes.names(_kind(routes, generation), ids))
        self.found += len(found) * self.prefixes.block
        return self._decoder.restored(found, routes, generation) if found else None


def _before(row: Row, generation: Generation, given: Routes | None) -> int:
    """Tokens that may be read beforehand: those that do not decide the route, all but the last."""
    most = len(row.ids) - 1
    undecided = given is None and generation.routes
    return min(most, row.counted.indices(len(row.ids))[0]) if undecided else most


def _kind(routes: Routes, generation: Generation) -> str:
    """What keys and values depend on beside the base model and the tokens."""
    route = int(routes.route[0])
    return "" if route <= tophash.UNDECIDED else f"{generation.digest} {route}"


def _rest(row: Row, done: int) -> Row:
    begin, end, _ = row.counted.indices(len(row.ids))
    return Row(row.ids[done:], slice(max(0, begin - done), max(0, end - done)))
