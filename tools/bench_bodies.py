"""What the ops' function bodies cost at the paper's width, by number of keys.

    python tools/bench_bodies.py

One thread, D 14336, k 4096, d 512, C 8000, one row of 16 tokens; medians. The three routes run in
turn. docs/ports.md shows a run. The last line is one JSON document.
"""

import json
import statistics
import time

import numpy as np
import onnxruntime as ort
from onnx import helper
from rich.console import Console
from rich.table import Table

from memoir_edge import tophash
from memoir_edge_exporter._bodies import MIN_OPSET, VERSION, bodies

D, k, d, C, T = 14336, 4096, 512, 8000, 16
KEYS = (1, 1000, 15000)
ROUTES = {"undecided": 0, "base": -1, "routed": 1}
ROUNDS = 7


def main() -> None:
    """Measure and print."""
    figures = {str(R): measure(R) for R in KEYS}
    table = Table("keys", *(f"{name}, ms" for name in ROUTES), title="Route and Recall, bodies")
    for R, row in figures.items():
        table.add_row(R, *(f"{row[name]:.2f}" for name in ROUTES))
    Console().print(table)
    print(json.dumps(figures))


def measure(R: int) -> dict[str, float]:
    """Median milliseconds of both ops for each given route."""
    feeds = inputs(R)
    session = build(feeds)
    times: dict[str, list[float]] = {name: [] for name in ROUTES}
    for round_ in range(ROUNDS + 1):
        for name, route in ROUTES.items():
            start = time.perf_counter()
            session.run(None, feeds | {"route": np.array([route])})
            if round_:  # the first warms up
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(found) for name, found in times.items()}


def inputs(R: int) -> dict[str, np.ndarray]:
    """Random activations `[1, T, D]` and a random memory of R keys."""
    random = np.random.default_rng(0)
    bank = np.stack([tophash.pack(random.permutation(D) < k) for _ in range(R)])
    return {
        "a": random.standard_normal((1, T, D), np.float32),
        "span": np.ones((1, T), np.int64),
        "route": np.zeros(1, np.int64),
        "bank": bank,
        "owner": np.arange(R, dtype=np.int32),
        "thresholds": np.full(R, 0.9, np.float32),
        "center": np.zeros(D, np.float32),
        "scale": np.ones(D, np.float32),
        "permutation": random.permutation(D).astype(np.int32),
        "k": np.array([k]),
        "columns": np.sort(random.permutation(D)[:C]).astype(np.int32),
        "values": random.standard_normal((C, d), np.float32),
        "tile": np.zeros(R, np.int32),
    }


def build(feeds: dict[str, np.ndarray]) -> ort.InferenceSession:
    """A graph of the two ops alone."""
    route = list(feeds)[:10]
    recall = ["a", "route_out", "bank", "columns", "values", "tile"]
    graph = helper.make_graph(
        [
            helper.make_node("Route", route, ["route_out", "o", "c"], domain="memoir_edge"),
            helper.make_node("Recall", recall, ["delta"], domain="memoir_edge"),
        ],
        "bodies",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in feeds.items()
        ],
        [helper.make_tensor_value_info("delta", 1, ["B", "T", "d"])],
    )
    opsets = [helper.make_opsetid("", MIN_OPSET), helper.make_opsetid("memoir_edge", VERSION)]
    model = helper.make_model(graph, functions=bodies(), opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options)


if __name__ == "__main__":
    main()
