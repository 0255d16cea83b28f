"""A report as HTML or Markdown, by templates. Knows nothing of what a report says.

HTML escapes every value. Markdown has code spans and table cells, and a value can leave neither.
"""

import re
from pathlib import Path
from typing import Any

from memoir_edge import files
from memoir_edge.errors import InputError, install
from memoir_edge.report.page import Page, Verdict

SUFFIXES = (".html", ".md")
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")


def suffix_of(file: Path) -> str:
    """A report's form.

    Raises:
        InputError: The name of the file ends in neither.
    """
    if file.suffix not in SUFFIXES:
        raise InputError(
            f"a report cannot be written as {file.name!r}",
            hint=f"let the name end in {' or '.join(SUFFIXES)}",
        )
    return file.suffix


def write(file: Path, page: Page) -> None:
    """Write a report in the form that the file's name asks for.

    Raises:
        InputError: An unknown form, a file that cannot be written, or jinja2 is not installed.
    """
    text = render(page, suffix_of(file))
    try:
        files.write(file, text.encode())
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from error


def render(page: Page, suffix: str) -> str:
    """A report's text.

    Raises:
        InputError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise InputError("a report needs jinja2", hint=install("eval")) from error
    environment = Environment(
        loader=PackageLoader("memoir_edge.report"),
        autoescape=suffix == ".html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell, "markdown": markdown}
    return environment.get_template(f"report{suffix}").render(page=page)


def cell(value: object) -> str:
    """A value as text: shares with three digits, nothing as a dash.

    >>> cell(0.5), cell(1234567), cell(None)
    ('0.500', '1,234,567', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, Verdict):
        return value.text
    return (
        f"{value:.3f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def markdown(value: Any) -> str:
    r"""A value as Markdown that shows it literally, on one line.

    >>> markdown("<b>a|b</b>")
    '\\<b\\>a\\|b\\</b\\>'
    """
    return _ACTIVE.sub(r"\\\1", " ".join(cell(value).split()))
