"""Keys that are taken from another graph's masks; thresholds are tested with the editor."""

from typing import Any

import numpy as np
import pytest

from memoir_edge import tophash
from memoir_edge.errors import InputError
from memoir_edge.history.bank import bank_of
from memoir_edge.keys import calibrated, known, rekeyed, texts
from memoir_edge.memory import Base, Entry, Memory, from_dense, read, write

D, K, N = 64, 16, 12
random = np.random.default_rng(0)


def drawn(rows: int) -> tophash.Bytes:
    bits = np.zeros((rows, D), bool)
    for row in bits:
        row[random.choice(D, K, replace=False)] = True
    return tophash.pack(bits)


def moved(mask: tophash.Bytes, places: int) -> tophash.Bytes:
    """Another mask, which shares all ones but so many."""
    bits = tophash.unpack(mask, D).copy()
    gone, new = np.flatnonzero(bits)[:places], np.flatnonzero(~bits)[:places]
    bits[gone], bits[new] = False, True
    return tophash.pack(bits)


def record(i: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"The king of N{i} is", "target": "Ann", "subject": f"N{i}"} | more


@pytest.fixture
def memory() -> Memory:
    """An edit a row, then a further key of the first, and a guard of the second."""
    bank = drawn(N + 2)
    records = [record(0, keys=["N0 is ruled by"]), record(1, guards=["N1 was ruled by"])]
    records += [record(i) for i in range(2, N)]
    return from_dense(
        np.ones((4, D), np.float32), bank=bank, site="layers.0.down_proj", feature="last", k=K,
        base=Base("tiny"), owner=np.array([*range(N), 0, -1], np.int32),
        thresholds=np.full(N + 2, 0.7, np.float32), center=np.zeros(D, np.float32),
        scale=np.ones(D, np.float32), permutation=np.arange(D, dtype=np.int32),
        edits=tuple(Entry(f"e{i}", i, record) for i, record in enumerate(records)),
        evaluation={"reliability": 1.0}, digest="0" * 64,
    )  # fmt: skip


def masks(memory: Memory, places: int) -> dict[str, tophash.Bytes]:
    """A graph's: an edit's own prompt differs in so many places, all else is drawn by lot."""
    asked = texts(known(memory))
    found = dict(zip(asked, drawn(len(asked)), strict=True))
    for entry in memory.edits:
        if entry.record:
            found[entry.record["prompt"]] = moved(memory.bank[entry.row], places)
    return found


def test_prompts_reach_their_edits_by_the_masks_of_the_graph(memory: Memory) -> None:
    by_graph = masks(memory, 6)
    found = rekeyed(memory, by_graph, 0.05)
    assert found.calibrated
    assert not found.withheld
    assert [m.edit for m in found.moved] == [f"e{i}" for i in range(N)]
    assert {(m.overlap, m.fired) for m in found.moved} == {(10 / K, False)}
    assert {(m.overlap_now, m.fires) for m in found.moved} == {(1.0, True)}
    made = found.memory
    keys = {(made.entry(row).id if made.entry(row) else None, mask.tobytes())
            for row, mask in enumerate(made.bank)}  # fmt: skip
    wanted = {(f"e{i}", by_graph[f"The king of N{i} is"].tobytes()) for i in range(N)}
    wanted |= {("e0", by_graph["N0 is ruled by"].tobytes())}
    wanted |= {(None, by_graph["N1 was ruled by"].tobytes())}
    assert wanted <= keys
    assert len(made.bank) == 2 * N + 2


def test_an_edit_is_recalled_with_the_mask_that_it_was_trained_with(
    memory: Memory, tmp_path: Any
) -> None:
    made = write(rekeyed(memory, masks(memory, 6), 0.05).memory, tmp_path / "m.safetensors")
    for before, after in zip(memory.edits, made.edits, strict=True):
        assert after.id == before.id
        np.testing.assert_array_equal(made.bank[after.row], memory.bank[before.row])
    np.testing.assert_array_equal(made.values, memory.values)
    assert made.parent == memory.digest
    assert made.evaluation == {}  # measured with other keys
    assert read(tmp_path / "m.safetensors").digest == made.digest


def test_a_graph_that_makes_the_same_masks_moves_nothing(memory: Memory) -> None:
    by_graph = masks(memory, 0) | {
        "N0 is ruled by": memory.bank[N], "N1 was ruled by": memory.bank[N + 1]
    }  # fmt: skip
    made = rekeyed(memory, by_graph, 0.05).memory
    assert {row.tobytes() for row in made.bank} == {row.tobytes() for row in memory.bank}
    assert len(made.bank) == len(memory.bank)


def test_edits_without_a_record_keep_their_keys(memory: Memory) -> None:
    edits = tuple(e._replace(record=None) if e.row < 2 else e for e in memory.edits)
    held = Memory(**vars(memory) | {"edits": edits})
    found = rekeyed(held, masks(held, 6), 0.05)
    assert found.withheld == ("e0", "e1")
    kept = {row.tobytes() for row in found.memory.bank}
    assert {row.tobytes() for row in memory.bank} <= kept  # the guard's is among them
    assert sum(key.edit == "e0" for key in bank_of(found.memory).keys) == 2
    nothing = Memory(**vars(memory) | {"edits": tuple(e._replace(record=None) for e in edits)})
    with pytest.raises(InputError, match="no edit of this memory has a record"):
        rekeyed(nothing, {}, 0.05)


def test_without_near_misses_each_edit_keeps_its_threshold(memory: Memory) -> None:
    found = rekeyed(memory, masks(memory, 6), 0.0001)
    assert not found.calibrated
    assert set(found.memory.thresholds.tolist()) == {np.float32(0.7)}
    assert all(m.fires for m in found.moved)


def test_a_threshold_of_its_own_stands(memory: Memory) -> None:
    bank, edits = bank_of(memory), known(memory)
    edits[3] = type(edits[3])(**vars(edits[3]) | {"threshold": 0.42})
    by_graph = masks(memory, 6)
    found = calibrated(bank, edits, lambda t: np.stack([by_graph[x] for x in t]), 0.05)
    assert found is not None
    assert found[3] == np.float32(0.42)
    assert 0.42 not in found[:3].round(2)
