"""The exported graph, one step at a time: token ids in, logits and a new state out.

Knows nothing of text, of how tokens are chosen, or of when a row ends: any loop can be built on it.

    state, logits = decoder.prefill(rows, generation)      logits [B, V] of each row's next token
    state, logits = decoder.step(state, tokens)            as often as wanted
    state = decoder.take(state, [0, 2])                    rows 0 and 2 go on, the rest is dropped
    state = decoder.join([(state, [0]), (other, [1])])     rows of several states, as one

Each row's route is decided by its prompt, in prefill, and held by the state from then on. Keys and
values stay where the graph left them and are handed back to it as they are.

Where an encoder reads the prompts (an encoder-decoder), prefill asks it, and its keys and values
stay with the state; rows then begin with the decoder's start token.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from memoir_edge import ports, tophash
from memoir_edge.errors import GraphError, first_line
from memoir_edge.memory import Memory
from memoir_edge_runtime._cache import DTYPES, PAST, PRESENT, cached
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._provider import Array, OrtValue, device, value
from memoir_edge_runtime._source import MASK, Encoder, Ints, Source
from memoir_edge_runtime._state import Layout, State, positions
from memoir_edge_runtime._tokens import Row

Floats = npt.NDArray[np.float32]
Fed = TypeVar("Fed")

_STATE = "_state"
# Exports of earlier versions lack these: the span is always fed, and Wm is one tile.
_LATER = {"memory.feature", "memory.tile"}
_FED = {"input_ids", "attention_mask", "position_ids"}
_TOLD = ("logits", *ports.OUTPUTS)


class Decoder:
    """A graph with ports on an ONNX Runtime session; safe to use from several threads.

    Args:
        graph: The InferenceSession.
        encoder: What reads the prompts of an encoder-decoder.
        bind: Use IO binding; by default on every device but the CPU. (Binding ignores adapters, so
            the memory's tensors are always fed by name.)
        padding_side: "left" or "right", as `memoir_edge.json` says.

    Raises:
        GraphError: The graph has no ports, or is no decoder with a cache.
    """

    def __init__(
        self,
        graph: Any,
        encoder: Encoder | None = None,
        *,
        bind: bool | None = None,
        padding_side: str = "left",
    ) -> None:
        self.device = device(graph)
        self._encoder = encoder
        self._of_encoder = {MASK, *encoder.gives} if encoder else set[str]()
        self._graph = graph
        self._bind = self.device != "cpu" if bind is None else bind
        self._types = {i.name: i.type for i in graph.get_inputs()}
        self._takes = self._types.keys() | {i.name for i in graph.get_overridable_initializers()}
        self._check()
        past = [i for i in graph.get_inputs() if i.name.startswith(PAST)]
        past = [i for i in past if i.name not in self._of_encoder]
        self._cached = [cached(i) for i in past if not i.name.endswith(_STATE)]
        self._layout = Layout(self._cached, self.device, padding_side)
        # The route is fed with every run, so what a graph would carry of it may stay undecided.
        self._states = [i for i in past if i.name.endswith(_STATE)]
        self._required = _required(graph)
        self._outputs = [*_TOLD, *(c.present for c in self._cached)]
        self._outputs += [o.name for o in graph.get_outputs() if o.name == ports.SITE_INPUT]

    def prefill(
        self, rows: Sequence[Row], generation: Generation, given: tophash.Routes | None = None
    ) -> tuple[State, Floats]:
        """Read the prompts and decide their routes.

        Args:
            rows: B prompts, each at least one token.
            generation: The memory to route with; the state keeps it.
            given: What `generation.decide` says of the prompts.

        Returns:
            The state, and logits `[B, V]` of the tokens to come.
        """
        state, logits = self._read(rows, generation, given)
        T = logits.shape[1]
        last = [self._layout.place(len(row.ids), T).stop - 1 for row in rows]
        # A copy frees the other positions' logits.
        return state, logits[np.arange(len(rows)), last].astype(np.float32)

    def read(
        self, rows: Sequence[Row], generation: Generation, given: tophash.Routes | None = None
    ) -> tuple[State, Array]:
        """As `prefill`, with the logits of every position: `[B, T, V]`, rows ending together."""
        state, logits = self._read(rows, generation, given)
        T = logits.shape[1]
        ends = [self._layout.place(len(row.ids), T).stop for row in rows]
        if min(ends) < T:
            logits = np.stack(
                [np.roll(row, -end, axis=0) for row, end in zip(logits, ends, strict=True)]
            )
        return state, logits

    def site_input(self, row: Row) -> Floats:
        """What the site reads of a prompt, `[T, D]`; the graph must have it as an output."""
        ids, attention, _ = self._layout.padded([row])
        source = self._source([row])
        feeds = self._begun(1, source)
        outputs = self._run(feeds, ids, attention, {"memory.route": np.full(1, tophash.BASE)})
        read: Floats = outputs[ports.SITE_INPUT].numpy()[0].astype(np.float32)
        return read

    def _read(
        self, rows: Sequence[Row], generation: Generation, given: tophash.Routes | None
    ) -> tuple[State, Array]:
        """As `read`, with the rows where they are padded."""
        ids, attention, counted = self._layout.padded(rows)
        source = self._source(rows)
        feeds = self._begun(len(rows), source)
        if given is not None:
            run = {"memory.route": given.route}
        elif generation.memory is not None and generation.routes:
            run = _undecided(generation.memory, counted)
        else:
            # A fed base route saves the graph the routing. With the empty memory it would hash
            # every prompt only to find nothing.
            run = {"memory.route": np.full(len(rows), tophash.BASE)}
        if (run["memory.route"] >= tophash.UNDECIDED).any():
            feeds |= generation.feeds
        outputs = self._run(feeds, ids, attention, run)
        routes = _decided(outputs) if given is None else given
        state = self._state(outputs, attention, routes, generation, source)
        return state, outputs["logits"].numpy()

    def _source(self, rows: Sequence[Row]) -> Source | None:
        return self._encoder.read([row.source for row in rows]) if self._encoder else None

    def _begun(self, B: int, source: Source | None) -> dict[str, OrtValue]:
        """What is fed of B rows before any token: empty caches, and what an encoder read."""
        empty = {c.past: c.empty(B, self.device) for c in self._cached}
        return empty | (source.feeds if source else {})

    def step(self, state: State, tokens: Sequence[int]) -> tuple[State, Floats]:
        """Append one token to each row.

        Args:
            state: As the last call returned it; it is left as it is.
            tokens: B ids.

        Returns:
            The new state, and logits `[B, V]` of the tokens to come.
        """
        ids = np.array(tokens, np.int64)[:, None]
        if self._layout.shares:
            attention = self._layout.attention([int(n) + 1 for n in state.attention.sum(axis=1)])
            return self._step_in_place(state, ids, attention)
        attention = np.concatenate([state.attention, np.ones_like(ids)], axis=1)
        outputs = self._run(self._lasting(state), ids, attention)
        new = self._state(outputs, attention, state.routes, state.generation, state.source)
        return new, outputs["logits"].numpy()[:, -1].astype(np.float32, copy=False)

    def _step_in_place(self, state: State, ids: Ints, attention: Ints) -> tuple[State, Floats]:
        """A step of a graph that writes into its cache."""
        if state.room is None or not state.room.takes(attention.shape[1], after=state.attention):
            state = self.take(state, range(len(ids)))
        room = state.room
        assert room is not None
        room.last = attention
        new = replace(state, attention=attention)
        fed = self._fed(ids, attention)
        with _worded(ids):
            logits = room.run(self._graph, partial(self._lasting, new), fed, self._cached)
        return new, logits.numpy()[:, -1].astype(np.float32, copy=False)

    def _lasting(self, state: State) -> dict[str, OrtValue]:
        """What a state is fed with that is the same at every step, and its cache."""
        feeds = {**self._required, **state.cache, **(state.source.feeds if state.source else {})}
        feeds["memory.route"] = value(state.routes.route)
        if (state.routes.route > tophash.UNDECIDED).any():
            feeds |= state.generation.feeds  # no row reads the memory otherwise
        return self._taken(feeds)

    def extend(self, state: State, row: Row, *, decide: bool = False) -> tuple[State, Floats]:
        """Read more of one prompt behind what was read of it.

        Args:
            state: Of one row, without padding; it is left as it is.
            row: The tokens to read, at least one, and which of them count for routing.
            decide: Decide the route on these tokens, and not hold the state's.

        Returns:
            The new state, and logits `[1, V]` of the token to come.
        """
        ids, counted = np.array([row.ids], np.int64), np.zeros((1, len(row.ids)), np.int64)
        counted[0, row.counted] = 1
        attention = np.concatenate([state.attention, np.ones_like(ids)], axis=1)
        generation, run = state.generation, {"memory.route": state.routes.route}
        if decide:
            assert generation.memory is not None
            run = _undecided(generation.memory, counted)
        feeds = dict(state.cache)
        if (run["memory.route"] >= tophash.UNDECIDED).any():
            feeds |= generation.feeds
        outputs = self._run(feeds, ids, attention, run)
        routes = _decided(outputs) if decide else state.routes
        new = self._state(outputs, attention, routes, generation)
        return new, outputs["logits"].numpy()[:, -1].astype(np.float32, copy=False)

    def cut(
        self, state: State, places: Sequence[tuple[int, int]], tokens: int
    ) -> list[dict[str, Array]]:
        """Copies of keys and values, by input name: so many tokens of a row from its nth token on.

        Args:
            state: Whose.
            places: Rows, and the tokens of each to begin with, counted from its first.
            tokens: How many.

        Returns:
            For each place arrays with the axis of tokens first, as `restored` takes them.
        """
        found: list[dict[str, Array]] = [{} for _ in places]
        first = state.attention.argmax(axis=1)
        for c in self._cached:
            past = state.cache[c.past].numpy()
            for out, (i, begin) in zip(found, places, strict=True):
                own = c.by_token(past[i])[first[i] + begin :]
                out[c.past] = own[:tokens].copy()
        return found

    def restored(
        self,
        parts: Sequence[Mapping[str, Array]],
        routes: tophash.Routes,
        generation: Generation,
    ) -> State:
        """A state of one row from what was cut of others, in order."""
        cache = {
            c.past: value(
                np.moveaxis(np.concatenate([part[c.past] for part in parts]), 0, c.axis - 1)[None],
                self.device,
            )
            for c in self._cached
        }
        tokens = sum(len(next(iter(part.values()))) for part in parts)
        return State(cache, np.ones((1, tokens), np.int64), routes, generation)

    def take(self, state: State, rows: Sequence[int]) -> State:
        """Some rows of a state, in the order given; padding that no row needs is dropped."""
        return self.join([(state, rows)])

    def join(
        self, parts: Sequence[tuple[State, Sequence[int]]], *, into: State | None = None
    ) -> State:
        """Some rows of several states of one generation as one state, in the order given.

        Args:
            parts: States, and which of their rows.
            into: One of them that is used up: on a CPU, where its cache has room for all rows, they
                are written into it, and those of its own that keep their places stay as they are.

        Returns:
            The new state. Padding that no row needs is dropped, unless it was written into one, or
            the rows are not `movable`: they must be of one state then.
        """
        rows = [(state, i) for state, kept in parts for i in kept]
        width = None if self.movable else parts[0][0].attention.shape[1]
        cache, attention, room = self._layout.join(rows, width=width, into=into)
        parted = [[field[list(kept)] for field in state.routes] for state, kept in parts]
        routes = tophash.Routes._make(map(np.concatenate, zip(*parted, strict=True)))
        source = self._joined_source(parts)
        return State(cache, attention, routes, parts[0][0].generation, room, source)

    @property
    def in_place(self) -> bool:
        """Whether rows join and leave a batch without a copy of the others."""
        return self._layout.in_place

    @property
    def movable(self) -> bool:
        """Whether what was read of a row can go on with other padding, among other rows.

        A graph that is told no positions counts columns of its cache, and has turned its keys by
        them. (T5 turns none, and fused attention counts each row's own tokens.)
        """
        return "position_ids" in self._takes or self._layout.shares or self._encoder is not None

    def _joined_source(self, parts: Sequence[tuple[State, Sequence[int]]]) -> Source | None:
        if self._encoder is None:
            return None
        read = [(state.source, kept) for state, kept in parts if state.source is not None]
        return self._encoder.join(read)

    def _state(
        self,
        outputs: Mapping[str, OrtValue],
        attention: Ints,
        routes: tophash.Routes,
        generation: Generation,
        source: Source | None = None,
    ) -> State:
        cache = {c.past: outputs[c.present] for c in self._cached}
        return State(cache, attention, routes, generation, source=source)

    def _run(
        self,
        feeds: Mapping[str, OrtValue],
        ids: Ints,
        attention: Ints,
        run: Mapping[str, Array] = MappingProxyType({}),
    ) -> dict[str, OrtValue]:
        fed = {name: value(array) for name, array in self._fed(ids, attention, run).items()}
        feeds = self._taken({**self._required, **feeds, **fed})
        with _worded(ids):
            values = self._run_bound(feeds) if self._bind else self._run_fed(feeds)
        return dict(zip(self._outputs, values, strict=True))

    def _fed(
        self, ids: Ints, attention: Ints, run: Mapping[str, Array] = MappingProxyType({})
    ) -> dict[str, Array]:
        """What differs from run to run, as far as the graph takes it."""
        fed: dict[str, Array] = {"input_ids": ids, "attention_mask": attention, **run}
        if "position_ids" in self._takes:
            fed["position_ids"] = positions(attention, ids.shape[1])
        for state in self._states:
            fed[state.name] = np.zeros([len(ids), *state.shape[1:]], np.int64)
        dtypes = {name: DTYPES[self._types.get(name, "tensor(int64)")] for name in fed}
        return {n: np.ascontiguousarray(a, dtypes[n]) for n, a in self._taken(fed).items()}

    def _taken(self, feeds: Mapping[str, Fed]) -> dict[str, Fed]:
        """What the graph takes of them."""
        return {name: fed for name, fed in feeds.items() if name in self._takes}

    def _run_fed(self, feeds: Mapping[str, OrtValue]) -> list[OrtValue]:
        return list(self._graph.run_with_ort_values(self._outputs, feeds))

    def _run_bound(self, feeds: Mapping[str, OrtValue]) -> list[OrtValue]:
        binding = self._graph.io_binding()
        for name, fed in feeds.items():
            binding.bind_ortvalue_input(name, fed)
        for name in self._outputs:  # the cache stays on the device; the host reads the rest
            binding.bind_output(name, self.device if name.startswith(PRESENT) else "cpu")
        self._graph.run_with_iobinding(binding)
        return list(binding.get_outputs())

    @property
    def tiled(self) -> bool:
        """Whether the graph takes a memory of several tiles."""
        return "memory.tile" in self._takes

    def _check(self) -> None:
        outputs = {o.name for o in self._graph.get_outputs()}
        wanted = [n for n in (*ports.MEMORY, *ports.RUN) if n not in _LATER]
        missing = [n for n in wanted if n not in self._takes]
        missing += [n for n in ports.OUTPUTS if n not in outputs]
        if missing:
            raise GraphError(
                f"the graph cannot take a memory: it lacks {', '.join(missing)}",
                hint="export the model again: memoir-edge export --model MODEL --out DIR",
            )
        past = {n for n in self._types if n.startswith(PAST)} - self._of_encoder
        absent = {"input_ids", "attention_mask"} - set(self._types)
        absent |= {"logits", *(n.replace(PAST, PRESENT, 1) for n in past)} - outputs
        strange = set(self._types) - past - self._of_encoder
        strange -= {*_FED, *ports.MEMORY, *ports.RUN}
        if absent or strange or not past:
            raise GraphError(
                "the graph is no decoder with a cache that this runtime knows: it lacks "
                f"{sorted(absent) or 'nothing'} and has {len(past)} {PAST}* and {sorted(strange)}",
                hint="export it with the task text-generation-with-past",
            )


def _undecided(memory: Memory, counted: Ints) -> dict[str, Ints]:
    """What lets the graph decide the routes of prompts, whose counted tokens are `[B, T]`."""
    return {
        "memory.route": np.full(len(counted), tophash.UNDECIDED),
        "memory.span": tophash.span(memory.feature, counted),
    }


def _decided(outputs: Mapping[str, OrtValue]) -> tophash.Routes:
    """The routes that the graph decided."""
    return tophash.Routes._make(outputs[name].numpy().copy() for name in ports.OUTPUTS)


@contextmanager
def _worded(ids: Ints) -> Iterator[None]:
    """Word what ONNX Runtime says of a run that fails; its errors share no base class."""
    try:
        yield
    except Exception as error:
        raise GraphError(
            f"the graph failed on a batch of {ids.shape[0]} by {ids.shape[1]} tokens: "
            f"{first_line(error)}",
            hint="export the model again; if that does not help, try another --dtype",
        ) from error


def _required(graph: Any) -> dict[str, OrtValue]:
    """What is fed to ports that must be fed, where no memory is: the empty one."""
    shapes = {i.name: i.shape for i in graph.get_inputs()}
    if not shapes.keys() & ports.MEMORY.keys():
        return {}
    [D], [_, d] = shapes["memory.center"], shapes["memory.values"]
    held = ports.empty(D, d) | ports.run_defaults()
    return {name: value(array) for name, array in held.items() if name in shapes}
