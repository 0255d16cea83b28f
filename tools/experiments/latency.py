"""What a memory costs while it grows to a million edits.

    python tools/experiments/latency.py --keep DIR [--edits 1000 10000 100000] [--million]
                                        [--plot FILE]

Made keys of real shape: codes of 1,024 bits, half of them ones, some more popular than others as a
sentence encoder's are; one key an edit. Wm is small (D 64, d 8, k 16, changes of rank 1), because
what is measured is what grows with the number of edits. The model is not asked, and thresholds are
not made anew: what training, checks and calibration take comes on top. The file withholds the
edits' records, which the journal has: those of a million do not fit into what a file may say of
itself (`MAX_DOCUMENT_BYTES`).

For each number of edits a journal is written (a hundred edits a frame, as `--batch-edits 100`) and
its memory; then, in a process of its own, each of these, in CPU time, on one thread:

    load       read and check the file, place it, index its keys, as a session does
    resident   what the process holds more than before
    route      one query by the index, and by a scan; the median of many
    swap       another memory takes its place, and the former is given back
    open       read and check the journal, and fold it
    one more   append an edit to the open journal, fold it, change Wm; the median of some
    delete     the same of a deletion
    write      fold the journal, compile the memory and write it
    verify     read the file and ask a sample of keys for their own edit; scaled to all

Each part is kept in DIR once it was measured; an interrupted experiment goes on there.
docs/experiments.md shows a run. The last line is one JSON document.
"""

import argparse
import gc
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_ops import route_alone, values
from router_looks import show

from memoir_edge import memory as memory_file
from memoir_edge import tophash
from memoir_edge.evaluate.dataset import kept
from memoir_edge.history import Deleted, Together, begin, load, path_of
from memoir_edge.history.events import Change, Made
from memoir_edge.history.state import add
from memoir_edge.memory import Base, Memory, Router, by_codes, no_codes
from memoir_edge.tophash import Bytes
from memoir_edge_runtime import _ops
from memoir_edge_runtime._generation import place
from memoir_edge_runtime._provider import value

Row = dict[str, Any]
D, WIDTH, K = 64, 8, 16
ROUTER = Router("encoder", "0" * 64, 1024, 512)
SPREAD = 0.2  # of features' popularity, in deviations of one projection
THRESHOLD = 0.76
TOGETHER, TIMES, ASKED = 100, 9, 200


def main() -> None:
    """Every size, then a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--edits", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--million", dest="edits", action="append_const", const=1_000_000)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    rows = [{"edits": n, **measured(given.keep / str(n), n)} for n in given.edits]
    fitted = exponents(rows) if len(rows) > 1 else {}
    show("seconds of CPU; resident: MiB; route and scan: ms", rows)
    for name, power in fitted.items():
        print(f"{name}: N^{power:.2f}")
    if given.plot:
        plot(rows, fitted, given.plot)
    print(json.dumps({"experiment": "latency", "kernels": _ops.kernels(), "rows": rows,
                      "exponents": fitted}))  # fmt: skip


def measured(folder: Path, edits: int) -> Row:
    """All figures of one size; each part in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    found: Row = {}
    for part in (made, served, edited):
        found |= kept(
            folder / f"{part.__name__}.json", lambda part=part: apart(part, folder, edits)
        )
    return found


def apart(part: Callable[[Path, int], Row], folder: Path, edits: int) -> Row:
    """A part's figures, from a fresh process: what another part has left does not count."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(part, folder, edits).result()


# --- Made edits ----------------------------------------------------------------------------------


def codes(rng: np.random.Generator, n: int) -> Bytes:
    """Packed codes `[n, 128]` of weight 512."""
    popular = np.random.default_rng(0).normal(0, SPREAD, ROUTER.bits).astype(np.float32)
    drawn = rng.standard_normal((n, ROUTER.bits), np.float32) + popular
    bits = np.zeros(drawn.shape, bool)
    largest = drawn.argpartition(-ROUTER.weight, axis=1)[:, -ROUTER.weight :]
    np.put_along_axis(bits, largest, True, axis=1)
    return tophash.pack(bits)


def groups(rng: np.random.Generator, n: int, name: str = "edit") -> Iterator[list[Made]]:
    """Edits as training would leave them, some at a time."""
    for first in range(0, n, TOGETHER):
        size = min(TOGETHER, n - first)
        keys = codes(rng, size)
        masks = tophash.pack(rng.random((size, D)).argsort(axis=1) < K)
        V = rng.normal(0, 1e-2, (size, K, 1)).astype(np.float32)
        U = rng.normal(0, 1e-2, (size, 1, WIDTH)).astype(np.float32)
        yield [
            Made(f"{name} {i}", {"prompt": f"Who runs {name} {i}?", "target": " Someone"},
                 masks[j], [], [], THRESHOLD, Change(V[j], U[j]), keys[j])
            for j, i in enumerate(range(first, first + size))
        ]  # fmt: skip


def empty() -> Memory:
    """The memory that the journal begins from."""
    none = by_codes(np.zeros((0, D // 8), np.uint8))
    return Memory(
        site="layer", feature="mean", k=K, base=Base("made", None),
        columns=np.zeros(0, np.int32), values=np.zeros((0, WIDTH), np.float32), **none,
        center=np.zeros(D, np.float32), scale=np.ones(D, np.float32),
        permutation=np.arange(D, dtype=np.int32), edits=(), codes=no_codes(ROUTER),
    )  # fmt: skip


def made(folder: Path, edits: int) -> Row:
    """The journal and its memory."""
    memory = folder / "memory.safetensors"
    path_of(memory).unlink(missing_ok=True)
    with begin(path_of(memory), empty(), {}) as journal:
        for group in groups(np.random.default_rng(1), edits):
            journal.record(Together(tuple(group)))
        seconds = timed(lambda: memory_file.write(withheld(journal.compile()), memory))
    sizes = {"memory, MiB": memory, "journal, MiB": path_of(memory)}
    return {"write": seconds} | {name: path.stat().st_size / 2**20 for name, path in sizes.items()}


def withheld(memory: Memory) -> Memory:
    """The memory without its edits' records."""
    return replace(memory, edits=tuple(e._replace(record=None) for e in memory.edits))


# --- What it costs -------------------------------------------------------------------------------


def timed(do: Callable[[], object]) -> float:
    """CPU seconds of one run."""
    start = time.process_time()
    do()
    return time.process_time() - start


def resident() -> float:
    """MiB that the process holds."""
    gc.collect()
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def served(folder: Path, _edits: int) -> Row:
    """A server's part."""
    session = route_alone(1, native=True)
    before = resident()
    held: list[Any] = []
    seconds = timed(lambda: held.append(loaded(folder)))
    figures = {"load": seconds, "resident, MiB": resident() - before}
    keys = held[0][1]
    asked = tophash.unpack(codes(np.random.default_rng(2), 3 * TIMES), ROUTER.bits)
    rest = values(np.zeros((1, ROUTER.bits // 8), np.uint8), ROUTER.bits, ROUTER.weight, 1, asked)
    queries = [value(a[None]) for a in rest["a"].numpy()]
    fed = rest | keys | one_row()

    def route(bank: Any) -> float:
        """Milliseconds of a query; the first round warms up."""
        for _ in range(2):
            found = [
                timed(lambda a=a: session.run_with_ort_values(None, fed | {"bank": bank, "a": a}))
                for a in queries
            ]
        return 1000 * statistics.median(found)

    figures |= {
        "route, ms": route(keys["bank"]),
        "scan, ms": route(value(keys["bank"].numpy().copy())),
    }
    figures["verify"] = verification(session, folder, fed)
    keys = fed = {}
    return figures | {"swap": timed(held.clear)}


def one_row() -> Row:
    """What says that one query is asked, and no route is given."""
    return {"span": value(np.ones((1, 1), np.int64)), "route": value(np.zeros(1, np.int64))}


def verification(session: Any, folder: Path, fed: Row) -> float:
    """Seconds in which every edit would be asked for by its own key, after reading the file."""
    seconds = timed(lambda: memory_file.read(folder / "memory.safetensors"))
    bank, owner = fed["bank"].numpy(), fed["owner"].numpy()
    rows = np.random.default_rng(4).integers(0, len(bank), ASKED)
    for row in rows:
        own = tophash.unpack(bank[[row]], ROUTER.bits)
        a = value(np.where(own, 2, 1)[None].astype(np.float32))
        reached: list[Any] = []
        run = lambda a=a, to=reached: to.extend(session.run_with_ort_values(None, fed | {"a": a}))  # noqa: E731
        seconds += timed(run) / ASKED * len(bank)
        if reached[0].numpy()[0] != owner[row] + 1:
            raise SystemExit(f"{folder}: key {row} does not reach its edit")
    return seconds


def loaded(folder: Path) -> Any:
    """A memory on the device, and its keys as Route takes them."""
    generation = place(memory_file.read(folder / "memory.safetensors"), 1, "cpu")
    assert generation.memory is not None
    found = generation.memory.codes
    assert found is not None
    keys = {"bank": found.keys, "owner": found.owner, "thresholds": found.thresholds}
    placed = {name: value(array.copy()) for name, array in keys.items()}
    _ops.index(placed["bank"], placed["thresholds"])
    return generation, placed


def edited(folder: Path, _edits: int) -> Row:
    """An editor's part; what it appends is taken back."""
    path = path_of(folder / "memory.safetensors")
    size = path.stat().st_size
    journals: list[Any] = []

    def opened() -> None:
        journal = load(path, write=True)
        assert journal is not None
        journal.state()
        journals.append(journal)

    seconds = timed(opened)
    [journal] = journals
    with journal:
        Wm = np.zeros((D, WIDTH), np.float32)
        [group] = groups(np.random.default_rng(3), TIMES, "one more")

        def one_more(new: Made) -> None:
            journal.record(Together((new,)))
            journal.state()
            add(Wm, new.primary, new.change)

        def delete(edit: str) -> None:
            journal.record(Deleted([edit]))
            journal.state()

        more = statistics.median(timed(lambda new=new: one_more(new)) for new in group)
        gone = statistics.median(timed(lambda i=i: delete(f"edit {i}")) for i in range(TIMES))
    with path.open("r+b") as file:
        file.truncate(size)
    return {"open": seconds, "one more": more, "delete": gone}


# --- What follows --------------------------------------------------------------------------------


def exponents(rows: Sequence[Row]) -> dict[str, float]:
    """The power of the number of edits that each figure grows with: a line fitted to logarithms."""
    edits = np.log([row["edits"] for row in rows])
    return {
        name: float(np.polyfit(edits, np.log([max(row[name], 1e-9) for row in rows]), 1)[0])
        for name in rows[0]
        if name != "edits"
    }


def plot(rows: Sequence[Row], fitted: dict[str, float], path: Path) -> None:
    """Each time by the number of edits, both as logarithms."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name in fitted:
        if "MiB" not in name:
            scale = 1e-3 if name.endswith("ms") else 1
            label = f"{name.removesuffix(', ms')}: N^{fitted[name]:.2f}"
            axes.plot(
                [r["edits"] for r in rows], [scale * r[name] for r in rows], "o-", label=label
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("edits")
    axes.set_ylabel("seconds of CPU")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
