"""What a check asks of edits, and when they hold."""

from dataclasses import replace

import pytest

from memoir_edge.editor.checks import Asked, Case, audit, cases
from memoir_edge.edits import Edit
from memoir_edge.history.events import FORM, KEY, MISS, PROMPT, Audit, Wrong

A, B = (Edit(id=i, prompt=f"The capital of {i} is", target="Rome", tags={}) for i in "ab")
KEYS = [f"key {i}" for i in range(9)]
MISSES = [f"miss {i}" for i in range(9)]


def asked(edit: Edit, sort: str, held: bool, fired: str | None) -> Asked:
    return Asked(Case(edit, sort, f"{sort} of {edit.id}"), held, "" if held else "Bern", fired)


OWN = [asked(A, PROMPT, True, "a"), asked(B, PROMPT, True, "b")]


def test_a_sample_of_each_sort_is_asked_and_the_same_each_time() -> None:
    found = cases(A, [A.prompt, *KEYS], MISSES, 2, formed=True, chat=True)
    sorts = [case.sort for case in found]
    assert sorts == [PROMPT, FORM, FORM, KEY, KEY, MISS, MISS, MISS, MISS]
    assert [case.chat for case in found[1:3]] == [True, False]
    assert len({(case.text, case.chat) for case in found}) == len(found)
    assert cases(A, [A.prompt, *KEYS], MISSES, 2, formed=True, chat=True) == found


@pytest.mark.parametrize("made", [0, 2])
def test_all_keys_of_the_record_are_asked_and_a_sample_of_the_others(made: int) -> None:
    edit = replace(A, keys=(*KEYS, *["made 0", "made 1"][:made]), made=made)
    further = ["phrasing 0", "phrasing 1"]
    found = cases(edit, [A.prompt, *edit.keys, *further], [], 1, formed=False, chat=False)
    assert [case.text for case in found[: 1 + len(KEYS)]] == [A.prompt, *KEYS]
    [last] = found[1 + len(KEYS) :]
    assert last.text in {*edit.keys[len(KEYS) :], *further}


def test_what_ends_in_an_article_is_to_be_gone_on_with_behind_it() -> None:
    edit = replace(A, target="the Tiber")
    wanted = {"It lies on the": "Tiber", "It lies on": "the Tiber"}
    for text, target in wanted.items():
        assert Case(edit, KEY, text).target == target
        assert (
            Case(edit, PROMPT, text).target
            == Case(edit, FORM, text, chat=True).target
            == "the Tiber"
        )


def test_forms_keep_the_capital_of_a_name_that_begins_with_the() -> None:
    edit = replace(A, prompt="The Hague lies in", subject="The Hague")
    texts = [case.text for case in cases(edit, [], [], 9, formed=True, chat=False)]
    assert "Do you know: The Hague lies in?" in texts
    assert "Do you know: the Hague lies in?" not in texts


def test_a_prompt_alone_is_asked_where_nothing_more_is_wanted() -> None:
    assert cases(A, KEYS, MISSES, 0, formed=True, chat=True) == [Case(A, PROMPT, A.prompt)]


def test_an_edit_that_fails_in_a_form_does_not_hold_and_is_trained_again() -> None:
    found = audit([A, B], [*OWN, asked(A, FORM, True, "a"), asked(B, FORM, False, "b")], 0.01)
    assert (found.failed, found.worn) == (["b"], ["b"])
    assert found.tally == {"a": {PROMPT: (1, 1), FORM: (1, 1)}, "b": {PROMPT: (1, 1), FORM: (1, 0)}}
    assert found.wrong == [Wrong("b", FORM, "form of b", "Bern", "b")]
    assert [probe.edit for probe in found.probes] == ["a", "b"]


@pytest.mark.parametrize("fired", [None, "a"])
def test_what_does_not_reach_its_edit_is_named_and_not_trained(fired: str | None) -> None:
    found = audit([A, B], [*OWN, asked(B, KEY, False, fired)], 0.01)
    assert (found.failed, found.worn) == (["b"], [])


@pytest.mark.parametrize(
    ("fires", "share", "failed"),
    [(1, 0.1, []), (2, 0.1, ["b"]), (9, 0.0, [])],
    ids=["within the share", "beyond it", "no share was promised"],
)
def test_near_misses_may_fire_up_to_a_share(fires: int, share: float, failed: list[str]) -> None:
    missed = [asked(B, MISS, i >= fires, "b" if i < fires else None) for i in range(10)]
    found = audit([A, B], [*OWN, *missed], share)
    assert (found.failed, found.worn) == (failed, [])
    assert found.tally["b"][MISS] == (10, 10 - fires)
    assert len(found.wrong) == fires


def test_what_was_found_of_edits_that_are_not_asked_again_stands() -> None:
    """Tallies, what was wrong, and the share of near misses that fire."""
    missed = [asked(B, MISS, i > 0, "b" if i == 0 else None) for i in range(10)]
    before = audit([A, B], [*OWN, asked(B, KEY, False, "b"), *missed], 0.1)
    found = audit([A, B], [OWN[0], asked(A, MISS, False, "a")], 0.1, before)
    assert list(found.tally) == ["a", "b"]
    assert found.tally["b"] == before.tally["b"]
    assert found.tally["a"] == {PROMPT: (1, 1), MISS: (1, 0)}
    assert [one.edit for one in found.wrong] == ["b", "b", "a"]
    assert (found.checked, found.failed) == (2, ["b"])  # 2 of 11 may fire
    assert [probe.edit for probe in found.probes] == ["a", "b"]
    assert audit([A], [], 0.1, found).wrong == [found.wrong[2]]  # b is gone


def test_a_journal_of_an_earlier_version_asked_prompts_alone() -> None:
    found = Audit.of({"checked": 2, "failed": ["b"], "probes": []}, {})
    assert (found.failed, found.worn, found.tally, found.wrong) == (["b"], ["b"], {}, [])
