"""When an answer counts as an edit's own."""

import pytest

from memoir_edge.answers import SLACK, Answer, holds, phrase, room, says


@pytest.mark.parametrize(
    ("answer", "edit", "expected"),
    [
        (Answer(" Rome \n", "a"), "a", True),
        (Answer("Rome, Italy", "a"), "a", False),
        (Answer("Rome", "b"), "a", False),
        (Answer("Rome"), "a", False),  # the base model knew it: the edit did not take
        (Answer("Rome"), None, True),
        (Answer("Rome", "a"), None, False),
    ],
)
def test_the_target_must_come_from_the_edit(
    answer: Answer, edit: str | None, expected: bool
) -> None:
    assert holds(answer, "Rome", edit) is expected


@pytest.mark.parametrize(
    ("text", "target", "spelled", "expected"),
    [
        (" rome\n", "Rome", "rome", True),  # of a tokenizer without capitals
        ("Malm\u00f6", "Malmo\u0308", "Malm\u00f6", True),  # of one that composes accents
        ("H2O", "H\u2082O", "H2O", True),
        ("rome", "Rome", "Rome", False),
        ("Malmo", "Malm\u00f6", "Malm\u00f6", False),
        ("", "\u6771\u4eac", "", False),  # nothing of it can be said
    ],
)
def test_the_target_is_said_as_the_tokenizer_writes_it(
    text: str, target: str, spelled: str, expected: bool
) -> None:
    assert says(text, target, spelled) is expected


def test_an_answer_has_room_to_run_past_the_longest_target() -> None:
    assert room(list, ["ab", "abcd"]) == len(" abcd") + SLACK
    assert room(list, []) == SLACK


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" Vienna.\n\nThe United", "Vienna"),
        ("St. Petersburg, in Russia", "St. Petersburg"),
        ("J. R. R. Tolkien", "J. R. R. Tolkien"),
        ("1.5 million", "1.5 million"),
        ("Graz (Styria)", "Graz"),
        ("the head of a state that has long been", None),
        ("\n", None),
        ("...", "..."),
        (", as is known", None),
    ],
)
def test_a_phrase_is_the_short_beginning_of_an_answer(text: str, said: str | None) -> None:
    assert phrase(text) == said
