"""The ports in a graph: what is added, what it is called, and that it changes nothing by itself."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from memoir_edge import ports, tophash
from memoir_edge_exporter import add_ports, find_site
from memoir_edge_exporter._ports import hold, obstacle, require

Build = Callable[..., onnx.ModelProto]
SITE = "model.layers.0.mlp.down_proj"
KINDS = ["MatMul", "transposed", "Gemm", "MatMulNBits", "MatMulInteger", "DynamicQuantizeMatMul"]
ADDED = {
    "memoir_edge.Route": 1, "memoir_edge.Recall": 1, "Add": 2, "CastLike": 1,
    "Shape": 3, "Expand": 1, "Neg": 1, "Constant": 4, "Slice": 1, "Cast": 1, "Less": 1, "Where": 2,
    "Concat": 1, "Reshape": 2, "Split": 1, "CumSum": 1, "Mul": 2, "ReduceSum": 1, "LessOrEqual": 1,
}  # fmt: skip


def with_ports(model: onnx.ModelProto) -> onnx.ModelProto:
    ported = onnx.ModelProto()
    ported.CopyFrom(model)
    return add_ports(ported, find_site(ported.graph, SITE))


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(f"{n.domain}.{n.op_type}".lstrip(".") for n in model.graph.node)


def signature(values) -> dict[str, tuple[int, list[str | int]]]:
    kinds = {v.name: v.type.tensor_type for v in values}
    return {
        name: (kind.elem_type, [dim.dim_param or dim.dim_value for dim in kind.shape.dim])
        for name, kind in kinds.items()
    }


def test_exactly_these_operators_are_added(made) -> None:
    before, after = (onnx.load(folder / "model.onnx") for folder in (made.base, made.out))
    assert operators(after) - operators(before) == ADDED
    assert not operators(before) - operators(after)
    assert [f.name for f in after.functions] == ["Route", "Recall"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", [18, 21, 23])
def test_the_result_is_valid(three_nodes: Build, kind: str, opset: int) -> None:
    model = three_nodes(product=kind, D=32, opset=opset)
    ported = with_ports(model)
    onnx.checker.check_model(ported, full_check=True)
    assert ported.ir_version >= 8
    assert operators(ported) - operators(model) == ADDED
    names = [node.name for node in ported.graph.node if node.name]
    assert len(names) == len(set(names))


def test_ports_have_their_names_types_and_shapes(three_nodes: Build) -> None:
    graph = with_ports(three_nodes(D=12, d=5)).graph
    inputs, outputs = signature(graph.input), signature(graph.output)
    assert list(inputs)[2:] == [*ports.MEMORY, *ports.RUN]
    assert inputs["memory.bank"] == (TensorProto.UINT8, ["memory_R", 2])
    assert inputs["memory.values"] == (TensorProto.FLOAT, ["memory_C", 5])
    assert inputs["memory.center"] == (TensorProto.FLOAT, [12])
    assert inputs["memory.route"] == (TensorProto.INT64, ["memory_B"])
    assert inputs["memory.span"] == (TensorProto.INT64, ["memory_B", "memory_T"])
    assert list(outputs)[1:] == list(ports.OUTPUTS)
    assert outputs["memory.route_out"] == (TensorProto.INT64, ["B"])
    initial = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
    for name, value in (ports.empty(12, 5) | ports.run_defaults()).items():
        np.testing.assert_array_equal(initial[name], value, strict=True)


def test_a_runtime_need_not_feed_any_port(three_nodes: Build, open_graph) -> None:
    session = open_graph(with_ports(three_nodes()))
    optional = {value.name for value in session.get_overridable_initializers()}
    assert optional == {*ports.MEMORY, *ports.RUN}
    assert {value.name for value in session.get_inputs()} == {"input_ids", "attention_mask"}


def test_required_ports_must_be_fed_and_are_otherwise_the_same(
    three_nodes: Build, open_graph, memory
) -> None:
    optional = with_ports(three_nodes())
    required = onnx.ModelProto()
    required.CopyFrom(optional)
    onnx.checker.check_model(require(required), full_check=True)
    assert signature(required.graph.input) == signature(optional.graph.input)
    session = open_graph(required)
    assert not session.get_overridable_initializers()
    with pytest.raises(ValueError, match=r"Required inputs \(\['memory\.columns'"):
        session.run(None, ids_and_mask())
    feeds = ids_and_mask() | ports.run_defaults()
    held = memory(np.arange(12)[None] < 4, 5, threshold=0)
    for found in (ports.feeds(held), ports.empty(12, 5)):
        ours, theirs = (s.run(None, feeds | found) for s in (session, open_graph(optional)))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_metadata_says_what_a_graph_lacks(three_nodes: Build, open_graph, memory) -> None:
    def said(model: onnx.ModelProto) -> dict[str, str]:
        return open_graph(model).get_modelmeta().custom_metadata_map

    bare = three_nodes()
    onnx.helper.set_model_props(bare, {"by": "another tool"})
    ported = with_ports(bare)
    assert said(ported)["by"] == "another tool"
    assert said(ported)["memoir_edge.site"] == SITE
    assert said(ported)["memoir_edge.memory"].startswith("none: without the inputs memory.*")
    held = replace(memory(np.arange(12)[None] < 4, 5), digest="ab12")
    assert said(hold(ported, held))["memoir_edge.memory"] == "ab12"


# --- Numbers, on a decoder of three nodes --------------------------------------------------------


def ids_and_mask(mask: type = np.int64) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 9, (3, 4))
    attention = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]], mask)  # one is past
    return {"input_ids": ids, "attention_mask": attention}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", [18, 23])
def test_the_empty_memory_changes_nothing(
    three_nodes: Build, open_graph, kind: str, opset: int
) -> None:
    model = three_nodes(product=kind, D=32, opset=opset)
    (before,) = open_graph(model).run(None, ids_and_mask())
    after, route, overlap, candidate = open_graph(with_ports(model)).run(None, ids_and_mask())
    np.testing.assert_array_equal(after, before)
    assert (route.tolist(), overlap.tolist(), candidate.tolist()) == ([-1] * 3, [0] * 3, [0] * 3)


@pytest.mark.parametrize("feature", tophash.FEATURES)
def test_a_memory_says_which_tokens_count_whether_fed_or_held(
    three_nodes: Build, open_graph, memory, feature: str
) -> None:
    rng = np.random.default_rng(3)
    held = replace(memory(rng.random((9, 12)).argsort(axis=1) < 4, 5), feature=feature)
    held = replace(held, thresholds=np.full(9, 0.5, np.float32))
    model = with_ports(three_nodes())
    fed, baked = open_graph(model), open_graph(hold(with_ports(three_nodes()), held))
    lengths = rng.integers(1, 8, 20)
    attention = (np.arange(7) >= 7 - lengths[:, None]).astype(np.int64)
    attention[10:] = attention[10:, ::-1]  # padding on the right, too
    feeds = {"input_ids": rng.integers(0, 9, (20, 7)), "attention_mask": attention}
    span = {"memory.span": tophash.span(feature, attention)}
    expected = fed.run(None, feeds | ports.feeds(held) | span)
    assert len(set(expected[1].tolist())) > 2  # several edits fire, and some row is the base's
    for found in (baked.run(None, feeds), fed.run(None, feeds | ports.feeds(held))):
        for ours, oracle in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, oracle)


@pytest.mark.parametrize("kind", ["MatMul", "transposed", "Gemm"])
@pytest.mark.parametrize("mask", [np.int64, np.int32])
def test_a_memory_adds_its_delta(
    three_nodes: Build, open_graph, memory, kind: str, mask: type
) -> None:
    D, d, k = 12, 5, 4
    model = three_nodes(
        product=kind, mask=TensorProto.INT64 if mask is np.int64 else TensorProto.INT32
    )
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in three_nodes().graph.initializer}
    feeds = ids_and_mask(mask)
    a = weights["embed"][feeds["input_ids"]]
    span = feeds["attention_mask"][:, 1:]
    plain = memory(np.arange(D)[None] < k, d)
    f = tophash.feature(a, span)
    masks = tophash.mask(f, plain.center, plain.scale, plain.permutation, k)
    found = memory(masks[[2, 0]], d)  # row 1's is not in it
    query = tophash.pack(masks)
    zero = np.zeros(1, np.int64)
    expected = tophash.route(query, zero, found.bank, found.owner, found.thresholds, k)
    logits, *routes = open_graph(with_ports(model)).run(None, feeds | ports.feeds(found))
    for ours, oracle in zip(routes, expected, strict=True):
        np.testing.assert_array_equal(ours, oracle)
    assert expected.route.tolist() == [2, -1, 1]
    Wm = np.zeros((D, d))
    Wm[found.columns] = found.values
    masked = np.where(masks[:, None], a, 0) * (expected.route > 0)[:, None, None]
    y = a @ weights["down"].astype(float) + masked @ Wm
    np.testing.assert_allclose(logits, y @ weights["head"], rtol=1e-4, atol=1e-4)


def test_span_overrides_where_it_is_not_negative(three_nodes: Build, open_graph, memory) -> None:
    model = three_nodes(D=64)
    session, feeds = open_graph(with_ports(model)), ids_and_mask()
    embed = onnx.numpy_helper.to_array(model.graph.initializer[0])
    plain = memory(np.arange(64)[None] < 16, 5)

    def overlaps(wanted: np.ndarray, fed: np.ndarray | None) -> np.ndarray:
        """Of each row with a memory of row 1's mask over the wanted span."""
        f = tophash.feature(embed[feeds["input_ids"]], wanted)
        masks = tophash.mask(f, plain.center, plain.scale, plain.permutation, plain.k)
        run = feeds | ports.feeds(memory(masks[[1]], 5))
        run |= {} if fed is None else {"memory.span": fed}
        return session.run(["memory.overlap"], run)[0]

    last = np.array([[0, 0, 0, 1]] * 3)
    attention = feeds["attention_mask"][:, 1:]
    assert overlaps(last, last)[1] == 1
    assert overlaps(last, last[:1])[1] == 1  # broadcast over rows
    assert overlaps(attention, None)[1] == 1
    assert overlaps(attention, np.full((3, 4), -1))[1] == 1
    mixed = np.where(np.arange(4) < 2, 0, -1)[None]  # the last two as the attention mask says
    assert overlaps(attention * [0, 0, 1, 1], mixed)[1] == 1
    assert overlaps(last, None)[1] < 1


def test_one_route_may_stand_for_all_rows(three_nodes: Build, open_graph, memory) -> None:
    session = open_graph(with_ports(three_nodes()))
    feeds = ids_and_mask() | ports.feeds(memory(np.arange(12)[None] < 4, 5))
    for route in (-1, 1):
        every = session.run(None, feeds | {"memory.route": np.full(3, route)})
        one = session.run(None, feeds | {"memory.route": np.array([route])})
        for a, b in zip(every, one, strict=True):
            np.testing.assert_array_equal(a, b)
        assert one[1].tolist() == [route] * 3
        assert one[3].tolist() == [-1] * 3


# --- Graphs that cannot take ports ---------------------------------------------------------------


def test_obstacles_are_named(three_nodes: Build) -> None:
    assert obstacle(three_nodes()) is None
    assert obstacle(with_ports(three_nodes())) == "it has memory ports already"
    assert obstacle(three_nodes(opset=17)) == "it uses opset 17, the ports need 18 or newer"
    bare = three_nodes()
    del bare.graph.input[:]
    assert obstacle(bare) == "it has no input input_ids and no input attention_mask"
