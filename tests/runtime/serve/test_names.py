"""What memories are called."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoir_edge.errors import InputError
from memoir_edge_runtime.serve.names import checked, name_of, source, sources

FILE = st.from_regex(r"[a-z. =é-]{1,20}", fullmatch=True).filter(lambda text: text.strip(". "))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("v1/facts.safetensors", "facts"),
        ("facts.v1.safetensors", "facts"),
        ("facts", "facts"),
        ("today=a/b c.safetensors", "today"),
        ("today=a/b=c", "today"),
        ("x=y=z", "x"),
    ],
)
def test_a_name_is_the_files_or_the_given_one(file: str, name: str) -> None:
    assert source(Path(file)).name == name


@given(FILE)
def test_any_file_can_be_served_under_a_given_name(file: str) -> None:
    assert source(Path(f"n=./{file}")) == ("n", Path(file))
    name = name_of(Path(file))
    if re.fullmatch("[a-z][a-z-]*", name) and name not in ("base", "default"):
        assert source(Path("d") / file).name == name
    else:
        with pytest.raises(InputError) as caught:
            source(Path("d") / file)
        assert "NAME=FILE" in str(caught.value.hint)


def test_a_file_that_is_there_is_meant_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.safetensors").touch()
    with pytest.raises(InputError, match="cannot be called 'a=b'"):
        source(Path("a=b.safetensors"))
    assert source(Path("c=a=b.safetensors")) == ("c", Path("a=b.safetensors"))


@pytest.mark.parametrize("name", ["", "base", "default", "a" * 65, ".a", "a b", "é", "a@b", "a/b"])
def test_a_name_that_no_request_could_use(name: str) -> None:
    with pytest.raises(InputError, match="cannot be called"):
        checked(name)


@pytest.mark.parametrize(
    "files",
    [
        ("facts.v1.safetensors", "facts.v2.safetensors"),
        ("v1/facts.safetensors", "v2/facts.safetensors"),
        ("a=v1/facts.safetensors", "a=v2/facts.safetensors"),
        ("facts.safetensors", "b.safetensors", "facts=c.safetensors"),
    ],
)
def test_two_memories_of_one_name_are_refused(files: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="would both be called"):
        sources([Path(file) for file in files])


def test_names_in_their_order_and_one_file_once() -> None:
    given = ["facts.v2.safetensors", "v1=facts.v1.safetensors", "./facts.v2.safetensors"]
    found = sources([Path(file) for file in given])
    assert [each.name for each in found] == ["facts", "v1"]
