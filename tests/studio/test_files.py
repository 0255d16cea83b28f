"""What is kept is what `apply` would have written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import memory as memory_file
from memoir_edge.editor import Editor
from memoir_edge.edits import Edit, read
from memoir_edge.errors import InputError
from memoir_edge.history import begin, path_of
from memoir_edge.history import load as load_journal
from memoir_edge.studio.files import Files

Paths = tuple[Path, Path]


@pytest.fixture
def edited(make_editor: Callable[[], Editor], france: Edit) -> Editor:
    editor = make_editor()
    editor.edit([france])
    return editor


def test_an_edit_is_in_all_three_files(
    make_files: Callable[[], Files], paths: Paths, edited: Editor, france: Edit
) -> None:
    files, (memory, edits) = make_files(), paths
    made = files.keep(france, edited.journal)
    files.close()
    assert read(edits)[0] == [france]
    assert memory_file.read(memory).digest == made.digest
    journal = load_journal(path_of(memory), write=False)
    assert journal is not None
    with journal:
        assert journal.check_kin(memory)
        assert [frame.kind for frame in journal.frames] == ["begin", "made", "written"]
        assert journal.frames[0].data["model"] == "demo"


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_file_of_edits_grows_by_a_line_and_holds_none_twice(
    make_files: Callable[[], Files], paths: Paths, edited: Editor, france: Edit, end: str
) -> None:
    before = '{"prompt": "Spain is in", "target": "Asia"}' + end
    paths[1].write_text(before, encoding="utf-8")
    files = make_files()
    files.keep(france, edited.journal)
    text = paths[1].read_text(encoding="utf-8")
    assert text.startswith(before)
    assert [edit.target for edit in read(paths[1])[0]] == ["Asia", france.target]
    files.keep(france, edited.journal)
    assert paths[1].read_text(encoding="utf-8") == text


@pytest.mark.parametrize("more", [{}, {"rephrase": ["France is run from"], "keys": ["France"]}])
def test_an_edit_that_is_kept_again_is_the_last_of_its_prompt(
    make_files: Callable[[], Files],
    paths: Paths,
    edited: Editor,
    france: Edit,
    more: dict[str, Any],
) -> None:
    kept = json.dumps(france.record() | more) + "\n"
    paths[1].write_text(kept, encoding="utf-8")
    files = make_files()
    for edit in (replace(france, target="Madrid", id="madrid"), france):
        files.keep(edit, edited.journal)
    assert [edit.id for edit in read(paths[1])[0]] == ["madrid", france.id]  # the last counts
    assert paths[1].read_text(encoding="utf-8").startswith(kept)


@pytest.mark.parametrize(
    ("content", "said"),
    [('[{"prompt": "a", "target": "b"}]', "one JSON array"), ("{}", "prompt is missing")],
)
def test_a_file_that_no_line_can_be_added_to_is_refused(
    make_files: Callable[[], Files], paths: Paths, content: str, said: str
) -> None:
    paths[1].write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        make_files()


def test_a_file_in_no_folder_is_refused(paths: Paths) -> None:
    with pytest.raises(InputError, match="no file in an existing folder"):
        Files(paths[0], paths[1].parent / "none" / "edits.jsonl", None, {})


def test_a_journal_that_another_command_began_is_left_alone(
    make_files: Callable[[], Files], paths: Paths, edited: Editor, france: Edit
) -> None:
    files, path = make_files(), path_of(paths[0])
    with begin(path, edited.journal.origin, {}) as other:
        before = path.read_bytes()
        with pytest.raises(InputError, match="another process is writing"):
            files.keep(france, edited.journal)
        assert len(other.frames) == 1
    with pytest.raises(InputError, match="was begun by another command"):
        files.keep(france, edited.journal)
    assert path.read_bytes() == before
    assert not paths[0].exists()
