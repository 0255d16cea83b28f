"""The ways in which one command works: what one of them takes no notice of is refused in it."""

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from memoir_edge.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def refuse(mode: str, *groups: "DataclassInstance | None", **options: object) -> None:
    """Raise InputError for the first option given that a way of working takes no notice of.

    Args:
        mode: The way of working, named in the message.
        groups: Options that belong together; those that are as by default are not given.
        options: Others by name; None or a flag that is not set is not given.
    """
    given = dict(pair for group in groups if group for pair in _given(group)) | options
    for name, value in given.items():
        if value is not None and value is not False:
            raise InputError(f"--{name.replace('_', '-')} is not for {mode}", hint="leave it out")


def _given(group: "DataclassInstance") -> Iterator[tuple[str, object]]:
    for field in fields(group):
        value = getattr(group, field.name)
        if value != field.default:
            yield field.name, value
