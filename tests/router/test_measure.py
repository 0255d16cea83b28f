"""What a table of routings says, on a router that reads words."""

import numpy as np
import pytest

from memoir_edge.edits import Edit
from memoir_edge.relations import Relation
from memoir_edge.router.asks import asks
from memoir_edge.router.encoder import Router
from memoir_edge.router.measure import further, hindsight, measure

RELATIONS = (
    Relation("country.capital", ("The capital of {} is", "The seat of {} is", "{} is led from?")),
    Relation("country.currency", ("The money of {} is", "In {} one pays with", "{} pays with?")),
)
OTHER = RELATIONS[1:]  # the prompts' own is unknown


def edit(prompt: str, subject: str, *keys: str) -> Edit:
    return Edit(prompt=prompt, target="x", subject=subject, tags={}, id=prompt, keys=keys)


def test_guards_stop_what_the_prompt_alone_lets_through(words: Router) -> None:
    edits = [
        edit(f"The capital of {name} is", name, f"Where is the capital of {name}?",
             f"{name} has the capital", f"{name} money?")
        for name in ("Nepal", "Kenya")
    ]  # fmt: skip
    alone, guarded, told = measure(asks(edits, RELATIONS, words), words)
    assert alone.nearest == 1
    assert guarded.nearest < 1  # the last of its keys asks what a guard asks
    assert told.nearest >= guarded.nearest
    assert all(0 <= row.at_1 <= row.at_5 <= row.nearest for row in (alone, guarded, told))


def test_what_a_row_may_be_told_is_not_asked(words: Router) -> None:
    [one] = asks([edit("The capital of Nepal is", "Nepal", "a", "b", "c", "d")], OTHER, words)
    assert further(one) == (("a", "b"), ("c", "d"))
    [one] = asks([edit("The capital of Nepal is", "Nepal", "a")], OTHER, words)
    assert further(one) == ((), ("a",))


def test_nothing_to_ask_is_nothing_to_measure(words: Router) -> None:
    lone = [Edit(prompt="...", target="x", id="x", tags={})]
    assert measure(asks(lone, RELATIONS, words), words) == []


@pytest.mark.parametrize(("bound", "share"), [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75)])
def test_hindsight_moves_the_threshold_until_the_share_fires(bound: float, share: float) -> None:
    above = np.array([0.9, 0.7, 0.5, 0.1])
    missed = np.array([0.8, 0.6, 0.4, -np.inf])
    assert hindsight(np.ones(4, bool), above, missed, bound) == share
