"""At a limit a memory is read and written; beyond it neither, and at no cost."""

import json
from pathlib import Path

import pytest

from forge import DOCUMENT, EACH, D, P, d, document, forge
from memoir_edge import memory as module
from memoir_edge.memory import Memory, from_bytes, limits, read, to_bytes, write

LIMITS = {
    "MAX_FILE_BYTES": lambda whole: len(whole),
    "MAX_HEADER_BYTES": lambda whole: int.from_bytes(whole[:8], "little"),
    "MAX_DOCUMENT_BYTES": lambda whole: len(text_of(whole)),
    "MAX_JSON_DEPTH": lambda _: 5,
    "MAX_INPUT_WIDTH": lambda _: D,
    "MAX_OUTPUT_WIDTH": lambda _: d,
    "MAX_COLUMNS": lambda _: 3,
    "MAX_TILES": lambda _: 4,
    "MAX_KEYS": lambda _: 4,
    "MAX_EDITS": lambda _: 2,
    "MAX_CODE_BITS": lambda _: P,
}


def text_of(whole: bytes) -> str:
    """The document of a file."""
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    found: str = header["__metadata__"][DOCUMENT]
    return found


@EACH
@pytest.mark.parametrize("name", LIMITS)
def test_each_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, memory: Memory
) -> None:
    """At the limit a memory is read and written; one beyond, neither."""
    whole = to_bytes(memory)
    found = memory.tiles if name == "MAX_TILES" else LIMITS[name](whole)
    (tmp_path / "memory").write_bytes(whole)
    monkeypatch.setattr(limits, name, found)
    assert to_bytes(read(tmp_path / "memory")) == whole
    monkeypatch.setattr(limits, name, found - 1)
    if name == "MAX_CODE_BITS" and memory.codes is None:
        assert to_bytes(read(tmp_path / "memory")) == whole
        return
    with pytest.raises(module.LimitError, match=f"at most {found - 1}"):
        read(tmp_path / "memory")
    with pytest.raises(module.LimitError, match=f"at most {found - 1}"):
        from_bytes(whole)
    with pytest.raises(module.LimitError, match=f"at most {found - 1}"):
        write(memory, tmp_path / "other")


def test_every_limit_is_tested() -> None:
    assert set(LIMITS) == {name for name in vars(limits) if name.startswith("MAX_")}


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "memory").open("wb") as file:
        file.truncate(limits.MAX_FILE_BYTES + 1)  # a hole: it takes no room
    with pytest.raises(module.LimitError):
        read(tmp_path / "memory")


@pytest.mark.parametrize("depth", [65, 1000, 200_000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_deep_documents(depth: int, left: str, right: str) -> None:
    deep = left * depth + ("1" if left != "[" else "") + right * depth
    text = json.dumps(document()).replace('"evaluation": {', '"evaluation": {"x": ' + deep)
    with pytest.raises(module.LimitError, match="nest"):
        from_bytes(forge(text))
