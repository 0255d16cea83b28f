"""When an answer counts as an edit's own."""

import pytest

from memoir_edge.answers import SLACK, Answer, holds, room


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


def test_an_answer_has_room_to_run_past_the_longest_target() -> None:
    assert room(list, ["ab", "abcd"]) == len(" abcd") + SLACK
    assert room(list, []) == SLACK
