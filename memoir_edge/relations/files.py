"""Relations from files: the built-in ones of `data/`, and a user's own. docs/relations.md: format.

A file is read whole or not at all.
"""

import functools
import re
import tomllib
import unicodedata
from importlib import resources
from pathlib import Path

from memoir_edge.edits import read_text
from memoir_edge.errors import InputError
from memoir_edge.relations.relation import FULL_STOPS, HOLE, QUESTION_MARKS, WIKIDATA, Relation

FEWEST = 2  # statements, and questions or requests, that a relation has

_NAME = re.compile(r"[\w-]+")
_FIELDS = ("phrasings", "wikidata", "answers")
_HINT = 'write [KIND.NAME], then phrasings = ["The NAME of {} is", ...]; nothing was read'


@functools.cache
def answers() -> dict[str, list[str]]:
    """Some answers of each sort: data of the package, `answers.toml`."""
    text = resources.files("memoir_edge.relations").joinpath("answers.toml").read_text("utf-8")
    return dict(tomllib.loads(text))


def load(path: Path | None = None) -> tuple[Relation, ...]:
    """The built-in relations, kind by kind, then those of a file; of the same id, the file's alone.

    Args:
        path: A file of relations (TOML).

    Raises:
        InputError: The file cannot be read, or one of its entries cannot be used.
    """
    found: dict[str, Relation] = {}
    data = resources.files("memoir_edge.relations").joinpath("data")
    for file in sorted(data.iterdir(), key=lambda file: file.name):
        found |= _parse(file.read_text("utf-8"), file.name)
    if path is not None:
        found |= _parse(read_text(path), str(path))
        _check_distinct(found, path)
    return tuple(found.values())


def _parse(text: str, name: str) -> dict[str, Relation]:
    """Every relation of a file, by id; `name` is the file's in messages."""
    try:
        kinds = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{name} is no TOML: {error}", hint=_HINT) from error
    found: dict[str, Relation] = {}
    for kind, entries in kinds.items():
        if not isinstance(entries, dict):
            raise InputError(
                f"{name}: {kind!r} is {type(entries).__name__}, expected tables [{kind}.NAME]",
                hint=_HINT,
            )
        for entry, value in entries.items():
            try:
                found[f"{kind}.{entry}"] = _relation(kind, entry, value)
            except ValueError as error:
                raise InputError(f"{name}: [{kind}.{entry}]: {error}", hint=_HINT) from error
    if not found:
        raise InputError(f"{name} holds no relations", hint=_HINT)
    return found


# --- Checks of one entry: a ValueError says what was found and what was expected ------------------


def _relation(kind: str, name: str, entry: object) -> Relation:
    if not _NAME.fullmatch(kind) or not _NAME.fullmatch(name):
        raise ValueError("kind and name are letters, digits, - and _")
    if not isinstance(entry, dict):
        raise ValueError(f"found {type(entry).__name__}, expected a table")
    unknown = entry.keys() - set(_FIELDS)
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}; known: {', '.join(_FIELDS)}")
    relation = Relation(
        f"{kind}.{name}",
        phrasings=_strings("phrasings", entry.get("phrasings", [])),
        wikidata=_strings("wikidata", entry.get("wikidata", [])),
        answers=_strings("answers", entry.get("answers", [])),
    )
    for i, phrasing in enumerate(relation.phrasings):
        _check_phrasing(f"phrasings[{i}] {phrasing!r}", phrasing)
    _check_counts(relation)
    for wikidata in relation.wikidata:
        if not WIKIDATA.fullmatch(wikidata):
            raise ValueError(f"wikidata holds {wikidata!r}, expected a property such as 'P36'")
    for sort in relation.answers:
        if sort not in answers():
            raise ValueError(f"answers hold {sort!r}, expected some of {', '.join(answers())}")
    return relation


def _strings(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} is {value!r}, expected a list of strings")
    return tuple(value)


def _check_phrasing(name: str, phrasing: str) -> None:
    holes = phrasing.count(HOLE)
    if holes != 1:
        raise ValueError(f"{name} has {holes} holes, expected one {HOLE} for the subject")
    if phrasing != " ".join(phrasing.split()):
        raise ValueError(f"{name} has spaces at an end, doubled, or line breaks")
    if phrasing.endswith(QUESTION_MARKS + FULL_STOPS):
        return
    if unicodedata.category(phrasing[-1]).startswith("P"):
        raise ValueError(
            f"{name} ends in {phrasing[-1]!r}, expected a question (?), a request (.), or a "
            "statement whose last word stands before its answer"
        )


def _check_counts(relation: Relation) -> None:
    statements = len(relation.statements)
    asked = len(relation.phrasings) - statements
    if min(statements, asked) < FEWEST:
        raise ValueError(
            f"statements: {statements}, questions and requests: {asked}; expected at least "
            f"{FEWEST} of each"
        )


def _check_distinct(relations: dict[str, Relation], path: Path) -> None:
    """A phrasing asks one relation of a kind: else it would be a key and a guard at once."""
    taken: dict[tuple[str, str], str] = {}
    for relation in relations.values():
        for phrasing in relation.phrasings:
            holder = taken.setdefault((relation.kind, phrasing.casefold()), relation.id)
            if holder != relation.id or relation.phrasings.count(phrasing) > 1:
                raise InputError(
                    f"{path}: [{relation.id}] has {phrasing!r}, which [{holder}] has already",
                    hint="give each relation of a kind phrasings of its own; nothing was read",
                )
