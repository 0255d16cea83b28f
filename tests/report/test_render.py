"""A report as HTML and as Markdown: what a memory holds stays text."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from memoir_edge.errors import InputError
from memoir_edge.report import page_of, render, suffix_of, write
from memoir_edge.report.page import Page, Section, Table, Verdict
from memoir_edge.report.render import markdown

FILE = Path("facts.safetensors")
VOID = {"meta"}


class Elements(HTMLParser):
    """The elements of a page, with the texts of its cells; refuses what is not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.names, self.cells = [], set(), []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.open += [] if tag in VOID else [tag]
        self.cells += [""] if tag == "td" else []
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["td"]:
            self.cells[-1] += data


def test_a_page_holds_no_markup_but_its_own(small, report):
    page = Elements(render(page_of(small, FILE, report), ".html"))
    assert not page.names & {"script", "img", "link", "iframe", "a", "form"}
    assert small.edits[1].record["prompt"] in page.cells
    assert {"svg", "polyline", "circle"} <= page.names


class Counted(list):
    """A row that counts how often it is read."""

    read = 0

    def __getitem__(self, at):
        Counted.read += 1
        return super().__getitem__(at)

    def __iter__(self):
        Counted.read += 1
        return super().__iter__()


@pytest.mark.parametrize("suffix", [".html", ".md"])
def test_a_row_is_read_no_more_often_where_there_are_many(suffix, monkeypatch):
    monkeypatch.setattr(Counted, "read", 0)
    rows = [Counted([f"edit {i}", i, None, Verdict("yes", True)]) for i in range(500)]
    table = Table(["id", "keys", "threshold", "holds"], rows)
    text = render(Page("title", "lead", [], [Section("Edits", tables=[table])]), suffix)
    assert "edit 499" in text
    assert Counted.read < 10 * len(rows)


def test_a_page_asks_nobody_for_anything(small, report):
    text = render(page_of(small, FILE, report), ".html")
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text


def test_markdown_has_a_table_of_every_edit(small, report):
    text = render(page_of(small, FILE, report), ".md")
    lines = [line for line in text.splitlines() if line.startswith("| a |")]
    assert lines == [
        "| a | The capital of France is | Rome | 1 | 0.700 | 0.750 | Rome | 1.000 | yes "
        "| ticket 7 |"
    ]
    assert "<script>" not in text.replace("\\<script\\>", "")
    header = text.splitlines().index("## Edits")
    table = text.splitlines()[header + 4 : header + 9]
    assert {line.replace("\\|", "").count("|") for line in table} == {11}


@pytest.mark.parametrize("text", ["a\n# b", "[x](y)", "![x](y)", "`x`", "a|b", "<b>", "**b**"])
def test_a_value_stays_on_its_line_and_means_nothing(text):
    shown = markdown(text)
    assert "\n" not in shown
    assert shown.replace("\\", "") == " ".join(text.split())
    assert all(shown[i - 1] == "\\" for i, c in enumerate(shown) if c in "#[]()!`|<>*")


def test_a_form_is_known_by_the_file_s_name(small, tmp_path):
    assert suffix_of(Path("a.html")) == ".html"
    with pytest.raises(InputError, match="cannot be written as"):
        suffix_of(Path("a.pdf"))
    write(tmp_path / "a.md", page_of(small, FILE))
    assert (tmp_path / "a.md").read_text().startswith("# facts.safetensors\n")
    with pytest.raises(InputError, match="cannot write"):
        write(tmp_path / "none" / "a.md", page_of(small, FILE))
