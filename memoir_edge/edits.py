"""Edit records: JSON lines in, one normal form out.

Knows nothing of models. A file holds one JSON object a line, a JSON array of objects, or objects
one behind another over any number of lines. `Edit` is the normal form; `dialects` has the records
of others.

Prompts are kept as they are given, white space at their ends included, because a model reads it.
Where a prompt holds `{}`, the record's subject is put there, unless it names the subject besides.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from memoir_edge import dialects
from memoir_edge.dialects import Record
from memoir_edge.errors import EditsError, InputError
from memoir_edge.memory import unique

MAX_CHARS = 1 << 20  # of a record
_SPACE, _BETWEEN = re.compile(r"\s*"), re.compile(r"[\s,]*")  # of records; of an array's items
_SHARE = "a number above 0 and at most 1"
_HOLE = re.compile(r"\{(?:subject)?\}")  # where ROME's prompts have the subject


class Unrelated(NamedTuple):
    """A prompt whose answer must stay, and that answer where it is known."""

    prompt: str
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One fact to change.

    `rephrase`, `locality` and `hard_negatives` are for evaluation only; the editor never sees them.
    """

    prompt: str
    target: str
    id: str = ""
    subject: str | None = None
    ground_truth: str | None = None  # the answer so far: what is asked of that reaches no edit
    threshold: float | None = None  # overlap from which this edit answers; default: the memory's
    tags: dict[str, str]
    valid_from: str | None = None
    valid_to: str | None = None
    source: str | None = None
    keys: tuple[str, ...] = ()  # other phrasings that must reach this edit
    made: int | None = None  # of the keys, the last ones: the tool's; None: an earlier version's
    guards: tuple[str, ...] = ()  # prompts that must not
    rephrase: tuple[str, ...] = ()
    locality: tuple[Unrelated, ...] = ()
    hard_negatives: tuple[str, ...] = ()

    @property
    def own_keys(self) -> tuple[str, ...]:
        """The keys that its record gave.

        Earlier versions did not say which the tool had made: each of those holds the prompt.
        """
        if self.made is not None:
            return self.keys[: len(self.keys) - self.made]
        return tuple(key for key in self.keys if plain_prompt(self.prompt) not in key.casefold())

    def record(self) -> Record:
        """The edit as a JSON object, without what is empty and without the evaluation fields."""
        full = asdict(replace(self, rephrase=(), locality=(), hard_negatives=()))
        filled = {name: value for name, value in full.items() if value not in (None, (), {})}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in filled.items()}

    def full_record(self) -> Record:
        """The edit as a JSON object with the evaluation fields, as a file of edits holds it."""
        locality = [probe._asdict() for probe in self.locality]
        evaluation = {"rephrase": self.rephrase, "locality": locality}
        return self.record() | evaluation | {"hard_negatives": self.hard_negatives}


FIELDS = tuple(field.name for field in fields(Edit))


class Problem(NamedTuple):
    """A record that is left out, and why."""

    line: int  # counted from 1; where the file is an array, the record's place in it
    reason: str
    unit: str = "line"  # what is counted: "line" or "record"

    def __str__(self) -> str:
        """As it is told."""
        return f"{self.unit} {self.line}: {self.reason}"


def default_id(prompt: str, target: str) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of prompt and target."""
    canonical = json.dumps(
        {"prompt": prompt, "target": target},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def plain_name(name: str | None) -> str:
    """A subject's name by which mentions of it are told to be of one: in no case, without article.

    >>> plain_name("The Gold plan") == plain_name("the gold plan") == plain_name("Gold plan")
    True
    """
    return (name or "").strip().casefold().removeprefix("the ")


def plain_prompt(prompt: str) -> str:
    """The part of a prompt that stands in every key that is made of it, in no case.

    >>> plain_prompt("Who runs Acme?") == plain_prompt("who runs acme ")
    True
    """
    return prompt.rstrip("?:.! ").strip().casefold()


def read(path: Path, *, skip_bad: bool = False) -> tuple[list[Edit], list[Problem]]:
    """Read every record of a file.

    Args:
        path: JSON lines, one JSON array, or one JSON object.
        skip_bad: Leave unusable records out and report them, instead of raising for the first.

    Returns:
        The edits in file order, of equal records the last, and the records left out.

    Raises:
        EditsError: A record cannot be used (unless `skip_bad`).
        InputError: The file cannot be read, is not UTF-8, or holds no usable record.
    """
    first: dict[str, tuple[int, Edit]] = {}  # by id
    problems: list[Problem] = []
    again: list[Problem] = []
    unit, records = _records(path)
    for line, text in records:
        try:
            edit = from_record(_parse(text))
            place, other = first.setdefault(edit.id, (line, edit))
            used = f"id {edit.id!r} is already used on {unit} {place}"
            if edit != other:
                raise ValueError(used)
        except ValueError as error:
            problems.append(Problem(line, str(error), unit))
            continue
        if edit is not other:
            again.append(Problem(line, f"{used}, by an equal record", unit))
            first[edit.id] = first.pop(edit.id)  # of one prompt's records the last counts
    if problems and not skip_bad:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise EditsError(
            f"{problems[0].reason}{more}",
            line=problems[0].line,
            unit=unit,
            hint=f"mend {path}; nothing was done. apply and eval leave such out with --skip-bad",
        )
    if not first:
        bad = f", and {len(problems)} unusable {unit}s" if problems else ""
        raise InputError(
            f"{path} holds no edits{bad}", hint='one {"prompt": …, "target": …} a line'
        )
    return [edit for _, edit in first.values()], sorted([*problems, *again])


def read_text(path: Path) -> str:
    """What a file says, without the mark that some editors put before it.

    Raises:
        InputError: The file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start} cannot be decoded") from error


def _records(path: Path) -> tuple[str, Sequence[tuple[int, str]]]:
    """What records are counted by, and the number and text of each; the caller parses them."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        return "record", list(enumerate(_array(text, path), start=1))
    return "line", _spread(text) or _lines(text)


def _lines(text: str) -> list[tuple[int, str]]:
    return [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _spread(text: str) -> list[tuple[int, str]]:
    """Objects over any number of lines, each with the line it begins on; none if one is no JSON."""
    found: list[tuple[int, str]] = []
    line, at, end = 1, 0, 0
    try:
        while (begin := _behind(_SPACE, text, end)) < len(text):
            line += text.count("\n", at, begin)
            at, end = begin, _end(text, begin)
            found.append((line, text[at:end]))
    except (ValueError, RecursionError):
        return []  # its lines say what is wrong
    return found


def _array(text: str, path: Path) -> list[str]:
    """The items of a JSON array."""
    found: list[str] = []
    try:
        json.loads(text)
        at = _behind(_BETWEEN, text, text.index("[") + 1)
        while text[at] != "]":
            end = _end(text, at)
            found.append(text[at:end])
            at = _behind(_BETWEEN, text, end)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON array: {error}") from error
    return found


def _end(text: str, at: int) -> int:
    """Where the JSON value ends that begins at a place."""
    return json.JSONDecoder().raw_decode(text, at)[1]


def _behind(what: re.Pattern[str], text: str, at: int) -> int:
    """The next place that is none of these characters."""
    found = what.match(text, at)
    return found.end() if found else at


def _parse(text: str) -> object:
    if len(text) > MAX_CHARS:
        raise ValueError(f"{len(text)} characters; at most {MAX_CHARS} make a record")
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def from_record(raw: object) -> Edit:
    """Turn one record, native or foreign, into the normal form.

    Raises:
        ValueError: With the reason.

    >>> from_record({"prompt": "{} is in", "subject": "France", "target": "Asia"}).prompt
    'France is in'
    """
    if not isinstance(raw, dict):
        raise ValueError(f"found {type(raw).__name__}, expected a JSON object")
    foreign = dialects.native(raw, FIELDS)
    values = _checked(raw if foreign is None else foreign)
    subject = values.get("subject") or None
    edit = _edit(_filled(values, subject, foreign=foreign is not None))
    if edit.made is not None:  # of a memory: the tool makes its own again
        edit = replace(edit, keys=edit.own_keys, made=None)
    _refuse_unmeant(edit)
    return edit


def _refuse_unmeant(edit: Edit) -> None:
    """Raise ValueError for what nobody means, though a memory of before may hold it."""
    if edit.threshold == 0:
        raise ValueError(f"threshold is 0, expected {_SHARE}: it would answer every prompt")
    if both := {edit.prompt, *edit.keys} & set(edit.guards):
        raise ValueError(f"guards holds {min(both)[:80]!r}, which must reach the edit, too")


def from_stored(record: object) -> Edit:
    """An edit from the record that a memory or a journal holds: all braces in it are meant.

    Raises:
        ValueError: With the reason.
    """
    if not isinstance(record, dict):
        raise ValueError(f"found {type(record).__name__}, expected a JSON object")
    return _edit(_checked(record))


def stored(records: Mapping[str, Record | None]) -> list[Edit]:
    """The edits of a memory's records by id, but those whose record is withheld or unusable."""
    found: list[Edit] = []
    for id, record in records.items():
        with suppress(ValueError):
            found.append(replace(from_stored(record), id=id))
    return found


def differs(edit: Edit, held: Edit) -> bool:
    """Whether an edit's record says something else than it does as a memory holds it.

    A held record has what the tool has added to it: the former answer, and further keys.

    >>> held = from_stored({"prompt": "A is", "target": "b", "keys": ["Why? A is"], "made": 1})
    >>> differs(replace(held, keys=()), held), differs(replace(held, source="a book"), held)
    (False, True)
    """
    told = ("prompt", "target", "subject", "threshold", "source", "valid_from", "valid_to", "tags")
    if any(getattr(edit, name) != getattr(held, name) for name in told):
        return True
    if edit.ground_truth and edit.ground_truth != held.ground_truth:
        return True
    most = held.keys if held.made is None else held.own_keys
    alike = set(held.own_keys) <= set(edit.keys) <= set(most)
    return not alike or set(edit.guards) != set(held.guards)


def _edit(values: Record) -> Edit:
    id = values.get("id") or default_id(values["prompt"], values["target"])  # a blank one is none
    given: Record = {"tags": {}} | values | {"id": id}
    return Edit(**given)


def _checked(native: Record) -> Record:
    """The fields of a native record that are filled, each as `Edit` has it."""
    unknown = native.keys() - set(FIELDS)
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}; known: {', '.join(FIELDS)}")
    values = {
        name: _CHECKS[name](name, native[name]) for name in native if native[name] is not None
    }
    for name in ("prompt", "target"):
        if not values.get(name, "").strip():
            raise ValueError(f"{name} is missing or empty")
    if values.get("made", 0) > (count := len(values.get("keys", ()))):
        raise ValueError(f"made is {values['made']}, and there are {count} keys")
    return values


# --- Prompts with a hole for the subject ---------------------------------------------------------


def _names(text: str, subject: str) -> bool:
    """Whether a text names the subject beside its hole, whose braces are then meant."""
    return bool(re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text))


def _filled(values: Record, subject: str | None, *, foreign: bool) -> Record:
    """The fields of a record with the subject in the holes of its prompts.

    Each text is looked at by itself, and every text of a foreign record is a template.
    """
    if subject is None:
        for name in ("prompt", "keys", "guards"):
            if hole := _HOLE.search("\n".join(_texts_of(values.get(name, ())))):
                raise ValueError(
                    f"{name} holds {hole.group()}, and there is no subject to put there; where the "
                    "braces are meant, give a subject that the prompt names"
                )
        return values

    def put(value: Any) -> Any:
        if isinstance(value, str):
            meant = not foreign and _names(value, subject)
            return value if meant else _HOLE.sub(lambda _: subject, value)
        if isinstance(value, Unrelated):
            return value._replace(prompt=put(value.prompt))
        return tuple(map(put, value))

    return {name: put(value) if name in _PROMPTS else value for name, value in values.items()}


def _texts_of(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


# --- Checks of the native fields -----------------------------------------------------------------


def _prompt(name: str, value: object) -> str:
    """A text that a model is to read, as it is."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half a surrogate pair") from error
    return value


def _text(name: str, value: object) -> str:
    return _prompt(name, value).strip()


def _prompts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {type(value).__name__}, expected a list of strings")
    return tuple(_prompt(f"{name}[{i}]", item) for i, item in enumerate(value))


def _routed(name: str, value: object) -> tuple[str, ...]:
    """Prompts that a memory holds keys of: one of white space alone would be nobody's."""
    found = _prompts(name, value)
    blank = next((i for i, text in enumerate(found) if not text.strip()), None)
    if blank is not None:
        raise ValueError(f"{name}[{blank}] is empty")
    return found


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}, expected {_SHARE}")
    return float(value)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}, expected a whole number of 0 or more")
    return value


def _tags(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {type(value).__name__}, expected an object")
    return {_text(name, key): _text(f"{name}.{key}", item) for key, item in value.items()}


def _locality(name: str, value: object) -> tuple[Unrelated, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {type(value).__name__}, expected a list")
    return tuple(_unrelated(f"{name}[{i}]", item) for i, item in enumerate(value))


def _unrelated(name: str, value: object) -> Unrelated:
    if isinstance(value, str):
        return Unrelated(_prompt(name, value))
    if not isinstance(value, dict) or "prompt" not in value:
        raise ValueError(f'{name} is no {{"prompt": …, "target": …}}')
    target = value.get("target")
    return Unrelated(
        _prompt(name, value["prompt"]), None if target is None else _text(name, target)
    )


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    **dict.fromkeys(FIELDS, _text),
    "prompt": _prompt,
    "threshold": _share,
    "tags": _tags,
    "keys": _routed,
    "made": _count,
    "guards": _routed,
    "rephrase": _prompts,
    "locality": _locality,
    "hard_negatives": _prompts,
}
_PROMPTS = frozenset({"prompt", "keys", "guards", "rephrase", "locality", "hard_negatives"})
