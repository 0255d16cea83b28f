"""What a report says."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from memoir_edge.report.page import Section, Table, Verdict, page_of

FILE = Path("facts.safetensors")


def section(page, title) -> Section:
    return next(each for each in page.sections if each.title == title)


def test_every_edit_stands_with_its_check(small, report):
    (table,) = section(page_of(small, FILE, report), "Edits").tables
    assert table.columns[-4:] == ["answer", "overlap", "holds", "source"]
    assert [row[-2] for row in table.rows] == [Verdict("yes", True), Verdict("no", False), None]
    assert table.rows[0][:3] == ["a", "The capital of France is", "Rome"]
    assert table.rows[2][1] == "(withheld)"


def test_an_edit_that_was_asked_and_is_not_held_stands_there_as_failed(make, small, report):
    memory = make({"b": small.edits[1].record})
    found = section(page_of(memory, FILE, report), "Edits")
    (table,) = found.tables
    assert found.note.endswith("Those without keys were asked, and are not in this memory.")
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["id"], row["keys"]) for row in rows] == [("b", 1), ("a", None)]
    assert rows[1]["prompt"] == "The capital of France is"
    assert rows[1]["holds"] == Verdict("no", False)


def test_numbers_stand_at_the_right_beside_gaps_and_not_beside_text():
    rows = [["a", 1, None, None, 1, Verdict("yes", True)], ["b", 2.5, 3, None, "?", 1]]
    assert Table(["a", "b", "c", "d", "e", "f"], rows).numeric == {1, 2}
    assert Table((), [["a", 1]]).numeric == Table(["a"], []).numeric == frozenset()


def test_shares_have_their_intervals(small, report):
    (table,) = section(page_of(small, FILE, report), "Routing").tables
    assert table.rows[0] == ["rephrasings that reach their edit", 2, 0.5, "0.095 to 0.905"]
    assert [row[1:3] for row in table.rows] == [[2, 0.5], [2, 0.5], [1, 0.0]]


def test_prompts_that_fire_and_should_not_are_listed(small, report):
    title = "Prompts that fire and should not"
    (table,) = section(page_of(small, FILE, report), title).tables
    assert [list(row) for row in table.rows] == [
        ["The capital of Spain is", "a", None, 0.9, " Rome", " Madrid"]
    ]
    quiet = replace(report, said=report.said[:2])
    assert section(page_of(small, FILE, quiet), title).tables == []


def test_without_an_evaluation_nothing_is_claimed(small):
    page = page_of(small, FILE)
    assert page.figures == [("3", "edits, not asked for this report")]
    assert {"Answers", "Routing"}.isdisjoint(each.title for each in page.sections)


def test_a_comparison_lists_changes_and_both_answers(small, make, report):
    before = make({"a": {"prompt": "The capital of France is", "target": "Lyon"}, "d": None})
    both = (report.said[2:4], report.said[2:4])
    changed, answers = section(page_of(small, FILE, old=before, both=both), "What changed").tables
    assert [list(row) for row in changed.rows] == [
        ["came", "b", small.edits[1].record["prompt"], None, "a | b\n# c"],
        ["came", "c", None, None, None],
        ["went", "d", None, None, None],
        ["changed", "a", "The capital of France is", "Lyon", "Rome"],
    ]
    assert [row[-1] for row in answers.rows] == ["same", "same"]


def test_what_went_has_no_target_any_more(small, make):
    before = make({"a": small.edits[0].record, "d": {"prompt": "Oslo is in", "target": "Peru"}})
    page = page_of(make({"a": small.edits[0].record}), FILE, old=before)
    (table,) = section(page, "What changed").tables
    assert table.columns[-2:] == ["target before", "target"]
    assert [list(row) for row in table.rows] == [["went", "d", "Oslo is in", "Peru", None]]


def test_how_to_verify_names_the_digest_and_the_file(small):
    found = section(page_of(small, FILE), "How to verify")
    assert small.digest in found.note
    assert found.commands[0] == "sha256sum facts.safetensors"


@pytest.mark.parametrize("name", ["my facts.st", "it's $HOME.st", "a;b&c.st", "fä.st", "-n.st"])
def test_how_to_verify_can_be_pasted_into_a_shell(small, name):
    first, second = section(page_of(small, Path("some folder", name)), "How to verify").commands
    for words in (shlex.split(first), shlex.split(second)):
        assert Path(words[-1]) == Path(name)
        assert not words[-1].startswith("-")


def test_a_notebook_shows_a_memory_s_edits(small):
    shown = small._repr_html_()
    assert "<td>a</td><td>The capital of France is</td><td>Rome</td><td>0.700</td>" in shown
    assert "<script" not in shown
