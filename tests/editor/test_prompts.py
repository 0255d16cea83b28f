"""Prompts beside an edit: other ways to type it."""

from collections.abc import Callable
from dataclasses import replace

from memoir_edge.editor import BaseModel, Editor, Settings
from memoir_edge.editor.prompts import ways
from memoir_edge.edits import Edit

MakeEdit = Callable[..., Edit]


def test_an_edit_is_given_the_other_ways_to_type_it(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    editor = Editor(tiny, replace(settings, made_keys=4))
    asked = an_edit("Where is France?", "Rome", keys=("where is france",))
    small = an_edit("where is france?", "Rome")  # another edit's own prompt is nobody's key
    first, second = editor.keyed([asked, small])
    behind = f"{editor._texts[0]}. Where is France?"
    assert first.keys == ("where is france", "Where is France", behind)
    assert second.keys[0] == "where is france"
    editor.apply([asked, small])
    assert editor.live.bank.records[asked.id] == first.record()
    assert editor.keyed([small]) == [second]  # as when the run had been interrupted
    assert ways(tiny, "word " * 62) == []  # no room in the context of 64
    assert Editor(tiny, settings).keyed([asked]) == [asked]
