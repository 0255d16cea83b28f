"""Frames: whole ones or none, in a file that a crash, a full disk or a second writer met."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memoir_edge.errors import InputError
from memoir_edge.history import JournalError, Together, begin, load
from memoir_edge.history import frames as module
from memoir_edge.history.frames import HEAD, MAGIC
from memoir_edge.memory import to_bytes

POSIX = pytest.mark.skipif(os.name != "posix", reason="limits on sizes, and named pipes")


def mkfifo(path: Path) -> None:
    os.mkfifo(path)


def test_a_tail_cut_at_any_byte_is_dropped(
    fresh: Any, tmp_path: Path, made: Any, reopened: Any
) -> None:
    with fresh() as journal:
        journal.record(Together((made("a"),)))
        before = to_bytes(journal.compile())
        journal.record(Together((made("b"), made("c"))))
        last = journal.frames[-1]
    data = journal.path.read_bytes()
    start = last.offset - HEAD
    torn = tmp_path / "torn.journal"
    for end in range(start, len(data)):
        torn.write_bytes(data[:end])
        with reopened(journal) as whole:
            assert len(whole.frames) == 3
        found = load(torn, write=False)
        assert found
        with found:
            assert len(found.frames) == 2
            assert found.dropped == end - start
            if end % 50 == 0:
                assert to_bytes(found.compile()) == before
        assert torn.stat().st_size == end  # reading changes nothing
    opened = load(torn, write=True)
    assert opened
    with opened as found:
        assert torn.stat().st_size == start
        found.record(Together((made("b"), made("c"))))
    assert len(torn.read_bytes()) == len(data)


@pytest.mark.parametrize("tail", [b"\0" * 700, MAGIC, MAGIC + b"\xff" * 90, b"M"])
def test_a_tail_of_garbage_is_dropped(fresh: Any, tail: bytes, made: Any, reopened: Any) -> None:
    """What a power cut leaves where an append was begun."""
    with fresh() as journal:
        journal.record(Together((made("a"),)))
    size = journal.path.stat().st_size
    journal.path.write_bytes(journal.path.read_bytes() + tail)
    with reopened(journal, write=True) as found:
        assert (len(found.frames), found.dropped) == (2, len(tail))
        assert journal.path.stat().st_size == size


def test_damage_before_the_end_is_refused_and_nothing_is_cut(fresh: Any, made: Any) -> None:
    with fresh() as journal:
        journal.record(Together((made("a"),)))
        journal.record(Together((made("b"),)))
        places = [journal.frames[1].offset - HEAD + n for n in (0, 5, 20, HEAD + 3)]
    data = journal.path.read_bytes()
    for place in places:
        broken = bytearray(data)
        broken[place] ^= 0x40
        journal.path.write_bytes(broken)
        with pytest.raises(JournalError, match="damaged at byte"):
            load(journal.path, write=True)
        assert journal.path.read_bytes() == broken


def test_a_torn_beginning_is_no_journal(tmp_path: Path, origin: Any, reopened: Any) -> None:
    path = tmp_path / "m.journal"
    with begin(path, origin(), {}):
        pass
    data = path.read_bytes()
    for end in (0, 1, 4, 30, len(data) - 1):
        path.write_bytes(data[:end])
        assert load(path, write=True) is None
        with begin(path, origin(), {}) as journal, reopened(journal) as found:
            assert len(found.frames) == 1
    assert load(tmp_path / "none", write=False) is None


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.journal"
    path.write_bytes(b"something else entirely")
    with pytest.raises(JournalError, match="is no journal"):
        load(path, write=True)
    assert path.read_bytes() == b"something else entirely"


def test_two_writers_do_not_meet(fresh: Any, reopened: Any) -> None:
    with fresh() as journal:
        with pytest.raises(InputError, match="another process is writing"):
            load(journal.path, write=True)
        with reopened(journal) as reader:
            assert len(reader.frames) == 1


def test_a_journal_that_another_has_begun_meanwhile_is_left_alone(
    tmp_path: Path, origin: Any, made: Any
) -> None:
    path = tmp_path / "m.journal"
    assert load(path, write=True) is None  # and while a model is loaded, another is quicker
    with begin(path, origin(), {}) as other:
        other.record(Together((made("a"),)))
        with pytest.raises(InputError, match="another process is writing"):
            begin(path, origin(), {})
    before = path.read_bytes()
    with pytest.raises(InputError, match="was begun by another command meanwhile"):
        begin(path, origin(), {})
    assert path.read_bytes() == before
    found = load(path, write=True)  # which is not locked
    assert found
    with found:
        assert len(found.frames) == 2


def test_a_full_disk_leaves_the_journal_as_it_was(
    fresh: Any, monkeypatch: pytest.MonkeyPatch, made: Any
) -> None:
    with fresh() as journal:
        journal.record(Together((made("a"),)))
        size = journal.path.stat().st_size

        def full(_fd: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("memoir_edge.history.frames.os.fsync", full)
            with pytest.raises(InputError, match="No space left"):
                journal.record(Together((made("b"),)))
        assert journal.path.stat().st_size == size
        journal.record(Together((made("c"),)))
        assert [e.id for e in journal.compile().edits] == ["a", "c"]


@POSIX
@pytest.mark.parametrize("room", [0, 1, 60, 3000, 9000])
def test_a_disk_that_fills_up_while_a_frame_is_written(
    fresh: Any, made: Any, reopened: Any, room: int
) -> None:
    """Whatever part of it was taken before is gone, and so is the rest."""
    import resource

    with fresh() as journal:
        journal.record(Together((made("a"),)))
        data = journal.path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        large = made("b")._replace(record={"prompt": "b" * 10_000})
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) + room, hard))
        try:
            with pytest.raises(InputError, match=r"cannot write journal .*: File too large"):
                journal.record(Together((large,)))
            assert journal.path.read_bytes() == data
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert journal.path.read_bytes() == data
    assert journal.path.read_bytes() == data
    with reopened(journal, write=True) as found:
        found.record(Together((large,)))
        assert [e.id for e in found.compile().edits] == ["a", "b"]


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("make", [Path.mkdir, pytest.param(mkfifo, marks=POSIX)])
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], write: bool
) -> None:
    make(path := tmp_path / "m.journal")
    with pytest.raises(InputError, match=r"cannot open journal .*: not a file"):
        load(path, write=write)


def test_a_frame_is_what_the_page_says(fresh: Any) -> None:
    """A safetensors payload whose one metadata entry is the document of docs/journal.md."""
    with fresh() as journal:
        journal.append("deleted", {"edits": ["a"]}, {})
        frame = journal.frames[-1]
    payload = journal.path.read_bytes()[frame.offset :]
    assert len(payload) == frame.length
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    document = json.loads(header["__metadata__"][module.KEY])
    assert document == {
        "kind": "deleted", "data": {"edits": ["a"]}, "at": frame.at, "tool": frame.tool
    }  # fmt: skip
