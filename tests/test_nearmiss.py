"""Near misses: made from edits alone, likely ones first, the same for the same edits."""

import pytest

from memoir_edge.calibrate import NOBODY
from memoir_edge.edits import Edit, Unrelated
from memoir_edge.nearmiss import Pool, misses, subjects, template


def edit(prompt: str, subject: str | None, **rest: object) -> Edit:
    return Edit(id=prompt, prompt=prompt, target="x", subject=subject, tags={}, **rest)


COUNTRIES = [
    edit("The capital of France is", "France"),
    edit("The capital of Spain is", "Spain"),
    edit("France lies in", "France"),
    edit("The Netherlands lies in", "the Netherlands"),
    edit("The symbol of gold is", "gold"),
]


@pytest.mark.parametrize(
    ("text", "subject", "found"),
    [
        ("The capital of France is", "France", "The capital of \0 is"),
        ("The Netherlands lies in", "the Netherlands", "\0 lies in"),
        ("Who was it?", "France", None),
        ("Who was it?", None, None),
        ("Who was it?", "", None),
        ("The capital of\0France is", "France", None),
    ],
)
def test_template(text: str, subject: str | None, found: str | None) -> None:
    assert template(text, subject) == found


def test_likely_near_misses_come_first() -> None:
    near = Pool(COUNTRIES).of(COUNTRIES[0], 1)
    assert near.template == {"The capital of Spain is": "Spain"}
    assert near.subject == ("France lies in",)


def test_few_likely_ones_are_filled_up() -> None:
    near = Pool(COUNTRIES).of(COUNTRIES[4], 2)
    assert len(near.template) == len(near.subject) == 2
    assert all(text.startswith("The symbol of ") for text in near.template)


def test_a_key_is_missed_like_its_prompt() -> None:
    asked = edit("The capital of France is", "France", keys=("France has its capital in",))
    near = Pool([asked, COUNTRIES[1]]).of(asked, 1)
    assert tuple(near.template) == ("The capital of Spain is", "Spain has its capital in")


def test_a_subject_at_the_beginning_is_written_in_upper_case() -> None:
    near = Pool(COUNTRIES).of(COUNTRIES[2], 5)
    assert "The Netherlands lies in" in near.template


def test_an_edits_prompt_is_a_miss_of_the_others_and_its_keys_are_none() -> None:
    own = edit("A", None, keys=("B", "Gold lies in"))
    assert "Gold lies in" in {miss.text for miss in misses(COUNTRIES)}
    found = {miss.text: miss for miss in misses([*COUNTRIES, own])}
    assert found["The capital of Spain is"].edit == 1
    assert found["A"].edit == len(COUNTRIES)
    assert found["The Netherlands lies in"].subject == NOBODY  # an edit's own: no paraphrase
    assert not set(own.keys) & found.keys()
    assert len({text.casefold() for text in found}) == len(found)


def test_a_subject_is_one_in_any_case_and_with_an_article_or_without() -> None:
    names = [
        ("The Gold plan costs", "The Gold plan"),
        ("Who owns the gold plan?", "the gold plan"),
        ("For Gold plan the hours are", "Gold plan"),
        ("The Free plan costs", "The Free plan"),
    ]
    edits = [edit(prompt, subject) for prompt, subject in names]
    assert subjects(edits) == [0, 0, 0, 3]
    assert set(Pool(edits).of(edits[0], 5).template.values()) == {"The Free plan"}
    asked = {miss.text for miss in misses(edits) if miss.subject == 3}
    assert asked == {"Who owns The Free plan?", "For The Free plan the hours are"}


def test_a_miss_says_which_subject_it_was_made_with() -> None:
    assert subjects(COUNTRIES) == [0, 1, 0, 3, 4]
    assert subjects([edit("A", None), edit("B", None)]) == [0, 1]
    found = {miss.text: miss for miss in misses(COUNTRIES)}
    assert found["Spain lies in"].subject == 1
    assert found["The capital of the Netherlands is"].subject == 3


def test_the_same_edits_give_the_same_misses_and_evaluation_fields_none() -> None:
    seen = [
        edit(
            e.prompt,
            e.subject,
            rephrase=("Rephrased?",),
            locality=(Unrelated("Unrelated?"),),
            hard_negatives=("Hard?",),
        )
        for e in COUNTRIES
    ]
    assert misses(seen) == misses(COUNTRIES)


def test_no_subjects_no_near_misses() -> None:
    assert [m.text for m in misses([edit("A", None), edit("B", "missing")])] == ["A", "B"]
    assert misses([]) == []
