"""The batch of training rows: where targets stand, what copies read, and means by row."""

from dataclasses import replace

import pytest
import torch

from memoir_edge.editor import BaseModel, Settings
from memoir_edge.editor.batch import Job, batch_of, check, even, thin, thinned
from memoir_edge.editor.rows import rows
from memoir_edge.errors import InputError


def test_each_target_token_is_wanted_where_it_is_predicted(
    tiny: BaseModel, settings: Settings
) -> None:
    jobs = [
        Job(torch.arange(4), rows(tiny, "The capital of France is", "Rome", eos=True)),
        Job(torch.arange(4, 8), rows(tiny, "Kenya lies in", "Europe", eos=True, texts=["Kenya?"])),
    ]
    batch = batch_of(jobs, replace(settings, thinned=2, thinned_forms=1))
    assert batch.jobs == [slice(0, 3), slice(3, 8)]
    assert batch.source == [0, 0, 0, 1, 2, 1, 1, 2]
    given = [row for job in jobs for row in job.rows]
    for number, source in enumerate(batch.source):
        here = batch.at[0] == number
        row = given[source]
        assert batch.wanted[here].tolist() == row.target
        assert batch.nth[here].tolist() == list(range(len(row.target)))
        assert batch.at[1][here].tolist() == list(
            range(len(row.prompt) - 1, len(row.prompt) - 1 + len(row.target))
        )
        assert batch.rows[source] == row
    assert batch.owner.unique().tolist() == [0, 1]
    means = batch.mean(torch.ones(len(batch.wanted)))
    torch.testing.assert_close(means, torch.ones(8))


def test_the_given_rows_read_all_and_copies_a_part_that_is_theirs(settings: Settings) -> None:
    few = replace(settings, thinned=3, thinned_forms=2, dropout=0.5)
    columns = torch.arange(1000)
    kept = thin(few, 2, columns)
    assert thinned(few, 2) == [0, 0, 0, 1, 1]
    assert kept.shape == (7, 1000)
    assert bool((kept[:2] == 1).all())
    assert bool(((kept[2:].mean(dim=1) - 0.5).abs() < 0.1).all())
    assert torch.equal(kept, thin(few, 2, columns))
    assert not torch.equal(kept, thin(few, 2, columns + 1))


def test_rows_of_one_part_are_about_as_long() -> None:
    lengths = [7, 30, 8, 9, 31, 200]
    parts = even(lengths, first=0)
    assert sorted(row for part in parts for row in part.rows) == list(range(6))
    assert [part.length for part in parts] == [9, 31, 200]


def test_a_loss_that_is_not_finite_is_refused() -> None:
    check([0.1, 2.0], 3)
    with pytest.raises(InputError, match="the loss is nan after 3 steps"):
        check([float("nan")], 3)
    for place in range(3):
        losses = [0.1, 0.2]
        losses.insert(place, float("nan"))
        with pytest.raises(InputError, match="the loss is nan after 3 steps"):
            check(losses, 3)
