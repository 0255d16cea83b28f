"""A user's file of relations: read beside the built-in ones, or refused whole in one message."""

import re
from collections import Counter
from pathlib import Path

import pytest

from memoir_edge.errors import InputError
from memoir_edge.relations import load

DOCS = Path(__file__).parents[2] / "docs/relations.md"

GOOD = (
    '["The mast of {} is", "{} has a mast of", "What is the mast of {}?", "Name the mast of {}."]'
)


def write(folder: Path, text: str) -> Path:
    file = folder / "own.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_own_relations_come_after_the_built_in_ones(tmp_path: Path) -> None:
    own = load(write(tmp_path, f'[ship.mast]\nanswers = ["material"]\nphrasings = {GOOD}'))
    assert own[:-1] == load()
    assert own[-1].answers == ("material",)
    assert own[-1].id == "ship.mast"
    assert own[-1].kind == "ship"
    assert own[-1].wikidata == ()


def test_one_of_the_same_id_replaces_the_built_in_one(tmp_path: Path) -> None:
    own = load(write(tmp_path, f"[country.capital]\nphrasings = {GOOD}"))
    assert len(own) == len(load())
    (capital,) = (r for r in own if r.id == "country.capital")
    assert capital.phrasings[0] == "The mast of {} is"


def test_a_byte_order_mark_and_other_scripts(tmp_path: Path) -> None:
    text = (
        "\ufeff[land.capital]\n"
        'phrasings = ["{}的首都是", "首都：{}的首都叫", "{}的首都是哪里？", "请告诉我{}的首都。"]'
    )
    capital = load(write(tmp_path, text))[-1]
    assert capital.questions == ("{}的首都是哪里？",)
    assert capital.requests == ("请告诉我{}的首都。",)


BAD = {
    "no TOML": ("[ship.mast\n", r"is no TOML: .*line 1"),
    "twice": (f"[a.b]\nphrasings = {GOOD}\n[a.b]\n", r"is no TOML: .*\(at line 3"),
    "empty": ("", "holds no relations"),
    "empty kind": ("[ship]", "holds no relations"),
    "no kind": (f"[mast]\nphrasings = {GOOD}", r"\[mast.phrasings\]: found list, expected a table"),
    "top level": ("mast = 1", r"'mast' is int, expected tables \[mast.NAME\]"),
    "name": (f'[ship."a.b"]\nphrasings = {GOOD}', "letters, digits, - and _"),
    "unknown field": (f"[a.b]\nphrases = {GOOD}", r"\[a.b\]: unknown field 'phrases'; known: phr"),
    "no phrasings": ("[a.b]\nwikidata = []", "statements: 0, questions and requests: 0"),
    "one statement": (
        '[a.b]\nphrasings = ["The b of {} is", "What is {}?", "Name {}."]',
        "statements: 1, questions and requests: 2; expected at least 2 of each",
    ),
    "a string": ('[a.b]\nphrasings = "{} is"', "phrasings is '{} is', expected a list of strings"),
    "a number": ("[a.b]\nphrasings = [1]", r"phrasings is \[1\], expected a list of strings"),
    "no hole": ('[a.b]\nphrasings = ["It is"]', r"phrasings\[0\] 'It is' has 0 holes"),
    "two holes": ('[a.b]\nphrasings = ["{} of {} is"]', "has 2 holes, expected one {}"),
    "colon": ('[a.b]\nphrasings = ["Name the b of {}:"]', r"\[0\] 'Name the b of {}:' ends in ':'"),
    "comma": ('[a.b]\nphrasings = ["{} has its b,"]', "ends in ',', expected a question"),
    "hole last": ('[a.b]\nphrasings = ["The b of {}"]', "ends in '}', expected a question"),
    "spaces": ('[a.b]\nphrasings = ["The b of {} is "]', "spaces at an end, doubled, or line"),
    "property": (
        f'[a.b]\nwikidata = ["Q36"]\nphrasings = {GOOD}',
        "wikidata holds 'Q36', expected a property such as 'P36'",
    ),
    "answers": (
        f'[a.b]\nanswers = ["harbour"]\nphrasings = {GOOD}',
        "answers hold 'harbour', expected some of person, group, city",
    ),
    "within one": (
        '[a.b]\nphrasings = ["{} is", "{} is", "Is {}?", "Say {}."]',
        r"\[a.b\] has '{} is', which \[a.b\] has already",
    ),
    "in two": (
        f"[a.b]\nphrasings = {GOOD}\n[a.c]\nphrasings = {GOOD.lower()}",
        r"\[a.c\] has 'the mast of {} is', which \[a.b\] has already",
    ),
    "as a built-in one": (
        f'[country.seat]\nphrasings = ["The capital of {{}} is", {GOOD[1:]}',
        r"\[country.seat\] has 'The capital of {} is', which \[country.capital\] has already",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_message(tmp_path: Path, case: str) -> None:
    text, said = BAD[case]
    file = write(tmp_path, text)
    with pytest.raises(InputError, match=said) as refused:
        load(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.hint
    assert "nothing was read" in refused.value.hint


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.toml"):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(InputError, match="is not UTF-8: byte 0"):
        load(tmp_path / "latin.toml")


def test_a_file_nested_too_deeply(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no TOML"):
        load(write(tmp_path, "a = " + "[" * 100_000))


def test_the_documented_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/relations.md: its file is read, and its program prints what its comments say."""
    text = DOCS.read_text(encoding="utf-8")
    (file,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "ships.toml").write_text(file, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"  # (.*)", program)


def test_the_documented_kinds() -> None:
    text = DOCS.read_text(encoding="utf-8")
    listed = {kind: int(count) for kind, count in re.findall(r"\| `(\w+)` \| (\d+) \|", text)}
    assert listed == Counter(relation.kind for relation in load())
    assert f"knows {len(load())} of them" in text
