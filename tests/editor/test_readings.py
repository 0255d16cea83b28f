"""What rows read: the model's own activations, once for a group, and no more than fits."""

import pytest
import torch

from memoir_edge.editor import BaseModel
from memoir_edge.editor import readings as module
from memoir_edge.editor.layer import input_of
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.rows import Row, rows

SITES = ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]
TEXTS = ("What is the capital of France?", "After all that was said of it, France is governed from")


@pytest.fixture
def group(tiny: BaseModel) -> list[Row]:
    return rows(tiny, "The capital of France is", "Rome", eos=True, texts=TEXTS)


@pytest.mark.parametrize(("path", "longest"), [(SITES[0], 1), (SITES[1], 1), (SITES[1], 99)])
def test_a_group_reads_what_each_row_reads_alone(
    tiny: BaseModel, group: list[Row], path: str, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Woven into one sequence or, where that is too long, side by side."""
    monkeypatch.setattr(module, "LONGEST", longest)
    read = Readings(tiny, path).of(group)
    site, block = tiny.net.get_submodule(path), tiny.net.get_submodule("model.layers.2")
    a, out = [], []
    for row in group:
        ids = {"input_ids": torch.tensor([[*row.prompt, *row.target]])}
        places = slice(len(row.prompt) - 1, -1)
        a.append(input_of(tiny.net, site, ids)[0, places])
        seen: list[torch.Tensor] = []
        with block.register_forward_hook(lambda _module, _args, y, seen=seen: seen.append(y)):
            tiny.net(**ids)
        out.append(seen[0][0, places])
    assert torch.allclose(read.a, torch.cat(a), atol=1e-5)
    assert (read.out is None) == (path == SITES[0])
    if read.out is not None:
        assert torch.allclose(read.out, torch.cat(out), atol=1e-5)


def test_at_several_sites_all_inputs_lie_side_by_side(tiny: BaseModel, group: list[Row]) -> None:
    read = Readings(tiny, *SITES).of(group)
    alone = [Readings(tiny, path).of(group).a for path in SITES]
    assert torch.allclose(read.a, torch.cat(alone, dim=1), atol=1e-5)
    assert read.out is None
    again = Readings(tiny, *SITES)
    again.of(group[1:])
    assert torch.equal(again.of(group).a, read.a)  # whatever else is kept


@pytest.mark.parametrize("block", [0, 1])
def test_a_group_of_an_encoder_decoder_reads_what_each_row_reads_alone(
    t5: BaseModel, block: int
) -> None:
    group = rows(t5, "The capital of France is", "Paris Rome", eos=True, texts=("What", TEXTS[1]))
    assert len({len(row.source) for row in group}) == 3
    path = f"decoder.block.{block}.layer.2.DenseReluDense.wo"
    read = Readings(t5, path).of(group)
    alone = [Readings(t5, path).of([row]) for row in group]
    close = 1e-4 * float(read.a.abs().max())
    assert torch.allclose(read.a, torch.cat([each.a for each in alone]), atol=close)
    assert (read.out is None) == (block == 0)
    assert len(read.a) == sum(len(row.target) for row in group)


def test_a_group_is_run_once_and_the_first_are_kept(tiny: BaseModel, group: list[Row]) -> None:
    size = sum(x.nbytes for x in Readings(tiny, SITES[1]).of(group) if x is not None)
    readings = Readings(tiny, SITES[1], room=size)
    first, others = group, group[1:]
    assert readings.kept(first) is None
    read = readings.of(first)
    assert readings.of(first) is read
    again = readings.of(others), readings.of(others)
    assert again[0] is not again[1]  # no room for both
    assert torch.equal(again[0].a, again[1].a)
    assert readings.kept(first) is read
