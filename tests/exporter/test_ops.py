"""Both ops against the numpy oracle, as function bodies and natively, in a model of one node."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from memoir_edge import ports, tophash
from memoir_edge_exporter._bodies import MIN_OPSET, VERSION, bodies
from memoir_edge_runtime import _ops

OPS = Path(__file__).parents[2] / "runtime" / "ops"
ROUTE = ("a", "span", "route", "bank", "owner", "thresholds", "center", "scale", "permutation", "k")
RECALL = ("a", "route_out", "bank", "columns", "values", "tile")
GIVES = {"Route": ("route_out", "overlap", "candidate"), "Recall": ("delta",)}
F, I64, I32, U8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8
TYPES = {
    "a": (F, 3), "span": (I64, 2), "route": (I64, 1), "bank": (U8, 2), "owner": (I32, 1),
    "thresholds": (F, 1), "center": (F, 1), "scale": (F, 1), "permutation": (I32, 1), "k": (I64, 1),
    "route_out": (I64, 1), "columns": (I32, 1), "values": (F, 2), "tile": (I32, 1),
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


BODIES, CUDA = "bodies", "cuda"  # the latter emulated
KERNELS = ("baseline", "avx2", "avx512")
each = pytest.mark.parametrize("by", [BODIES, *KERNELS, pytest.param(CUDA, marks=pytest.mark.slow)])
refusing = pytest.mark.parametrize("by", [BODIES, *KERNELS])
natively = pytest.mark.parametrize("by", KERNELS)


@cache
def opened(op: str, a: int, library: Path | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if library is None else 2
    options.log_severity_level = 4  # a refused run is reported by its exception
    if library is not None:
        options.register_custom_ops_library(str(library))
    model = one_node(op, a=a).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def library_of(by: str) -> Path | None:
    if by == BODIES:
        return None
    if by == CUDA:
        return emulated()
    if _ops.library("cpu") is None:
        pytest.skip("the native ops were not built: python runtime/hatch_build.py")
    if _ops.kernels(by) is None:
        pytest.skip(f"this machine cannot run {by}")
    return _ops.library("cpu")


@cache
def emulated() -> Path:
    """The CUDA kernels, compiled for the CPU: see runtime/ops/emulated_cuda.h."""
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    if not cmake or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("needs CMake and a C++ compiler")
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    _kept.append(folder)
    target = ["--target", "memoir_edge_ops"]
    for step in (["-S", str(OPS), "-B", folder.name, "-DMEMOIR_EDGE_EMULATE=ON"],
                 ["--build", folder.name, "--parallel", "2", *target]):  # fmt: skip
        done = subprocess.run([cmake, *step], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr, done.stderr
    [path] = Path(folder.name).glob("libmemoir_edge_ops.*")
    return path


_kept: list[tempfile.TemporaryDirectory[str]] = []  # as long as the process


def runner(op: str, by: str, a: int = F) -> Callable[..., list[np.ndarray]]:
    session = opened(op, a, library_of(by))
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


def check(case: Case, by: str, a: int = F) -> None:
    got, expected = runner("Route", by, a)(**case.feeds), case.expected()
    for name, ours, oracle in zip(GIVES["Route"], got, expected, strict=True):
        np.testing.assert_array_equal(ours, oracle, err_msg=name)


@each
@settings(max_examples=150)
@given(case=cases())
def test_route_is_the_oracle(by: str, case: Case) -> None:
    check(case, by)


@each
@settings(max_examples=40)
@given(case=cases(np.float16))
def test_route_of_float16_activations_is_the_oracle(by: str, case: Case) -> None:
    check(case, by, TensorProto.FLOAT16)


@each
@pytest.mark.parametrize(("B", "D", "R"), [(4, 501, 300), (11, 512, 300)])
def test_route_of_real_activations_is_the_oracle(by: str, B: int, D: int, R: int) -> None:
    rng = np.random.default_rng(1)
    T, k = 7, D * 2 // 7
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
    check(case, by)
    route, overlap, candidate = runner("Route", by)(**case.feeds)
    assert (route[1], overlap[1], candidate[1]) == (171, 1, 170)  # the newest of two equals
    assert (np.delete(route, 1) == -1).all()
    assert 0.2 < overlap[0] < 0.5  # reported below the threshold too


# --- Recall --------------------------------------------------------------------------------------


def recall(dtype: type, a, route_out, bank, columns, values, tile) -> np.ndarray:
    """Wm (M * a) in plain numpy, in one precision; Wm is that of the mask's tile."""
    D, d = a.shape[2], values.shape[1]
    Wm = np.zeros((TILES, D, d), dtype)
    Wm.reshape(-1, d)[columns] = values
    delta = np.zeros((*a.shape[:2], d), dtype)
    for row in np.flatnonzero(route_out > 0):
        mask = tophash.unpack(bank[route_out[row] - 1], D)
        x = np.where(mask, a[row], 0).astype(dtype)
        own = Wm[tile[route_out[row] - 1]]
        delta[row] = (x[:, :, None] * own).sum(axis=1)  # column by column; BLAS has its own order
    return delta


TILES = 3  # most of a case


def recall_case(
    rng: np.random.Generator, B=3, T=4, D=20, R=5, C=9, d=6, tiles=1, exact=True
) -> dict:
    def draw(*shape: int) -> np.ndarray:
        numbers = rng.integers(-8, 9, shape) / 8 if exact else rng.normal(size=shape)
        return numbers.astype(np.float32)

    return {
        "a": draw(B, T, D), "route_out": rng.integers(-1, R + 1, B),
        "bank": tophash.pack(rng.random((R, D)) < 0.3),
        "columns": np.sort(rng.permutation(tiles * D)[:C]).astype(np.int32), "values": draw(C, d),
        "tile": rng.integers(0, tiles, R).astype(np.int32),
    }  # fmt: skip


@each
@settings(max_examples=100)
@given(data=st.data())
def test_recall_is_the_plain_product(by: str, data: st.DataObject) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    D, tiles = draw(1, 40), draw(1, TILES)
    sizes = {
        "B": draw(1, 4),
        "T": draw(1, 5),
        "D": D,
        "R": draw(1, 9),
        "C": draw(1, tiles * D),
        "d": draw(1, 150),
        "tiles": tiles,
    }
    case = recall_case(np.random.default_rng(draw(0, 2**32 - 1)), **sizes)
    (delta,) = runner("Recall", by)(**case)
    np.testing.assert_array_equal(delta, recall(np.float64, **case))  # dyadic, so exact


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_recall_is_as_good_as_its_precision(by: str, dtype: type) -> None:
    case = recall_case(
        np.random.default_rng(2), B=4, T=6, D=600, R=7, C=800, d=50, tiles=2, exact=False
    )
    case["route_out"] = np.array([3, -1, 7, 1])
    case["a"] = case["a"].astype(dtype)
    (delta,) = runner("Recall", by, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))(**case)
    truth = recall(np.float64, **case)
    unavoidable = abs(recall(dtype, **case) - truth).max()
    error = abs(delta.astype(dtype) - truth).max()
    print(f"{dtype.__name__}: error {error:.3g}, of the precision itself {unavoidable:.3g}")
    assert error <= 2 * unavoidable


@each
def test_a_row_that_is_not_routed_gets_exactly_nothing(by: str) -> None:
    case = recall_case(np.random.default_rng(3))
    case["route_out"] = np.array([-1, 2, 0])
    case["a"][[0, 2]] = np.inf
    case["a"][1][:, ~tophash.unpack(case["bank"][1], 20)] = np.nan  # nor what the mask hides
    (delta,) = runner("Recall", by)(**case)
    assert (delta[[0, 2]] == 0).all()
    assert np.isfinite(delta).all()
    assert delta[1].any()
    case["route_out"] = np.array([-1, -1, 0])
    assert not runner("Recall", by)(**case)[0].any()


@refusing
def test_a_route_beyond_the_bank_is_refused(by: str) -> None:
    case = recall_case(np.random.default_rng(4), R=5)
    case["route_out"] = np.array([1, 6, -1])
    with pytest.raises(InvalidArgument, match="out of data bounds"):
        runner("Recall", by)(**case)


# --- Natively only -------------------------------------------------------------------------------


def one_key(**changes: object) -> dict[str, np.ndarray]:
    """Route's feeds of one row and one key, which it hits; D = 20."""
    rng = np.random.default_rng(5)
    a = rng.normal(size=(1, 1, 20)).astype(np.float32)
    center, scale = np.zeros(20, np.float32), np.ones(20, np.float32)
    own = tophash.mask(a[:, 0], center, scale, np.arange(20), 6)
    feeds = {
        "a": a, "span": np.ones((1, 1), np.int64), "route": np.zeros(1, np.int64),
        "bank": tophash.pack(own), "owner": np.zeros(1, np.int32),
        "thresholds": np.ones(1, np.float32), "center": center, "scale": scale,
        "permutation": np.arange(20, dtype=np.int32), "k": np.array([6]),
    }  # fmt: skip
    return feeds | changes  # type: ignore[operator]


HOSTILE: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "no k": ({"k": np.array([0])}, "k is 0, expected 1 to 20"),
    "k too large": ({"k": np.array([21])}, "k is 21, expected 1 to 20"),
    "k beyond words": ({"k": np.array([-(2**63)])}, "expected 1 to 20"),
    "several k": ({"k": np.array([6, 6])}, r"k is \[2\], expected \[1\]"),
    "no keys": ({"bank": np.zeros((0, 3), np.uint8), "owner": np.zeros(0, np.int32)}, "no keys"),
    "narrow keys": ({"bank": np.zeros((1, 2), np.uint8)}, r"bank is \[1, 2\], expected \[1, 3\]"),
    "owners of others": ({"owner": np.zeros(2, np.int32)}, r"owner is \[2\], expected \[1\]"),
    "thresholds of others": ({"thresholds": np.ones(2, np.float32)}, "thresholds is"),
    "no thresholds": ({"thresholds": np.ones(0, np.float32)}, "thresholds is"),
    "short center": ({"center": np.zeros(19, np.float32)}, "center is"),
    "long scale": ({"scale": np.zeros(21, np.float32)}, "scale is"),
    "short permutation": ({"permutation": np.zeros(19, np.int32)}, "permutation is"),
    "a place too high": ({"permutation": np.full(20, 20, np.int32)}, "permutation holds 20"),
    "a place too low": ({"permutation": np.full(20, -1, np.int32)}, "permutation holds -1"),
    "another span": ({"span": np.ones((1, 2), np.int64)}, r"span is \[1, 2\], expected \[1, 1\]"),
    "routes of others": ({"route": np.zeros(2, np.int64)}, "route is"),
}


@natively
@pytest.mark.parametrize("what", HOSTILE)
def test_what_does_not_fit_is_refused_and_named(by: str, what: str) -> None:
    changes, message = HOSTILE[what]
    route = runner("Route", by)
    assert route(**one_key())[0] == [1]
    with pytest.raises(InvalidArgument, match=message):
        route(**one_key(**changes))


@natively
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": np.full(9, -1, np.int32)}, "columns holds -1, expected 0 or more"),
        ({"tile": np.full(5, -1, np.int32)}, "tile holds -1, expected 0 or more"),
        ({"tile": np.zeros(6, np.int32)}, r"tile is \[6\], expected \[5\]"),
        ({"columns": np.zeros(8, np.int32)}, r"values is \[9, 6\], expected \[8, 6\]"),
        ({"bank": np.zeros((5, 4), np.uint8)}, "bank is"),
        ({"route_out": np.array([1, 2])}, "route_out is"),
        ({"route_out": np.array([1, 2, 2**62])}, "out of data bounds"),
    ],
)
def test_what_does_not_fit_a_recall_is_refused_and_named(
    by: str, changes: dict[str, np.ndarray], message: str
) -> None:
    case = recall_case(np.random.default_rng(6)) | {"route_out": np.array([1, 2, -1])}
    recall_ = runner("Recall", by)
    recall_(**case)
    with pytest.raises(InvalidArgument, match=message):
        recall_(**case | changes)


@natively
def test_a_graph_of_an_earlier_version_has_one_tile(by: str) -> None:
    """Its Recall has five inputs, and its columns are the site's."""
    runner("Recall", by)
    model = one_node("Recall")
    del model.functions[:]
    del model.graph.node[0].input[5], model.graph.input[5]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(_ops.library("cpu")))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    case = recall_case(np.random.default_rng(6)) | {"route_out": np.array([1, 2, -1])}
    given = {name: case[name] for name in RECALL[:5]}
    np.testing.assert_array_equal(session.run(None, given)[0], recall(np.float64, **case))
    with pytest.raises(InvalidArgument, match="columns holds 20, expected 0 to 19"):
        session.run(None, given | {"columns": np.full(9, 20, np.int32)})


@pytest.mark.slow
@pytest.mark.parametrize("what", [w for w in HOSTILE if not w.startswith("a place")])
def test_cuda_refuses_what_does_not_fit(what: str) -> None:
    test_what_does_not_fit_is_refused_and_named(CUDA, what)


@pytest.mark.slow
def test_on_cuda_what_is_wrong_inside_a_tensor_does_no_harm() -> None:
    """The host does not see it there, so it cannot be refused."""
    for place in (20, -1, 2**31 - 1, -(2**31)):
        feeds = one_key(permutation=np.full(20, place, np.int32))
        route, overlap, candidate = runner("Route", CUDA)(**feeds)
        assert (route, overlap, candidate) == ([-1], [0], [0])
    for owner in (1, 2**31 - 1):  # beyond the bank's one key
        assert runner("Route", CUDA)(**one_key(owner=np.int32([owner])))[0] == [-1]
    case = recall_case(np.random.default_rng(6), B=3) | {"route_out": np.array([1, 6, 2**62])}
    expected = recall(np.float64, **case | {"route_out": np.array([1, -1, -1])})
    np.testing.assert_array_equal(runner("Recall", CUDA)(**case)[0], expected)
    for column in (20, -1, 2**31 - 1, -(2**31)):
        wrong = case | {"columns": np.full(9, column, np.int32)}
        assert not runner("Recall", CUDA)(**wrong)[0].any()
    for tile in (1, -1, 2**31 - 1, -(2**31)):
        wrong = case | {"tile": np.full(5, tile, np.int32)}
        assert not runner("Recall", CUDA)(**wrong)[0].any()


@natively
def test_a_negative_owner_is_a_guard_whatever_it_is(by: str) -> None:
    for owner in (-1, -2, -(2**31)):
        route, overlap, candidate = runner("Route", by)(**one_key(owner=np.int32([owner])))
        assert (route, overlap, candidate) == ([-1], [1], [0])


@natively
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_values_are_used_as_they_are_stored(by: str, dtype: type) -> None:
    """The port is float32; a graph of another make may hold halves."""
    runner("Recall", by)
    case = recall_case(np.random.default_rng(7), D=64, C=40, d=33)
    case["route_out"] = np.array([1, 5, -1])
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = one_node("Recall")
    del model.functions[:]
    model.graph.input[4].type.tensor_type.elem_type = kind
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(_ops.library("cpu")))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (delta,) = session.run(None, case | {"values": case["values"].astype(dtype)})
    np.testing.assert_array_equal(delta, recall(np.float64, **case))


# --- Search by an index --------------------------------------------------------------------------

LARGE, WIDE, ONES = 70_000, 256, 73  # several blocks of keys, the last not full


@cache
def near_and_far(queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bank, activations whose masks share all sorts of shares with a key of it, thresholds."""
    rng = np.random.default_rng(8)
    bits = rng.random((LARGE, WIDE)).argsort(axis=1) < ONES
    bits[[100, LARGE - 1]] = bits[5_000]  # equals
    masks = bits[rng.integers(0, LARGE, queries)].copy()
    masks[0] = bits[100]
    for mask, kept in zip(masks[1:], rng.integers(ONES // 4, ONES + 1, queries - 1), strict=True):
        on, off = np.flatnonzero(mask), np.flatnonzero(~mask)
        mask[rng.choice(on, ONES - kept, replace=False)] = False
        mask[rng.choice(off, ONES - kept, replace=False)] = True
    a = np.where(masks, 1 + rng.random(masks.shape), 0.5 * rng.random(masks.shape))
    return tophash.pack(bits), a[:, None].astype(np.float32), masks


@natively
@pytest.mark.parametrize("features", [256, 128, 8])
def test_search_by_an_index_decides_as_a_scan(by: str, features: int) -> None:
    runner("Route", by)
    packed, a, masks = near_and_far(64)
    packed = packed.copy()
    n = len(a)
    thresholds = np.random.default_rng(9).choice(np.float32([0.85, 0.9, 0.95]), LARGE)
    owner = np.where(np.arange(LARGE) % 7 == 0, -1, np.arange(LARGE)).astype(np.int32)
    bank = onnxruntime.OrtValue.ortvalue_from_numpy(packed)
    feeds = {
        "a": a, "span": np.ones((n, 1), np.int64), "route": np.zeros(n, np.int64), "owner": owner,
        "thresholds": thresholds, "center": np.zeros(WIDE, np.float32),
        "scale": np.ones(WIDE, np.float32), "permutation": np.arange(WIDE, dtype=np.int32),
        "k": np.array([ONES]),
    }  # fmt: skip
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in feeds.items()}
    assert _ops.index(bank, values["thresholds"], features)
    session = opened("Route", F, _ops.library("cpu"))

    def routed(**others: onnxruntime.OrtValue) -> tophash.Routes:
        out = session.run_with_ort_values(None, values | {"bank": bank} | others)
        return tophash.Routes(*(value.numpy().copy() for value in out))

    found = routed()
    query = tophash.pack(masks)
    truth = tophash.route(query, feeds["route"], packed, owner, thresholds, ONES)
    assert set(np.sign(truth.route)) == {-1, 1}
    np.testing.assert_array_equal(found.route, truth.route)
    likely = truth.overlap >= thresholds.min()
    np.testing.assert_array_equal(found.candidate[likely], truth.candidate[likely])
    assert found.candidate[0] == LARGE - 1  # the newest of equals, of different blocks
    # What is told of a prompt that nothing answers is true, if not the nearest.
    told = tophash.overlap(query, packed, ONES)[np.arange(n), found.candidate]
    np.testing.assert_array_equal(found.overlap, told)
    if features == WIDE // 2:
        assert (found.overlap < truth.overlap).any()  # or else the index was not used
    if features == WIDE:
        np.testing.assert_array_equal(found.candidate, truth.candidate)

    # Nor are the lowest of other thresholds taken for theirs.
    lower = thresholds - np.float32(0.3)
    truth = tophash.route(query, feeds["route"], packed, owner, lower, ONES)
    found = routed(thresholds=onnxruntime.OrtValue.ortvalue_from_numpy(lower))
    np.testing.assert_array_equal(found.route, truth.route)

    # Another bank at the same place, once the value is gone, is not mistaken for the first.
    del bank
    packed[:] = np.roll(packed, 1, axis=0)
    bank = onnxruntime.OrtValue.ortvalue_from_numpy(packed)
    truth = tophash.route(query, feeds["route"], packed, owner, thresholds, ONES)
    for ours, oracle in zip(routed(), truth, strict=True):
        np.testing.assert_array_equal(ours, oracle)


@natively
@pytest.mark.parametrize("lowest", [0, 0.5, 2])
def test_search_by_an_index_decides_as_a_scan_wherever_the_thresholds_lie(
    by: str, lowest: float
) -> None:
    """Where they tell few keys apart, the nearest so far does; where none is reached, none wins."""
    runner("Route", by)
    packed, a, masks = near_and_far(16)
    crowded = np.random.default_rng(10).random(LARGE) < 0.5  # half of the keys share many features
    packed = np.where(crowded[:, None], packed | 1, packed)
    thresholds = np.full(LARGE, max(lowest, 0.9), np.float32)
    thresholds[::3] = lowest
    owner = np.arange(LARGE, dtype=np.int32)
    n = len(a)
    feeds = {
        "a": a, "span": np.ones((n, 1), np.int64), "route": np.zeros(n, np.int64), "owner": owner,
        "thresholds": thresholds, "center": np.zeros(WIDE, np.float32),
        "scale": np.ones(WIDE, np.float32), "permutation": np.arange(WIDE, dtype=np.int32),
        "k": np.array([ONES]), "bank": packed,
    }  # fmt: skip
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in feeds.items()}
    assert _ops.index(values["bank"], values["thresholds"], 192)
    found = tophash.Routes(
        *(
            v.numpy()
            for v in opened("Route", F, _ops.library("cpu")).run_with_ort_values(None, values)
        )
    )
    truth = tophash.route(tophash.pack(masks), feeds["route"], packed, owner, thresholds, ONES)
    np.testing.assert_array_equal(found.route, truth.route)
    reached = truth.overlap >= lowest
    np.testing.assert_array_equal(found.candidate[reached], truth.candidate[reached])
    np.testing.assert_array_equal(found.overlap[reached], truth.overlap[reached])
    assert reached.all() if lowest == 0 else not reached.any() if lowest == 2 else reached.any()


@natively
@settings(max_examples=60)
@given(case=cases())
def test_search_by_an_index_of_any_bank_decides_as_the_oracle(by: str, case: Case) -> None:
    runner("Route", by)
    values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(x) for n, x in case.feeds.items()}
    features = 8 * draw_prefix(case)
    assert _ops.index(values["bank"], values["thresholds"], features)
    out = opened("Route", F, _ops.library("cpu")).run_with_ort_values(None, values)
    if features == 8 * case.feeds["bank"].shape[1]:
        for found, oracle in zip(out, case.expected(), strict=True):
            np.testing.assert_array_equal(found.numpy(), oracle)
    np.testing.assert_array_equal(out[0].numpy(), case.expected().route)


@pytest.mark.skipif(not _ops.library("cpu"), reason="the native ops were not built")
@given(data=st.data(), k=st.integers(1, 1200))
def test_a_key_that_may_win_is_dismissed_with_a_probability_below_1e_9(data: Any, k: int) -> None:
    shared, seen = data.draw(st.integers(0, k)), data.draw(st.integers(0, k))
    least = _ops._functions().memoir_edge_least_in_prefix(k, shared, seen)

    def ways(counts: range) -> int:  # to see so many of the shared ones, of choose(k, seen)
        return sum(comb(shared, c) * comb(k - shared, seen - c) for c in counts if c <= seen)

    assert ways(range(least)) * 10**9 < comb(k, seen) <= ways(range(least + 1)) * 10**9


@pytest.mark.skipif(not _ops.library("cpu"), reason="the native ops were not built")
def test_a_bank_is_indexed_where_a_scan_is_slower() -> None:
    W = 1792
    few, many = (onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((R, W), np.uint8))
                 for R in (_ops.SMALL // W, _ops.SMALL // W + 1))  # fmt: skip
    one = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones(1, np.float32))
    assert not _ops.index(few, one)
    assert _ops.index(many, one)


def draw_prefix(case: Case) -> int:
    return 1 + int(case.feeds["permutation"][0]) % case.feeds["bank"].shape[1]
