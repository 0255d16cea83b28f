"""Whether a memory's keys are a router's codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from memoir_edge.errors import MismatchError
from memoir_edge.memory import Base, Memory, no_codes
from memoir_edge.router import check_router, identity


@dataclass(frozen=True)
class Named:
    """A router that is asked nothing."""

    digest: str = "ab" * 32
    kind: str = "encoder"
    bits: int = 64
    weight: int = 32

    def codes(self, texts: Sequence[str]) -> Any:
        raise AssertionError("it is only named")


def memory(router: Named | None) -> Memory:
    return Memory(
        site="layer", feature="mean", k=2, base=Base("tiny"),
        columns=np.zeros(0, np.int32), values=np.zeros((0, 1), np.float32),
        bank=np.zeros((0, 1), np.uint8), owner=np.zeros(0, np.int32),
        thresholds=np.zeros(0, np.float32), center=np.zeros(4, np.float32),
        scale=np.ones(4, np.float32), permutation=np.arange(4, dtype=np.int32), edits=(),
        codes=no_codes(identity(router)) if router else None,
    )  # fmt: skip


@pytest.mark.parametrize("router", [None, Named(), Named(bits=128, weight=64)])
def test_a_memory_fits_its_own_router(router: Named | None) -> None:
    check_router(memory(router), router)


@pytest.mark.parametrize(
    ("has", "wants", "message", "hint"),
    [
        (None, Named(), "by the model's activations", "leave --encoder out"),
        (Named(), None, "by the encoder abababababab, and none was given", "--encoder"),
        (Named(), Named("cd" * 32), "abababababab .* is encoder cdcdcdcdcdcd", "was made with"),
        (Named(), Named(bits=128, weight=64), r"\(64 bits\).*\(128 bits\)", "was made with"),
    ],
)
def test_another_router_is_refused_by_name(
    has: Named | None, wants: Named | None, message: str, hint: str
) -> None:
    with pytest.raises(MismatchError, match=message) as refused:
        check_router(memory(has), wants)
    assert hint in str(refused.value.hint)
