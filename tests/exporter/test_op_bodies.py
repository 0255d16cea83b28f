"""The function bodies against the numpy oracle, each alone in a model of one node."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from memoir_edge import ports, tophash
from memoir_edge_exporter._bodies import MIN_OPSET, VERSION, bodies

ROUTE = ("a", "span", "route", "bank", "owner", "thresholds", "center", "scale", "permutation", "k")
RECALL = ("a", "route_out", "bank", "columns", "values")
GIVES = {"Route": ("route_out", "overlap", "candidate"), "Recall": ("delta",)}
F, I64, I32, U8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8
TYPES = {
    "a": (F, 3), "span": (I64, 2), "route": (I64, 1), "bank": (U8, 2), "owner": (I32, 1),
    "thresholds": (F, 1), "center": (F, 1), "scale": (F, 1), "permutation": (I32, 1), "k": (I64, 1),
    "route_out": (I64, 1), "columns": (I32, 1), "values": (F, 2),
    "overlap": (F, 1), "candidate": (I64, 1), "delta": (F, 3),
}  # fmt: skip


def one_node(op: str, *, a: int = F, opset: int = MIN_OPSET) -> onnx.ModelProto:
    def declare(name: str) -> onnx.ValueInfoProto:
        kind, rank = TYPES[name]
        shape = [f"{name}_{axis}" for axis in range(rank)]
        return helper.make_tensor_value_info(name, a if name == "a" else kind, shape)

    inputs = {"Route": ROUTE, "Recall": RECALL}[op]
    node = helper.make_node(op, inputs, GIVES[op], domain=ports.DOMAIN)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(ports.DOMAIN, VERSION)]
    graph = helper.make_graph([node], op, [*map(declare, inputs)], [*map(declare, GIVES[op])])
    return helper.make_model(graph, functions=bodies(opset), opset_imports=imports, ir_version=10)


@cache
def runner(op: str, a: int = F) -> Callable[..., list[np.ndarray]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # a refused run is reported by its exception
    model = one_node(op, a=a).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda **feeds: session.run(None, feeds)


@pytest.mark.parametrize("op", ["Route", "Recall"])
@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
def test_a_body_is_valid_onnx_in_every_opset(op: str, opset: int) -> None:
    onnx.checker.check_model(one_node(op, opset=opset), full_check=True)


def test_bodies_are_the_same_bytes_every_time() -> None:
    first, second = bodies(), bodies()
    assert [f.SerializeToString() for f in first] == [f.SerializeToString() for f in second]
    assert [(f.name, tuple(f.input), tuple(f.output)) for f in first] == [
        ("Route", ROUTE, GIVES["Route"]),
        ("Recall", RECALL, GIVES["Recall"]),
    ]


# --- Route ---------------------------------------------------------------------------------------


@dataclass
class Case:
    """Arguments of Route whose arithmetic is exact, so that equal magnitudes are really equal."""

    feeds: dict[str, np.ndarray]

    def expected(self) -> tophash.Routes:
        f = self.feeds
        k = int(f["k"][0])
        feature = tophash.feature(f["a"], f["span"])
        mask = tophash.mask(feature, f["center"], f["scale"], f["permutation"], k)
        query = tophash.pack(mask)
        return tophash.route(query, f["route"], f["bank"], f["owner"], f["thresholds"], k)


@st.composite
def cases(draw: st.DrawFn, dtype: type = np.float32) -> Case:
    B, T = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    D, R = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    k = draw(st.integers(1, D))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = draw(st.integers(1, 8))  # few values make many ties
    a = (rng.integers(-coarse, coarse + 1, (B, T, D)) / 8).astype(dtype)
    span = rng.integers(0, 2, (B, T))
    a[rng.random((B, T)) < 0.1] = np.nan if draw(st.booleans()) else 1
    span[np.isnan(a).any(axis=2)] = 0  # padding may hold anything
    center = (rng.integers(-2, 3, D) / 8).astype(np.float32)
    scale = rng.choice(np.float32([1, 1, 0.5, 2, -1]), D)
    permutation = rng.permutation(D).astype(np.int32)
    bits = rng.random((R, D)).argsort(axis=1) < k
    asked = tophash.mask(tophash.feature(a, span), center, scale, permutation, k)
    for row in range(R):  # some keys are a row's own mask, or copies of one another
        if rng.random() < 0.4:
            bits[row] = asked[rng.integers(B)]
    levels = np.arange(k + 2, dtype=np.float32) / np.float32(k)  # thresholds met exactly
    owner = np.where(rng.random(R) < 0.3, -1, rng.integers(0, R, R)).astype(np.int32)
    route = rng.choice([0, 0, 0, -1, 1, R], B)
    return Case({
        "a": a, "span": span, "route": route, "bank": tophash.pack(bits), "owner": owner,
        "thresholds": rng.choice(levels, R if draw(st.booleans()) else 1),
        "center": center, "scale": scale, "permutation": permutation, "k": np.array([k]),
    })  # fmt: skip


def check(case: Case, a: int) -> None:
    got, expected = runner("Route", a)(**case.feeds), case.expected()
    for name, ours, oracle in zip(GIVES["Route"], got, expected, strict=True):
        np.testing.assert_array_equal(ours, oracle, err_msg=name)


@settings(deadline=None, max_examples=150)
@given(cases())
def test_route_is_the_oracle(case: Case) -> None:
    check(case, F)


@settings(deadline=None, max_examples=40)
@given(cases(np.float16))
def test_route_of_float16_activations_is_the_oracle(case: Case) -> None:
    check(case, TensorProto.FLOAT16)


def test_route_of_real_activations_is_the_oracle() -> None:
    rng = np.random.default_rng(1)
    B, T, D, R, k = 4, 7, 501, 300, 143
    permutation = rng.permutation(D).astype(np.int32)
    center = rng.normal(size=D).astype(np.float32)
    a = rng.normal(size=(B, T, D)).astype(np.float32)
    span = np.tril(np.ones((B, T), np.int64))
    bits = rng.random((R, D)).argsort(axis=1) < k
    asked = tophash.mask(tophash.feature(a, span), center, np.ones(D, np.float32), permutation, k)
    bits[[17, 170]] = asked[1]
    case = Case({
        "a": a, "span": span, "route": np.zeros(B, np.int64), "bank": tophash.pack(bits),
        "owner": np.arange(R, dtype=np.int32), "thresholds": np.full(R, 0.9, np.float32),
        "center": center, "scale": np.ones(D, np.float32), "permutation": permutation,
        "k": np.array([k]),
    })  # fmt: skip
    check(case, F)
    route, overlap, candidate = runner("Route")(**case.feeds)
    assert (route[1], overlap[1], candidate[1]) == (171, 1, 170)  # the newest of two equals
    assert (route[[0, 2, 3]] == -1).all()
    assert 0.2 < overlap[0] < 0.5  # reported below the threshold too


# --- Recall --------------------------------------------------------------------------------------


def recall(dtype: type, a, route_out, bank, columns, values) -> np.ndarray:
    """Wm (M * a) in plain numpy, in one precision."""
    D, d = a.shape[2], values.shape[1]
    Wm = np.zeros((D, d), dtype)
    Wm[columns] = values
    delta = np.zeros((*a.shape[:2], d), dtype)
    for row in np.flatnonzero(route_out > 0):
        mask = tophash.unpack(bank[route_out[row] - 1], D)
        delta[row] = np.where(mask, a[row], 0).astype(dtype) @ Wm
    return delta


def recall_case(rng: np.random.Generator, B=3, T=4, D=20, R=5, C=9, d=6, exact=True) -> dict:
    def draw(*shape: int) -> np.ndarray:
        numbers = rng.integers(-8, 9, shape) / 8 if exact else rng.normal(size=shape)
        return numbers.astype(np.float32)

    return {
        "a": draw(B, T, D), "route_out": rng.integers(-1, R + 1, B),
        "bank": tophash.pack(rng.random((R, D)) < 0.3),
        "columns": np.sort(rng.permutation(D)[:C]).astype(np.int32), "values": draw(C, d),
    }  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_recall_is_the_plain_product(data: st.DataObject) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    D = draw(1, 40)
    sizes = {
        "B": draw(1, 4),
        "T": draw(1, 5),
        "D": D,
        "R": draw(1, 9),
        "C": draw(1, D),
        "d": draw(1, 9),
    }
    case = recall_case(np.random.default_rng(draw(0, 2**32 - 1)), **sizes)
    (delta,) = runner("Recall")(**case)
    np.testing.assert_array_equal(delta, recall(np.float64, **case))  # dyadic, so exact


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_recall_is_as_good_as_its_precision(dtype: type) -> None:
    case = recall_case(np.random.default_rng(2), B=4, T=6, D=600, R=7, C=400, d=50, exact=False)
    case["route_out"] = np.array([3, -1, 7, 1])
    case["a"] = case["a"].astype(dtype)
    (delta,) = runner("Recall", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))(**case)
    truth = recall(np.float64, **case)
    unavoidable = abs(recall(dtype, **case) - truth).max()
    error = abs(delta.astype(dtype) - truth).max()
    print(f"{dtype.__name__}: error {error:.3g}, of the precision itself {unavoidable:.3g}")
    assert error <= 2 * unavoidable


def test_a_row_that_is_not_routed_gets_exactly_nothing() -> None:
    case = recall_case(np.random.default_rng(3))
    case["route_out"] = np.array([-1, 2, 0])
    case["a"][[0, 2]] = np.inf
    case["a"][1][:, ~tophash.unpack(case["bank"][1], 20)] = np.nan  # nor what the mask hides
    (delta,) = runner("Recall")(**case)
    assert (delta[[0, 2]] == 0).all()
    assert np.isfinite(delta).all()
    assert delta[1].any()
    case["route_out"] = np.array([-1, -1, 0])
    assert not runner("Recall")(**case)[0].any()


def test_a_route_beyond_the_bank_is_refused() -> None:
    case = recall_case(np.random.default_rng(4), R=5)
    case["route_out"] = np.array([1, 6, -1])
    with pytest.raises(Exception, match="out of data bounds"):
        runner("Recall")(**case)
