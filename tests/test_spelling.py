"""Words with a typo are put right, and nothing else is touched."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoir_edge.spelling import LONGEST, Spelling

WORDPIECE = {
    w: i for i, w in enumerate(["the", "capital", "france", "hotel", "##s", "hostel", "of"])
}
respell = Spelling(WORDPIECE)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("the captial of france", "the capital of france"),  # two letters swapped
        ("the capitl of france", "the capital of france"),  # one too few
        ("the capiital of france", "the capital of france"),  # one too many
        ("the capitql of france", "the capital of france"),  # a wrong one
        ("The Captial of FRANCE?", "The Capital of FRANCE?"),
        ("Darrieux, of Ys", "Darrieux, of Ys"),  # names that no slip explains
        ("hte", "hte"),  # short words are near to too many
        ("hosel", "hotel"),  # hostel, too, is a slip away; hotel is commoner
        ("frnace 2024", "france 2024"),
        ("frnacé", "frnacé"),
        ("", ""),
    ],
)
def test_a_typo_is_put_right(typed: str, meant: str) -> None:
    assert respell(typed) == meant


@pytest.mark.parametrize(
    "vocabulary", [{"▁capital": 0, "ital": 1}, {"Ġcapital": 0, "ital": 1}, {"ĠCapital": 3}]
)
def test_whole_words_are_told_from_pieces(vocabulary: dict[str, int]) -> None:
    spelling = Spelling(vocabulary)
    assert spelling("captial") == "capital"
    assert spelling("itla") == "itla"


def test_many_strange_words_are_no_typos() -> None:
    assert respell("captial frnace hotle hostl") == "capital france hotel hostel"
    assert respell("captial frnace hotle hostl Ysss") == "captial frnace hotle hostl Ysss"


def test_long_texts_stay_as_they_are() -> None:
    text = "captial " * (LONGEST // 8)
    assert "captial" not in respell(text)
    assert respell(text + "x") == text + "x"


@given(st.text())
def test_what_is_put_right_stays_so(text: str) -> None:
    assert respell(respell(text)) == respell(text)


@given(st.sampled_from(["capital", "france", "hostel"]), st.randoms(use_true_random=False))
def test_any_swap_of_neighbours_is_undone(word: str, dice: random.Random) -> None:
    i = dice.randrange(len(word) - 1)
    typed = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    assert respell(typed) == word
