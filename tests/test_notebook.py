"""Tables for notebooks."""

from memoir_edge.notebook import MOST, table
from memoir_edge_runtime import Result, Routing

SCRIPT = "<script>alert(1)</script>"


def test_what_is_shown_is_text():
    shown = table(SCRIPT, [SCRIPT], [[SCRIPT, None, 0.5, 3]])
    assert "<script" not in shown
    assert "<td>–</td><td>0.500</td><td>3</td>" in shown


def test_a_long_table_is_cut_and_says_so():
    shown = table("many", ["n"], [[i] for i in range(MOST + 1)])
    assert "<caption>many, the first 50</caption>" in shown
    assert shown.count("<tr>") == MOST + 1
    assert "the first" not in table("few", ["n"], [[i] for i in range(MOST)])


def test_a_result_shows_its_answer_and_its_edit():
    routing = Routing("a", 0.9, 0.7)
    shown = Result(0, SCRIPT, " Rome", (1,), "stop", 3, routing)._repr_html_()
    assert "<td> Rome</td><td>a</td><td>0.900</td><td>0.700</td>" in shown
    assert "<script" not in shown
