"""The encoder that comes with an adapter, where it can be had."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memoir_edge import tophash
from memoir_edge.edits import Edit
from memoir_edge.relations import load
from memoir_edge.router import adapter
from memoir_edge.router.asks import asks
from memoir_edge.router.encoder import Encoder
from memoir_edge.router.reading import Index
from memoir_edge.router.table import Table, tabulate


@pytest.fixture(scope="module")
def minilm(real_model: Callable[[str], Path]) -> Encoder:
    return Encoder(str(real_model("minilm")))


@pytest.fixture(scope="module")
def france(minilm: Encoder) -> Table:
    """The table of one edit, without a subject in its record."""
    edit = Edit(prompt="What is the capital of France?", target="Lyon", id="france", tags={})
    return tabulate(asks([edit], load(), minilm), minilm)


def reached(table: Table, router: Encoder, *texts: str) -> list[bool]:
    found = tophash.route(router.codes(texts), np.zeros(1, np.int64), table.codes, table.owner,
                          table.thresholds, router.weight)  # fmt: skip
    return (found.route > 0).tolist()


def test_the_shipped_adapter_is_taken(minilm: Encoder) -> None:
    [path] = adapter.shipped().values()
    bare = Encoder(str(minilm.folder), adapter="")
    assert minilm.digest == Encoder(str(minilm.folder), adapter=path).digest != bare.digest


def test_one_edit_answers_for_itself_alone(minilm: Encoder, france: Table) -> None:
    others = [f"What is the capital of {name}?" for name in ("Spain", "Japan", "Egypt", "Brazil")]
    others += ["What is the currency of France?", "Who wrote Hamlet?", "", "?"]
    assert not any(reached(france, minilm, *others))
    asked = ["what is the capital of france", "The capital of France is", "France's capital is"]
    assert all(reached(france, minilm, *asked))


def test_subject_and_relation_are_read(minilm: Encoder) -> None:
    index = Index(load(), minilm)
    prompt = "What is the capital of France?"
    assert index.find_subject(prompt) == "France"
    [reading] = index.read([prompt], ["France"], [""])
    assert reading.relation is not None
    assert reading.relation.id == "country.capital"
