"""One step at a time: caches, padding, routes that are held, IO binding."""

import numpy as np
import onnx
import onnxruntime
import pytest

from memoir_edge import tophash
from memoir_edge.errors import GraphError
from memoir_edge_exporter._carry import carry
from memoir_edge_exporter._ports import require
from memoir_edge_runtime import Decoder, Row
from memoir_edge_runtime._cache import zeros
from memoir_edge_runtime._decoder import _required
from memoir_edge_runtime._provider import value

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def rows(session, prompts):
    return [session.prompt(p).row for p in prompts[:6]]


@pytest.fixture
def routed(session, prompts, make_memory):
    """Reaches rows 0, 2, 4 of the six."""
    return session.load(make_memory(prompts[:6:2]))


def test_cached_decoding_equals_full_recomputation(session, rows, routed):
    for generation in (session.base, routed):
        state, logits = session.decoder.prefill(rows, generation)
        grown = [list(row.ids) for row in rows]
        for _ in range(5):
            tokens = [int(t) for t in logits.argmax(-1)]
            grown = [[*ids, token] for ids, token in zip(grown, tokens, strict=True)]
            state, logits = session.decoder.step(state, tokens)
            for i, (ids, row) in enumerate(zip(grown, rows, strict=True)):
                whole = Row(tuple(ids), slice(0, len(row.ids)))
                again, full = session.decoder.prefill([whole], generation)
                assert again.routes.route == state.routes.route[i]
                np.testing.assert_allclose(logits[i], full[0], **TOLERANCE)


def test_padding_and_batch_mates_change_nothing(session, rows, routed):
    state, logits = session.decoder.prefill(rows, routed)
    assert (state.routes.route > 0).tolist() == [True, False] * 3
    for i, row in enumerate(rows):
        alone, single = session.decoder.prefill([row], routed)
        np.testing.assert_array_equal(alone.routes.route[0], state.routes.route[i])
        np.testing.assert_allclose(alone.routes.overlap[0], state.routes.overlap[i], atol=1e-6)
        np.testing.assert_allclose(single[0], logits[i], **TOLERANCE)


def test_a_route_is_held_for_every_step(session, rows, routed):
    state, _ = session.decoder.prefill(rows, routed)
    route = state.routes.route.copy()
    assert route.any()
    for token in range(5, 9):
        state, _ = session.decoder.step(state, [token] * len(rows))
        np.testing.assert_array_equal(state.routes.route, route)


def test_a_step_leaves_its_state_as_it_was(session, rows, routed):
    state, logits = session.decoder.prefill(rows, routed)
    tokens = [int(t) for t in logits.argmax(-1)]
    _, first = session.decoder.step(state, tokens)
    _, second = session.decoder.step(state, tokens)
    np.testing.assert_array_equal(first, second)


def test_rows_taken_from_a_batch_go_on_as_before(session, rows, routed):
    state, logits = session.decoder.prefill(rows, routed)
    tokens = [int(t) for t in logits.argmax(-1)]
    _, expected = session.decoder.step(state, tokens)
    shortest = sorted(range(6), key=lambda i: len(rows[i].ids))[:2]
    some = session.decoder.take(state, shortest)
    assert some.attention.shape == (2, max(len(rows[i].ids) for i in shortest))
    assert next(iter(some.cache.values())).shape()[2] == some.attention.shape[1]
    after, found = session.decoder.step(some, [tokens[i] for i in shortest])
    np.testing.assert_allclose(found, expected[shortest], **TOLERANCE)
    np.testing.assert_array_equal(after.routes.route, state.routes.route[shortest])


def test_base_route_equals_empty_memory_bit_for_bit(session, rows, routed):
    graph = session.decoder._graph
    ids, attention = np.array([rows[1].ids]), np.ones((1, len(rows[1].ids)), np.int64)
    feeds = {
        "input_ids": ids,
        "attention_mask": attention,
        "position_ids": np.arange(ids.size)[None],
    }
    for cached in session.decoder._cached:
        feeds[cached.past] = cached.empty(1, "cpu").numpy()
    empty = graph.run(["logits", "memory.route_out"], feeds)
    memory = {name: fed.numpy() for name, fed in routed.feeds.items()}
    bypassed = graph.run(["logits"], feeds | memory | {"memory.route": np.array([tophash.BASE])})
    decided = graph.run(["logits", "memory.route_out"], feeds | memory)
    _, ours = session.decoder.prefill([rows[1]], session.base)
    assert empty[1] == decided[1] == tophash.BASE
    assert np.array_equal(empty[0], bypassed[0])
    assert np.array_equal(empty[0], decided[0])
    assert np.array_equal(empty[0][:, -1], ours)


def test_io_binding_gives_the_same_bits(session, rows, routed):
    bound = Decoder(session.decoder._graph, bind=True)
    fed_state, fed = session.decoder.prefill(rows, routed)
    bound_state, found = bound.prefill(rows, routed)
    for _ in range(3):
        np.testing.assert_array_equal(fed, found)
        tokens = [int(t) for t in fed.argmax(-1)]
        fed_state, fed = session.decoder.step(fed_state, tokens)
        bound_state, found = bound.step(bound_state, tokens)
    np.testing.assert_array_equal(fed_state.routes.route, bound_state.routes.route)


def test_only_counted_tokens_route(session, rows, routed, oracle):
    [row] = [r for r in rows if len(r.ids) == max(len(r.ids) for r in rows)][:1]
    part = Row(row.ids, slice(2, 5))
    state, _ = session.decoder.prefill([part, rows[0]], routed)
    seen = []
    handle = oracle.site.register_forward_hook(lambda m, given, y: seen.append(given[0]))
    oracle.logits(row.ids)
    handle.remove()
    memory = routed.memory
    f = seen[0].numpy()[:, 2:5].mean(axis=1)
    mask = tophash.pack(tophash.mask(f, memory.center, memory.scale, memory.permutation, memory.k))
    best = tophash.overlap(mask, memory.bank, memory.k).max()
    assert state.routes.overlap[0] == pytest.approx(best, abs=1e-6)


def opened(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize("bind", [False, True])
@pytest.mark.parametrize("kind", ["required", "recurrent", "cache"])
def test_every_kind_of_ports_gives_what_optional_ones_give(
    session, export_dir, rows, routed, kind, bind
):
    model = onnx.load(export_dir / "model.onnx")
    model = require(model) if kind == "required" else carry(model, kind)
    decoder = Decoder(opened(model), bind=bind)
    for generation in (session.base, routed):
        state, expected = session.decoder.prefill(rows, generation)
        ours, logits = decoder.prefill(rows, generation)
        for _ in range(3):
            np.testing.assert_array_equal(logits, expected)
            np.testing.assert_array_equal(ours.routes.route, state.routes.route)
            tokens = [int(t) for t in logits.argmax(-1)]
            state, expected = session.decoder.step(state, tokens)
            ours, logits = decoder.step(ours, tokens)
        ours = decoder.take(ours, [4, 1])
        state = session.decoder.take(state, [4, 1])
        for theirs, found in zip(
            session.decoder.step(state, [5, 6]), decoder.step(ours, [5, 6]), strict=True
        ):
            if isinstance(found, np.ndarray):
                np.testing.assert_array_equal(found, theirs)


def test_a_graph_of_an_earlier_version_takes_memories(export_dir, rows, session, routed):
    model = onnx.load(export_dir / "model.onnx")
    [at] = [i for i, value in enumerate(model.graph.input) if value.name == "memory.feature"]
    del model.graph.input[at]  # what it was made of stays, as a constant
    decoder = Decoder(opened(model))
    state, logits = decoder.prefill(rows, routed)
    again, expected = session.decoder.prefill(rows, routed)
    np.testing.assert_array_equal(state.routes.route, again.routes.route)
    np.testing.assert_array_equal(logits, expected)


class FakeArgument:
    def __init__(self, name, type="tensor(int64)", shape=("b", "t")):
        self.name, self.type, self.shape = name, type, shape


class FakeGraph:
    """A graph of given inputs and outputs; ports are added unless told otherwise."""

    def __init__(self, inputs, outputs, ports=True):
        from memoir_edge import ports as p

        named = [*p.MEMORY, *p.RUN] if ports else []
        self._inputs = inputs
        self._optional = [FakeArgument(n) for n in named]
        self._outputs = [FakeArgument(n) for n in [*outputs, *(p.OUTPUTS if ports else [])]]

    def get_inputs(self):
        return self._inputs

    def get_outputs(self):
        return self._outputs

    def get_overridable_initializers(self):
        return self._optional

    def get_providers(self):
        return ["CPUExecutionProvider"]


@pytest.mark.parametrize("shape", [(2, 3, 5), (1,), (0, 4), (3, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_cache_begins_as_zeros_that_can_be_written(shape, dtype):
    array = zeros(shape, dtype)
    np.testing.assert_array_equal(array, np.zeros(shape, dtype), strict=True)
    array[...] = 3
    held = value(array)  # what onnxruntime reads
    array[...] = 4
    del array
    np.testing.assert_array_equal(held.numpy(), np.full(shape, 4, dtype), strict=True)


def test_only_ports_that_a_graph_has_are_fed():
    """One of an earlier version has no `memory.tile` to be fed."""
    shapes = {"memory.center": [8], "memory.values": ["C", 4], "memory.k": [1]}
    required = [FakeArgument(name, shape=shape) for name, shape in shapes.items()]
    assert _required(FakeGraph(required, [])).keys() == shapes.keys()
    assert _required(FakeGraph([], [])) == {}


KEY = FakeArgument("past_key_values.0.key", "tensor(float)", ["b", 2, "past", 8])
IDS = [FakeArgument("input_ids"), FakeArgument("attention_mask")]


def test_a_graph_without_ports_is_refused():
    with pytest.raises(GraphError, match=r"lacks memory\.columns"):
        Decoder(FakeGraph([*IDS, KEY], ["logits", "present.0.key"], ports=False))


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ([*IDS], ["logits"], "0 past_key_values"),
        ([*IDS, KEY], ["logits"], "present.0.key"),
        ([IDS[0], KEY], ["logits", "present.0.key"], "attention_mask"),
        ([*IDS, KEY, FakeArgument("pixels")], ["logits", "present.0.key"], "pixels"),
    ],
)
def test_a_graph_that_is_no_decoder_is_refused(inputs, outputs, said):
    with pytest.raises(GraphError, match=said):
        Decoder(FakeGraph(inputs, outputs))


@pytest.mark.parametrize("type_", ["tensor(bfloat16)", "tensor(int8)"])
def test_a_cache_of_an_unknown_type_is_refused(type_):
    key = FakeArgument(KEY.name, type_, KEY.shape)
    with pytest.raises(GraphError, match="expected float or float16"):
        Decoder(FakeGraph([*IDS, key], ["logits", "present.0.key"]))
