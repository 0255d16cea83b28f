"""A small memory, and an evaluation whose answers are written down."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from memoir_edge.answers import Answer
from memoir_edge.evaluate.metrics import (
    HARD,
    OWN,
    REPHRASED,
    UNRELATED,
    Detail,
    Free,
    Report,
    Routing,
    Said,
    Scores,
)  # fmt: skip
from memoir_edge.memory import Base, Entry, Memory, from_dense
from memoir_edge.tophash import pack

D, d, k = 16, 4, 8
SCRIPT = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def _memory(records: dict[str, dict[str, Any] | None], **changes: Any) -> Memory:
    R = len(records)
    masks = np.array([np.roll(np.arange(D) < k, 2 * row) for row in range(R)]).reshape(R, D)
    given: dict[str, Any] = {
        "site": "model.layers.1.mlp.down_proj",
        "feature": "mean",
        "k": k,
        "base": Base("demo", "ab" * 32),
        "bank": pack(masks),
        "owner": np.arange(R, dtype=np.int32),
        "thresholds": np.full(R, 0.7, np.float32),
        "center": np.zeros(D, np.float32),
        "scale": np.ones(D, np.float32),
        "permutation": np.arange(D, dtype=np.int32),
        "edits": tuple(Entry(id, row, record) for row, (id, record) in enumerate(records.items())),
        "digest": "cd" * 32,
    }
    return from_dense(np.ones((d, D), np.float32), **(given | changes))


@pytest.fixture
def make() -> Callable[..., Memory]:
    """A memory of edits by their ids and records."""
    return _memory


@pytest.fixture
def small() -> Memory:
    return _memory(
        {
            "a": {"prompt": "The capital of France is", "target": "Rome", "source": "ticket 7"},
            "b": {"prompt": SCRIPT, "target": "a | b\n# c"},
            "c": None,
        }
    )


@pytest.fixture
def report() -> Report:
    """Of the edits a and b: a holds, b does not; one hard negative of two fires."""
    said = (
        Said(OWN, "a", "The capital of France is", "Rome", Answer(" Rome", "a", 1.0)),
        Said(OWN, "b", SCRIPT, "a | b\n# c", Answer(SCRIPT, None, 0.5)),
        Said(REPHRASED, "a", "France is governed from", "Rome", Answer(" Rome", "a", 0.8)),
        Said(REPHRASED, "a", "French capital:", "Rome", Answer(" Paris", None, 0.4)),
        Said(UNRELATED, "a", "Water is", None, Answer(" wet", None, 0.1), " wet"),
        Said(HARD, "a", "The capital of Spain is", None, Answer(" Rome", "a", 0.9), " Madrid"),
        Said(HARD, "a", "The king of France", None, Answer(" Louis", None, 0.85, None, True), ""),
    )
    return Report(
        edits=2,
        prompts={"rephrase": 2, "locality": 1, "hard_negatives": 2},
        teacher_forced=Scores(0.5, 0.5, 1.0),
        free=Free(0.5, 0.5, 1.0, 0.5),
        routing=Routing(0.5, 0.5, 0.0),
        detail=Detail(*[None] * 7),
        failed=["b"],
        said=said,
    )
