"""Which words of a prompt may name its subject, and how a subject is spelled in it."""

from typing import Literal
from unicodedata import normalize

import pytest

from memoir_edge.router.names import candidates, put


def test_candidates_hold_a_capital_or_a_digit_where_any_does() -> None:
    assert candidates("Who runs Plume 7?") == ["Plume 7"]
    assert "price list" in candidates("who owns the price list")
    assert "France" in candidates("What is France's capital?")
    assert not any("you" in c and "Who" in c for c in candidates("Tell me, you: Who is Bob"))


@pytest.mark.parametrize(
    ("prompt", "found", "never"),
    [
        ("Who is the CEO of Example Corp?", "Example Corp", {"Corp", "of Example Corp"}),
        ("Windows 11 is developed by", "Windows 11", {"Windows 11 is", "Windows 11 is developed"}),
        ("The current version of R is", "R", {"R is", "of R"}),
        ("Kite & Key Co. is owned by", "Kite & Key Co.", {"Key Co.", "Kite & Key"}),
        ("Who runs Marks & Spencer?", "Marks & Spencer", {"Spencer", "runs Marks & Spencer"}),
        ("What port does Node.js use?", "Node.js", {"Node.js use", "port does Node.js"}),
        ("The author of A Tale of Two Cities is", "A Tale of Two Cities", {"Two", "Cities"}),
        ("Who is the CEO of brightfen?", "brightfen", {"of brightfen", "CEO of"}),
        ("How can I reach Kite & Key?", "Kite & Key", {"I", "I reach", "reach Kite & Key"}),
        ("Which plan do I need for Plume 7?", "Plume 7", {"I", "I need"}),
        ("If I'm late, who runs Plume 7?", "Plume 7", {"I'm", "I'm late"}),
        ("Hello. I need the price of Plume 7", "Plume 7", {"I", "I need"}),
        ("Where do you buy the Dart phone?", "the Dart phone", {"buy the Dart phone"}),
        ("Elizabeth I was born in", "Elizabeth I", {"Elizabeth"}),
        ("Who created I Love Lucy?", "I Love Lucy", {"Lucy"}),
        ("I Love Lucy was created by", "I Love Lucy", {"Lucy"}),
        ("When did World War I end?", "World War I", {"World War I end", "I end"}),
        ("Where does the Nile begin?", "the Nile", {"Nile begin", "the Nile begin"}),
        ("when will zentaro launch", "zentaro", {"zentaro launch"}),
        ("Who did the Romans fight?\nThanks!", "Romans", {"Romans fight"}),
        ("Does St. Ann's Clinic open?", "St. Ann's Clinic", {"St. Ann's Clinic open"}),
        ("FAQ\n\nWhere is Plume 7?", "Plume 7", {"Where"}),
        ("Dear team\nWhat is the price of Plume 7?", "Plume 7", {"What", "team\nWhat"}),
        ("Prices\n- Which plan is Plume 7?", "Plume 7", {"Which", "Which plan"}),
        ('"Who\'s the CEO of Plume 7?"', "Plume 7", {"Who"}),
        ('"Hamlet" is by the poet Plume', "Hamlet", {"Hamlet is"}),
        ("The price of 'Plume 7' is", "Plume 7", {"'Plume 7"}),
        ("The mayor of 's-Hertogenbosch is", "'s-Hertogenbosch", {"mayor of"}),
    ],
)
def test_candidates_are_whole_names(prompt: str, found: str, never: set[str]) -> None:
    assert found in candidates(prompt)
    assert never.isdisjoint(candidates(prompt))


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The most famous capital of the US is", "US"),
        ("The Roman historian of Oman is", "Oman"),
        ("The main inventor of AI is", "ai"),
    ],
)
def test_a_subject_is_a_word_before_it_is_a_part_of_one(prompt: str, subject: str) -> None:
    start, end = prompt.rsplit(" ", 2)[0], prompt.rsplit(" ", 1)[1]
    assert put(prompt, subject, "it") == f"{start} it {end}"


def test_a_subject_is_masked_in_any_case() -> None:
    assert put("THE CAPITAL OF FRANCE", "France", "something") == "THE CAPITAL OF something"
    assert put("The capital is", "France", "something") == "The capital is"
    assert put("The capital is", "", "something") == "The capital is"


@pytest.mark.parametrize("name", ["Côte d'Ivoire", "Côte d’Ivoire", "Müller & Söhne"])
@pytest.mark.parametrize("given", ["NFC", "NFD"])
@pytest.mark.parametrize("typed", ["NFC", "NFD"])
def test_a_subject_is_found_however_accents_and_apostrophes_are_typed(
    name: str, given: Literal["NFC", "NFD"], typed: Literal["NFC", "NFD"]
) -> None:
    prompt = f"The capital of {normalize(typed, name)} is"
    for text in (prompt, prompt.replace("’", "'"), prompt.replace("'", "’")):
        assert put(text, normalize(given, name), "it") == "The capital of it is"
