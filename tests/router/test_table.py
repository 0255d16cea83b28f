"""Edits in, routes out."""

from collections.abc import Sequence

import numpy as np

from memoir_edge import tophash
from memoir_edge.edits import Edit
from memoir_edge.relations import Relation
from memoir_edge.router.asks import Asked, Guard, Miss, asks
from memoir_edge.router.encoder import Router
from memoir_edge.router.reading import Reading
from memoir_edge.router.table import GUARD, Table, coded, tabulate
from memoir_edge.router.thresholds import HIGHEST
from memoir_edge.tophash import Bytes

RELATIONS = (
    Relation("country.capital", ("The capital of {} is", "The seat of {} is", "{} is led from?")),
    Relation("country.currency", ("The money of {} is", "In {} one pays with", "{} pays with?")),
)


def edits() -> list[Edit]:
    return [
        Edit(prompt=f"The capital of {name} is", target="x", id=name, subject=name, tags={})
        for name in ("Nepal", "Kenya")
    ]


def routes(table: Table, router: Router, *texts: str) -> list[int]:
    found = tophash.route(router.codes(texts), np.zeros(1, np.int64), table.codes, table.owner,
                          table.thresholds, router.weight)  # fmt: skip
    return found.route.tolist()


def test_prompts_reach_their_edit_and_near_misses_the_base_model(words: Router) -> None:
    table = tabulate(asks(edits(), RELATIONS, words), words)
    assert routes(table, words, "The capital of Nepal is", "The seat of Kenya is") == [1, 2]
    assert routes(table, words, "The capital of Cuba is", "The money of Nepal is") == [-1, -1]


def test_rows_stand_edit_by_edit_the_prompt_first(words: Router) -> None:
    table = tabulate(asks(edits(), RELATIONS, words), words)
    starts = [int(np.flatnonzero(table.edit == i)[0]) for i in (0, 1)]
    assert [table.texts[i] for i in starts] == [e.prompt for e in edits()]
    assert table.edit.tolist() == sorted(table.edit.tolist())
    assert set(table.owner.tolist()) == {0, 1, GUARD}
    assert len(table.texts) == len(table.codes) == len(table.owner) == len(table.thresholds)


def test_without_any_near_miss_a_key_answers_next_to_itself_alone(words: Router) -> None:
    [one] = asks([Edit(prompt="...", target="x", id="x", tags={})], RELATIONS, words)
    assert one.misses == ()
    assert tabulate([one], words).thresholds.tolist() == [np.float32(HIGHEST)]


def test_rows_know_how_near_they_are_to_their_subject(words: Router) -> None:
    unnamed = Edit(prompt="...", target="x", id="x", tags={})
    asked = asks([*edits(), unnamed], RELATIONS, words)
    found = coded(asked, words)
    for text, edit, near in zip(found.texts, found.keys.edit, found.keys.near_name, strict=True):
        name = asked[edit].reading.subject
        if name is None:
            assert np.isnan(near)
        else:
            [expected] = tophash.overlap(words.codes([text]), words.codes([name]), words.weight)[0]
            assert near == expected
    assert np.isnan(found.keys.near_name[-1])


def test_relations_of_one_name_ask_the_same_whatever_the_kind(words: Router) -> None:
    """ "The Starter plan" may be read as a product in one edit and as a service in another."""

    def one(id_: str) -> Asked:
        reading = Reading("Nepal", Relation(id_, ()), frozenset(), ("country",), 1.0)
        guards = (Guard("a", "city.founder"),)
        return Asked(reading, ("a key",), guards, (Miss("a miss", "Nepal", "place.name"),))

    found = coded([one("product.price"), one("service.price"), one("service.name")], words)
    price, _, also, _, name, guard = found.keys.relation.tolist()
    assert price == also != name != guard
    assert found.misses.relation.tolist() == [name] * 3


class Counting:
    """A router that says what it was given."""

    kind = "encoder"

    def __init__(self, router: Router) -> None:
        self.router, self.read = router, list[str]()
        self.bits, self.weight, self.digest = router.bits, router.weight, router.digest
        self.respelling = router.respelling

    def codes(self, texts: Sequence[str]) -> Bytes:
        """As the router makes them."""
        self.read += texts
        return self.router.codes(texts)


def test_codes_that_are_known_are_not_made_anew(words: Router) -> None:
    asked = asks(edits(), RELATIONS, words)
    table = tabulate(asked, words)
    counting = Counting(words)
    again = tabulate(asked, counting, known=dict(zip(table.texts, table.codes, strict=True)))
    assert np.array_equal(again.codes, table.codes)
    assert np.array_equal(again.thresholds, table.thresholds)
    assert counting.read
    assert not set(counting.read) & set(table.texts)
