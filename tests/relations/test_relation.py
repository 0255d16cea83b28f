"""Filling, choosing and leaving out."""

import doctest

import pytest

import memoir_edge.relations
from memoir_edge.errors import InputError
from memoir_edge.relations import Relation, fill, load, of_kind, question_answer, relation, without

CAPITAL = Relation(
    "country.capital",
    ("The capital of {} is", "What is {}'s capital?", "Tell me {}'s capital."),
    ("P36", "P1376"),
)
ANTHEM = Relation("country.anthem", ("The anthem of {} is",), ("P85",))
PRICE = Relation("product.price", ("{} costs",))


def test_examples_in_docstrings() -> None:
    failed, tried = doctest.testmod(relation)
    assert tried
    assert not failed


def test_forms_are_told_by_their_end() -> None:
    assert CAPITAL.statements == ("The capital of {} is",)
    assert CAPITAL.questions == ("What is {}'s capital?",)
    assert CAPITAL.requests == ("Tell me {}'s capital.",)


@pytest.mark.parametrize(
    ("phrasing", "subject", "text"),
    [
        ("The capital of {} is", "the Netherlands", "The capital of the Netherlands is"),
        ("{} borders on", "the Netherlands", "The Netherlands borders on"),
        ("{} borders on", "élan", "Élan borders on"),
        ("{} costs", "iPhone", "iPhone costs"),
        ("{} costs", "3M tape", "3M tape costs"),
        ("What is {}'s capital?", "the Netherlands", "What is the Netherlands' capital?"),
        ("What is {}'s capital?", "France", "What is France's capital?"),
        ("The port of {} is", "a{}b", "The port of a{}b is"),
        ("{} costs", "", " costs"),
    ],
)
def test_a_phrasing_is_filled(phrasing: str, subject: str, text: str) -> None:
    assert fill(phrasing, subject) == text


def test_a_question_in_the_form_of_collections() -> None:
    asked = question_answer(fill(CAPITAL.questions[0], "France"))
    assert asked == "Question: What is France's capital? Answer:"


def test_relations_of_a_kind() -> None:
    assert of_kind([CAPITAL, PRICE, ANTHEM], "country") == (CAPITAL, ANTHEM)
    assert of_kind([CAPITAL], "ship") == ()


@pytest.mark.parametrize("name", ["country.capital", "P36", "P1376"])
def test_left_out_by_id_or_any_property(name: str) -> None:
    assert without([CAPITAL, ANTHEM, PRICE], [name]) == (ANTHEM, PRICE)


def test_a_property_that_nothing_has_leaves_all() -> None:
    assert without([CAPITAL, PRICE], ["P999"]) == (CAPITAL, PRICE)


def test_a_misspelled_id_is_no_silent_nothing() -> None:
    with pytest.raises(InputError, match=r"no relation 'country\.capitol'"):
        without([CAPITAL], ["country.capitol"])


def test_a_property_leaves_a_fact_out_of_every_kind() -> None:
    owned = {r.id for r in load()} - {r.id for r in without(load(), ["P127"])}
    assert {"organisation.owner", "service.owner", "place.owner", "team.owner"} <= owned


def test_the_public_names() -> None:
    assert memoir_edge.relations.__all__ == [
        "Relation", "answers", "fill", "load", "name_of", "of_kind", "question_answer", "without",
    ]  # fmt: skip
    for name in memoir_edge.relations.__all__:
        assert getattr(memoir_edge.relations, name).__doc__
