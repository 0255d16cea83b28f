"""A file is written whole or not at all."""

import os
from pathlib import Path

import pytest

from memoir_edge import files


def test_a_file_takes_the_place_of_another_that_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")
    with path.open("rb") as stream:
        files.write(path, b"new")
        assert stream.read() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["writing", "fsync", "replace"])
def test_what_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    steps = {"writing": (Path, "write_bytes"), "fsync": (os, "fsync"), "replace": (Path, "replace")}
    monkeypatch.setattr(*steps[step], full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_what_another_writes_and_breaks_off_is_gone(tmp_path: Path) -> None:
    def write() -> None:
        with files.replacing(tmp_path / "file") as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path, there: bool) -> None:
    link, file = tmp_path / "link", tmp_path / "real" / "file"
    file.parent.mkdir()
    link.symlink_to(Path("real") / "file")
    if there:
        file.write_bytes(b"old")
    files.write(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]
    assert (files.followed(link), files.followed(file)) == (file.resolve(), file)
