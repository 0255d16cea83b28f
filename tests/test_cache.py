"""What is fetched or converted is kept, whole or not at all."""

from pathlib import Path

import pytest

from memoir_edge.cache import folder, made


def test_a_folder_is_filled_once(tmp_path: Path) -> None:
    place, filled = tmp_path / "a" / "b", []

    def fill(into: Path) -> None:
        filled.append(into)
        (into / "file").write_text("x")
        assert not place.exists()  # nobody sees a part of it

    for _ in range(2):
        assert made(place, fill) == place
        assert [path.name for path in place.iterdir()] == ["file"]
    assert len(filled) == 1
    assert [path.name for path in place.parent.iterdir()] == ["b"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fill(into: Path) -> None:
        (into / "file").write_text("x")
        raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        made(tmp_path / "b", fill)
    assert list(tmp_path.iterdir()) == []


def test_the_first_to_finish_wins(tmp_path: Path) -> None:
    def slow(into: Path) -> None:
        (into / "file").write_text("second")
        made(tmp_path / "b", lambda other: (other / "file").write_text("first") and None)

    assert (made(tmp_path / "b", slow) / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEMOIR_EDGE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "memoir-edge"
    monkeypatch.setenv("MEMOIR_EDGE_CACHE", str(tmp_path / "own"))
    assert folder() == tmp_path / "own"
