"""The base model: its answers."""

from memoir_edge.editor import BaseModel
from memoir_edge.editor.model import greedy


def test_answers_end_at_the_context(tiny: BaseModel) -> None:
    row = tiny.encode("word " * 40)[:60]
    assert len(greedy(tiny, [row], 20, stop=False)[0]) == tiny.context - len(row)
    assert greedy(tiny, [row[:1] * tiny.context], 20) == [[]]
