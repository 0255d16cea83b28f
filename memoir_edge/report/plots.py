"""Plots of an evaluation as points, both axes from 0 to 1. Knows nothing of how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from memoir_edge.evaluate.metrics import HARD, REPHRASED, UNRELATED, Said

BINS = 20
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A named line."""

    name: str
    points: Points


@dataclass(frozen=True)
class Plot:
    """Lines over axes from 0 to 1, and at most one point that is marked."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    mark: tuple[float, float] | None = None
    note: str = ""


def overlaps(said: Sequence[Said]) -> Plot | None:
    """How the overlaps of each kind of prompt are distributed; None without any."""
    names = {REPHRASED: "rephrasings", HARD: "hard negatives", UNRELATED: "unrelated"}
    found = {kind: [s.answer.overlap for s in said if s.kind == kind] for kind in names}
    lines = [Line(names[kind], _steps(values)) for kind, values in found.items() if values]
    note = f"Shares of the prompts of each kind, in {BINS} steps of the overlap."
    return (
        Plot("Overlap with the nearest key", "overlap", "share", lines, None, note)
        if lines
        else None
    )


def _steps(values: Sequence[float]) -> Points:
    """A histogram's outline."""
    counts = [0] * BINS
    for value in values:
        counts[min(max(int(value * BINS), 0), BINS - 1)] += 1
    edges = [(i / BINS, (i + 1) / BINS, count / len(values)) for i, count in enumerate(counts)]
    return [(0, 0), *((x, y) for low, high, y in edges for x in (low, high)), (1, 0)]


def roc(said: Sequence[Said]) -> Plot | None:
    """How recall and false fires trade off if all keys had one threshold; None without both.

    The mark is what the memory's own thresholds give.
    """
    good = [_score(s) for s in said if s.kind == REPHRASED]
    bad = [_score(s) for s in said if s.kind == HARD]
    if not good or not bad:
        return None
    limits = sorted({*good, *bad}, reverse=True)
    points = [(0.0, 0.0), *((_reach(bad, t), _reach(good, t)) for t in limits), (1.0, 1.0)]
    fired = [s.fired for s in said if s.kind == HARD]
    right = [s.answer.edit == s.edit for s in said if s.kind == REPHRASED]
    mark = sum(fired) / len(fired), sum(right) / len(right)
    note = "The line: one threshold for all keys. The dot: the thresholds that the memory has."
    x, y = "hard negatives that reach an edit", "rephrasings that do"
    return Plot("Recall and false fires", x, y, [Line("one threshold", points)], mark, note)


def _score(said: Said) -> float:
    """The overlap with a key that can fire; a prompt nearest to a guard reaches nothing."""
    return 0.0 if said.answer.guarded else said.answer.overlap


def _reach(scores: Sequence[float], threshold: float) -> float:
    return sum(score >= threshold for score in scores) / len(scores)
