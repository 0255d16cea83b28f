"""Plots as points."""

import pytest

from memoir_edge.report.plots import BINS, overlaps, roc


def test_a_histogram_of_shares_sums_to_one(report):
    plot = overlaps(report.said)
    assert [line.name for line in plot.lines] == ["rephrasings", "hard negatives", "unrelated"]
    for line in plot.lines:
        assert sum(y for _, y in line.points[1:-1:2]) == pytest.approx(1)
        assert len(line.points) == 2 * BINS + 2


def test_the_curve_rises_from_nothing_to_all_and_the_mark_is_what_happened(report):
    plot = roc(report.said)
    (line,) = plot.lines
    # Hard negatives: 0.9, and one that is nearest to a guard; rephrasings: 0.8 and 0.4.
    assert line.points == [(0, 0), (0.5, 0), (0.5, 0.5), (0.5, 1), (1, 1), (1, 1)]
    assert plot.mark == (0.5, 0.5)


def test_nothing_is_drawn_of_nothing(report):
    assert overlaps(()) is None
    assert roc(report.said[:4]) is None
