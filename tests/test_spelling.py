"""Words with a typo are put right, and nothing else is touched."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoir_edge.spelling import LONGEST, WHOLE, Spelling

WORDPIECE = {
    w: i for i, w in enumerate(["the", "capital", "france", "hotel", "##s", "hostel", "of"])
}
respell = Spelling(WORDPIECE)
TEXTS = ["What does the TerraScale cost?", "The capital of Ys is", "Cotte is insured with"]
knowing = respell.knowing(TEXTS)


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
        ("the capital o ffrance", "the capital of france"),  # a space is a letter, too
        ("th ecapital of france", "the capital of france"),
        ("the cap ital of france", "the capital of france"),
        ("thecapital offrance", "the capital of france"),
        ("of  france, capit-al", "of  france, capit-al"),  # one space alone
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


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("the TerraSacle", "the TerraScale"),
        ("Whatd oes the terrascale cost?", "What does the terrascale cost?"),
        ("Who insurde Cotet?", "Who insured Cotte?"),  # a known word of either, a swap away
        ("the TerraScal", "the TerraScale"),
        ("the TerraScala", "the TerraScala"),  # another letter may be another name
        ("the captial is insured", "the capital is insured"),
        ("Cotte'sc apital", "Cotte's capital"),
        ("Hotle of Ys", "Hotel of Ys"),
    ],
)
def test_words_of_texts_are_meant_before_others(typed: str, meant: str) -> None:
    assert knowing(typed) == meant
    assert knowing(meant) == meant


def test_the_words_of_some_texts_are_not_known_to_others() -> None:
    assert respell("the TerraSacle") == "the TerraSacle"
    assert knowing.knowing([])("the TerraSacle") == "the TerraSacle"


def test_how_a_name_is_written_does_not_depend_on_the_order_of_the_texts() -> None:
    for texts in (["an abaco", "Abaco"], ["Abaco", "an abaco"]):
        assert respell.knowing(texts)("Abcao abcao") == "Abaco abaco"


def test_long_words_stay_as_they_are() -> None:
    long = "capital" * (LONGEST // 7)
    spelling = Spelling({long: 0, f"{long}{long}": 1, "##s": 2})
    assert spelling(long[1:]) == long
    assert spelling(f"{long}{long[1:]}") == f"{long}{long[1:]}"


def test_long_texts_stay_as_they_are() -> None:
    text = "captial " * (WHOLE // 8)
    assert "captial" not in respell(text)
    assert respell(text + "x") == text + "x"


@given(st.lists(st.sampled_from([*WORDPIECE, "Ys", "Cotte", "TerraScale", "42", "é", "?"])))
def test_what_is_known_stays_as_it_is(words: list[str]) -> None:
    text = " ".join(word for word in words if word != "##s")
    assert knowing(text) == text


@given(st.text())
def test_what_is_put_right_stays_so(text: str) -> None:
    assert respell(respell(text)) == respell(text)


@given(st.text())
def test_nothing_but_letters_and_spaces_is_touched(text: str) -> None:
    def kept(text: str) -> str:
        return "".join(c for c in text if not (c.isascii() and c.isalpha()) and c != " ")

    assert kept(knowing(text)) == kept(text)


@given(st.sampled_from(["capital", "france", "hostel"]), st.randoms(use_true_random=False))
def test_any_swap_of_neighbours_is_undone(word: str, dice: random.Random) -> None:
    i = dice.randrange(len(word) - 1)
    typed = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    assert respell(typed) == word
