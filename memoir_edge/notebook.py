"""Tables for notebooks: plain values as HTML in which every text stays text."""

from collections.abc import Sequence
from html import escape

MOST = 50  # rows; a notebook keeps all that it shows


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table, of long ones the first rows.

    >>> table("1 edit", ["prompt"], [["<b>"]]).partition("<tbody>")[2]
    '<tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    left = len(rows) - MOST
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:MOST])
    more = f", the first {MOST}" if left > 0 else ""
    return (
        f"<table><caption>{escape(caption)}{more}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else "–" if value is None else str(value)
    return f"<td>{escape(text)}</td>"
