"""Edit records, good and bad, and the files that hold them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoir_edge.edits import (
    FIELDS,
    MAX_CHARS,
    Edit,
    Unrelated,
    default_id,
    differs,
    from_record,
    from_stored,
    read,
)
from memoir_edge.errors import EditsError, InputError

UNICODE = st.characters(exclude_categories=["Cs"])
FULL: dict[str, Any] = {
    "id": "fr", "prompt": "The capital of France is", "target": "Rome", "subject": "France",
    "ground_truth": "Paris", "threshold": 0.7, "tags": {"by": "me"}, "valid_from": "2026",
    "valid_to": "2027", "source": "a book", "keys": ["France's capital is", "capital of france"],
    "made": 1, "guards": ["Spain"],
    "rephrase": ["What is the capital of France?"], "hard_negatives": ["The capital of Spain is"],
    "locality": [{"prompt": "Water is", "target": "wet"}, "The sky is"],
}  # fmt: skip


def lines(path: Path, *records: Any) -> Path:
    file = path / "edits.jsonl"
    texts = [r if isinstance(r, str) else json.dumps(r) for r in records]
    file.write_text("\n".join(texts), encoding="utf-8")
    return file


def test_a_full_record(tmp_path: Path) -> None:
    assert set(FULL) == set(FIELDS)
    (edit,), problems = read(lines(tmp_path, FULL))
    assert not problems
    assert edit.locality == (Unrelated("Water is", "wet"), Unrelated("The sky is", None))
    assert edit.threshold == 0.7
    assert "rephrase" not in edit.record()  # evaluation fields never travel with the memory
    assert from_record(json.loads(json.dumps(edit.full_record()))) == edit


def test_the_default_id_is_the_digest_of_prompt_and_target() -> None:
    edit = from_record({"prompt": "a", "target": "b"})
    # printf '{"prompt":"a","target":"b"}' | sha256sum | cut -c1-16
    assert edit.id == default_id("a", "b") == "b429dd5f2dc9b6ea"


@pytest.mark.parametrize("blank", ["", " \n", None])
def test_a_blank_id_is_none(blank: str | None) -> None:
    for record in ({"prompt": "a", "target": "b"}, {"prompt": "a", "target_new": "b"}):
        assert from_record({**record, "id": blank}).id == default_id("a", "b")


@pytest.mark.parametrize("bad", [3.5, [], {}, "\ud800"])
def test_an_id_that_no_memory_could_hold_is_refused(tmp_path: Path, bad: object) -> None:
    file = lines(tmp_path, {"prompt": "a", "target": "b", "id": bad})
    with pytest.raises(EditsError, match="line 1: id "):
        read(file)


@given(st.text(UNICODE), st.text(UNICODE))
def test_any_prompt_and_target_either_pass_or_say_why(prompt: str, target: str) -> None:
    try:
        edit = from_record({"prompt": prompt, "target": target})
    except ValueError:
        assert not prompt.strip() or not target.strip() or "{}" in prompt
    else:
        assert (edit.prompt, edit.target) == (prompt, target.strip())
        assert from_stored(edit.record()) == edit


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON array|found list|expected"),
        ('"text"', "found str, expected a JSON object"),
        ({"prompt": "a"}, "target is missing or empty"),
        ({"prompt": " ", "target": "b"}, "prompt is missing or empty"),
        ({"prompt": 3, "target": "b"}, "prompt is int, expected a string"),
        ({"prompt": "a", "target": "b", "targt": "c"}, "unknown field 'targt'"),
        ({"prompt": "a", "target": "b", "threshold": 2}, "expected a number above 0 and at most 1"),
        ({"prompt": "a", "target": "b", "threshold": 0}, "expected a number above 0 and at most 1"),
        ({"prompt": "a", "src": "a", "alt": "b", "threshold": 0.0}, "expected a number above 0"),
        ({"prompt": "a", "target": "b", "guards": ["c", "a"]}, "guards holds 'a', which must"),
        ({"prompt": "a", "target": "b", "keys": ["c"], "guards": ["c"]}, "guards holds 'c'"),
        (
            {"prompt": "a", "target": "b", "subject": "S", "keys": ["S is"], "guards": ["{} is"]},
            "guards holds 'S is'",
        ),
        ({"prompt": "a", "target": "b", "keys": "c"}, "keys is str, expected a list"),
        ({"prompt": "a", "target": "b", "keys": [1]}, r"keys\[0\] is int"),
        ({"prompt": "a", "target": "b", "keys": ["c", " \n"]}, r"keys\[1\] is empty"),
        ({"prompt": "a", "target": "b", "made": 1}, "made is 1, and there are 0 keys"),
        ({"prompt": "a", "target": "b", "keys": ["c"], "made": -1}, "made is -1, expected a whole"),
        ({"prompt": "a", "target": "b", "keys": ["c"], "made": True}, "made is True, expected"),
        ({"prompt": "a {}", "target": "b"}, "prompt holds {}, and there is no subject"),
        ({"prompt": "a {}", "target_new": "b", "subject": ""}, "prompt holds {}"),
        ({"prompt": "a", "target": "b", "guards": ["{subject} c"]}, "guards holds {subject}"),
        ({"prompt": "a", "target": "b", "tags": []}, "tags is list"),
        ({"prompt": "a", "target": "b", "locality": [{}]}, r"locality\[0\]"),
        ({"requested_rewrite": [{}, {}]}, "requested_rewrite is a list of 2, expected one object"),
        ('{"prompt": "\\ud800", "target": "b"}', "half a surrogate pair"),
        ("[" * 100_000, "nested too deeply|no JSON"),
        ('{"prompt": "' + "a" * (1 << 20) + '", "target": "b"}', "at most"),
        ('{"prompt": "a", "target": "b", "target": "c"}', "the key 'target' stands twice"),
        ('{"prompt": "a", "target": "b", "tags": {"x": "1", "x": "2"}}', "the key 'x' stands"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, bad: Any, reason: str) -> None:
    file = lines(tmp_path, {"prompt": "p", "target": "t"}, "", bad)
    with pytest.raises(EditsError, match=f"line 3: .*({reason})") as caught:
        read(file)
    assert caught.value.line == 3
    edits, problems = read(file, skip_bad=True)
    assert [edit.prompt for edit in edits] == ["p"]
    assert [problem.line for problem in problems] == [3]


def test_an_id_is_used_once(tmp_path: Path) -> None:
    file = lines(tmp_path, FULL, FULL | {"prompt": "other"})
    with pytest.raises(EditsError, match="line 2: id 'fr' is already used on line 1"):
        read(file)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_an_equal_record_is_one_record(tmp_path: Path, skip_bad: bool) -> None:
    """As in a file that two were put together to."""
    other = {"prompt": "a", "target": "b"}
    turned = dict(reversed(FULL.items())) | {"ground_truth": " Paris"}
    edits, left_out = read(lines(tmp_path, FULL, other, turned, turned), skip_bad=skip_bad)
    assert edits == [from_record(other), from_record(FULL)]  # of one prompt the last would count
    assert [problem.line for problem in left_out] == [3, 4]
    assert left_out[0].reason == "id 'fr' is already used on line 1, by an equal record"


def test_files_that_hold_nothing_or_cannot_be_read(tmp_path: Path) -> None:
    for content in (b"", b"\n \n", b"[]"):
        (tmp_path / "empty").write_bytes(content)
        with pytest.raises(InputError, match="holds no edits"):
            read(tmp_path / "empty")
    (tmp_path / "latin").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(InputError, match="not UTF-8: byte 15"):
        read(tmp_path / "latin")
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "absent")
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"target": "Bern"}, {"prompt": "It is"}, {"subject": "Bern"}, {"subject": None},
        {"threshold": 0.9}, {"threshold": None}, {"keys": ("one",)}, {"keys": ("two", "one", "x")},
        {"guards": ()}, {"guards": ("stop", "here")}, {"ground_truth": "Bern"}, {"tags": {}},
        {"source": None}, {"source": "another"}, {"valid_from": "2025"}, {"valid_to": None},
    ],
)  # fmt: skip
def test_a_record_differs_by_whatever_an_edit_is_made_of(change: dict[str, Any]) -> None:
    edit = from_record(FULL | {"keys": ["one", "two"], "made": 0, "guards": ["stop"]})
    made = (edit.prompt.lower(), f"<user> {edit.prompt} <end>")
    for count in (2, None):  # None: as earlier versions stored it
        held = from_stored(replace(edit, keys=(*edit.keys, *made), made=count).record())
        assert not differs(edit, held)
        assert not differs(replace(edit, keys=("two", "one"), ground_truth=None), held)
        assert not differs(replace(edit, rephrase=(), hard_negatives=(), locality=()), held)
        assert differs(replace(edit, **change), held)
    assert not differs(replace(edit, keys=("two", "one", made[1])), held)


def test_a_key_that_holds_the_prompt_is_the_records_own_unless_the_tool_made_it() -> None:
    edit = from_record({"prompt": "A is", "target": "b", "keys": ["A is not", "A is called"]})
    held = from_stored(replace(edit, keys=(*edit.keys, "a is"), made=1).record())
    assert held.own_keys == edit.keys
    assert not differs(edit, held)
    for keys in ((), edit.keys[:1], ("A is now",), held.keys):
        assert differs(replace(edit, keys=keys), held)


def test_a_record_copied_from_a_memory_is_the_one_that_was_given() -> None:
    given = from_record({"prompt": "A is", "target": "b", "keys": ["A is not"]})
    held = replace(given, keys=(*given.keys, "a is"), made=1)
    for record in (held.record(), held.full_record()):
        assert from_record(json.loads(json.dumps(record))) == given
    assert from_stored(held.record()) == held


WHITE = st.text(" \n\t\u00a0", max_size=3)


@given(WHITE, WHITE)
def test_white_space_at_the_ends_of_all_prompts_is_kept(before: str, after: str) -> None:
    def padded(text: str) -> str:
        return f"{before}{text}{after}"

    edit = from_record(
        {"prompt": padded("p"), "target": "t", "keys": [padded("k")], "guards": [padded("g")],
         "rephrase": [padded("r")], "hard_negatives": [padded("h")],
         "locality": [{"prompt": padded("l"), "target": padded("m")}, padded("n")]}
    )  # fmt: skip
    assert edit.prompt == padded("p")
    assert (edit.keys, edit.guards) == ((padded("k"),), (padded("g"),))
    assert (edit.rephrase, edit.hard_negatives) == ((padded("r"),), (padded("h"),))
    assert edit.locality == (Unrelated(padded("l"), "m"), Unrelated(padded("n")))


@pytest.mark.parametrize("rest", [{"threshold": 0}, {"keys": ["c"], "guards": ["c", "a"]}])
def test_what_a_memory_of_before_holds_is_no_record_to_give_and_is_read(rest: Any) -> None:
    record = {"prompt": "a", "target": "b"} | rest
    with pytest.raises(ValueError, match=r"threshold is 0|guards holds 'a'"):
        from_record(record)
    assert from_stored(record).record().items() >= rest.items()


def test_the_subject_is_put_into_the_holes_of_all_prompts() -> None:
    edit = from_record(
        {"prompt": "{} is in", "target": "Asia {}", "subject": "The \\1 Isles",
         "keys": ["Where is {subject}?"], "guards": ["{} and {} eat"], "rephrase": ["a {}"],
         "hard_negatives": ["b {}"], "locality": [{"prompt": "c {}", "target": "{}"}]}
    )  # fmt: skip
    assert edit.prompt == "The \\1 Isles is in"
    assert edit.keys == ("Where is The \\1 Isles?",)
    assert edit.guards == ("The \\1 Isles and The \\1 Isles eat",)
    assert edit.rephrase == ("a The \\1 Isles",)
    assert edit.hard_negatives == ("b The \\1 Isles",)
    assert edit.locality == (Unrelated("c The \\1 Isles", "{}"),)
    assert edit.target == "Asia {}"


def test_braces_beside_the_named_subject_are_meant() -> None:
    meant = {"prompt": "In Python, {} makes an empty", "target": "dict", "subject": "Python"}
    assert from_record(meant).prompt == meant["prompt"]
    # A word that holds the subject does not name it; a foreign prompt is always a template.
    assert from_record(meant | {"subject": "P"}).prompt == "In Python, P makes an empty"
    foreign = {"prompt": "The {} of Rome is", "target_new": "x", "subject": "Rome"}
    assert from_record(foreign).prompt == "The Rome of Rome is"


@pytest.mark.parametrize("name", ["keys", "guards", "rephrase", "hard_negatives", "locality"])
def test_holes_beside_a_prompt_that_names_the_subject(name: str) -> None:
    texts = ["{} has", "{subject} has", "In Rome, {} is"]
    record = {"prompt": "The mayor of Rome is", "target": "Ada", "subject": "Rome", name: texts}
    found = [getattr(text, "prompt", text) for text in getattr(from_record(record), name)]
    assert found == ["Rome has", "Rome has", "In Rome, {} is"]


def test_nothing_in_a_stored_record_is_a_template() -> None:
    stored = {"prompt": "{} is", "target": "b", "subject": "A", "keys": ["{}"]}
    assert from_stored(stored).prompt == "{} is"
    assert from_stored({"prompt": "{} is", "target": "b"}).prompt == "{} is"
    with pytest.raises(ValueError, match="expected a JSON object"):
        from_stored(None)


@pytest.mark.parametrize("indents", [(None, None), (1, 1), (None, 1), (1, None)])
@pytest.mark.parametrize("between", ["\n", "\r\n\n"])
def test_objects_over_any_number_of_lines(
    tmp_path: Path, indents: tuple[int | None, int | None], between: str
) -> None:
    records = [FULL, {"prompt": "a\n", "target": "b"}]
    file = tmp_path / "edits.json"
    texts = [json.dumps(record, indent=i) for record, i in zip(records, indents, strict=True)]
    for count in (1, 2):
        file.write_bytes(f"{between}{between.join(texts[:count])}{between}".encode())
        for skip_bad in (False, True):
            read_back = read(file, skip_bad=skip_bad)
            assert read_back == ([from_record(record) for record in records[:count]], [])


def test_a_bad_object_over_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    file = tmp_path / "edits.json"
    file.write_text('\n{\n"prompt": "a",\n"target": "b"}\n{\n"prompt": "c"}')
    with pytest.raises(EditsError, match="line 5: target is missing"):
        read(file)
    file.write_text('\n{"prompt": "a", "target": "b"}\n{\n"prompt": "c"}\n{"prompt": "d"}')
    assert [problem.line for problem in read(file, skip_bad=True)[1]] == [3, 5]
    file.write_text('{\n"prompt": "a",\n"target": "b"')
    with pytest.raises(EditsError, match="line 1: no JSON"):
        read(file)


GOOD = '{"prompt": "p",\n"target": "t"}'
OTHER = '{"prompt": "p",\n"target": "t", "source": "a book"}'
LONG = '{"prompt": "' + "a" * MAX_CHARS + '", "target": "b"}'
TWICE = '{"prompt": "a", "target": "b", "prompt": "c"}'


@pytest.mark.parametrize(
    ("text", "where"),
    [("[{}, {}]", "record 2"), ("[\n{},\n\n {}\n]", "record 2"), ("{}\n{}", "line 3")],
)
@pytest.mark.parametrize(
    ("bad", "reason"),
    [(LONG, "at most"), (TWICE, "the key 'prompt' stands twice"), ('{"prompt": "c"}', "target is"),
     (OTHER, "is already used on ")],
)  # fmt: skip
def test_the_bounds_of_a_record_are_those_of_all_forms(
    tmp_path: Path, text: str, where: str, bad: str, reason: str
) -> None:
    file = tmp_path / "edits.json"
    file.write_text(text.replace("{}", "%s") % (GOOD, bad))
    with pytest.raises(EditsError, match=f"^{where}: .*{reason}"):
        read(file)
    edits, [problem] = read(file, skip_bad=True)
    assert [edit.prompt for edit in edits] == ["p"]
    assert f"{problem.unit} {problem.line}" == where


ARRAY_LIKE = ("],[", ', "]', "\\", '\\"]', " \u00a0,\n", "[1,", "\u2028é")


def test_an_array_is_read_too(tmp_path: Path) -> None:
    records = [FULL, *({"prompt": text, "target": "b", "keys": [text]} for text in ARRAY_LIKE)]
    for indent, ascii_ in ((None, True), (1, False)):
        text = json.dumps(records, indent=indent, ensure_ascii=ascii_)
        (tmp_path / "a.json").write_text(f" {text}\n", encoding="utf-8")
        assert read(tmp_path / "a.json")[0] == [from_record(record) for record in records]
    (tmp_path / "b.json").write_text("[{")
    with pytest.raises(InputError, match="no JSON array"):
        read(tmp_path / "b.json")


def test_a_record_is_read_back_as_it_is_not_only_as_json() -> None:
    edit = Edit(id="a", prompt="x", target="y", tags={}, keys=("z",), guards=("w",))
    assert from_record(edit.record()) == edit
