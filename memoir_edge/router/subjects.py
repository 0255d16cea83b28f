"""Subjects of each kind that relations are asked of: data of the package, `subjects.toml`."""

import functools
import tomllib
from importlib import resources


@functools.cache
def subjects() -> dict[str, list[str]]:
    """Subjects by kind, as written in mid-sentence ("the Netherlands")."""
    text = resources.files("memoir_edge.router").joinpath("subjects.toml").read_text("utf-8")
    return dict(tomllib.loads(text))
