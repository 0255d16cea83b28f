"""What is said of edits before any is trained."""

from typing import Any

import pytest

from memoir_edge.cli.plan import unmeasured
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import Editor, Wishes, choose, load


@pytest.mark.parametrize(
    ("count", "wishes", "warned"),
    [
        (1, {}, True),
        (60, {}, False),  # enough near misses can be made of so many
        (1, {"false_fires": 0.0}, False),
        (1, {"threshold": 0.9}, False),
        (4, {"false_fires": 0.5}, False),
    ],
)
def test_too_few_near_misses_are_told(count: int, wishes: Any, warned: bool) -> None:
    base = load(str(model_dir()), device="cpu")
    editor = Editor(base, choose(base, Wishes(**wishes)))
    assert bool(unmeasured(editor, sample(count))) == warned
    assert unmeasured(editor, []) == []
