"""The built-in relations: a format that code can count on, and words of their own."""

import json
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from memoir_edge.relations import load, of_kind
from memoir_edge.router.subjects import subjects

ROOT = Path(__file__).parents[2]

RELATIONS = load()
KINDS = sorted({relation.kind for relation in RELATIONS})
PHRASINGS = [phrasing for relation in RELATIONS for phrasing in relation.phrasings]
CHAT = ("Tell me", "Do you know", "Can you", "Could you", "Give me", "Name a")
COINCIDING = 0.05  # share of phrasings that may be another collection's too: plain ones are


def test_there_are_about_150() -> None:
    assert 130 <= len(RELATIONS) <= 170


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_enough_to_make_guards_of(kind: str) -> None:
    assert len(of_kind(RELATIONS, kind)) >= 8


def test_kinds_are_in_order() -> None:
    """So that a run on another file system asks the same guards in the same order."""
    assert [r.kind for r in RELATIONS] == sorted(r.kind for r in RELATIONS)


def test_six_phrasings_of_three_forms() -> None:
    for relation in RELATIONS:
        forms = (relation.statements, relation.questions, relation.requests)
        assert relation.phrasings == sum(forms, ()), relation.id
        assert len(relation.phrasings) == 6, relation.id
        assert len(relation.statements) >= 2, relation.id
        assert len(relation.questions) >= 2, relation.id


def test_every_relation_is_asked_as_in_a_chat() -> None:
    for relation in RELATIONS:
        chat = [p for p in relation.phrasings if p.startswith(CHAT)]
        assert 1 <= len(chat) <= 2, relation.id


def test_phrasings_vary() -> None:
    """Most phrasings of a relation begin in their own way; no two differ by their marks alone."""
    for relation in RELATIONS:
        assert len({p.split("{}")[0] for p in relation.phrasings}) >= 4, relation.id
        assert len({bare(p) for p in relation.phrasings}) == 6, relation.id


def test_a_phrasing_is_one_plain_line() -> None:
    for phrasing in PHRASINGS:
        assert phrasing.count("{}") == 1, phrasing
        assert re.fullmatch(r"[A-Za-z0-9 ,.?'{}-]+", phrasing), phrasing
        assert phrasing == " ".join(phrasing.split()), phrasing
        assert phrasing[0].isupper() or phrasing.startswith("{}"), phrasing
        assert phrasing.endswith(("?", ".")) or phrasing[-1].isalnum(), phrasing


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_relations_of_a_kind_share_a_phrasing(kind: str) -> None:
    times = Counter(bare(p) for r in of_kind(RELATIONS, kind) for p in r.phrasings)
    assert [p for p, count in times.items() if count > 1] == []


def test_phrasings_are_our_own(pararel: dict[str, set[str]]) -> None:
    theirs = set[str]().union(*pararel.values())
    ours = {bare(phrasing) for phrasing in PHRASINGS}
    assert theirs
    assert len(ours & theirs) <= COINCIDING * len(ours)


def test_no_relation_is_copied_whole(pararel: dict[str, set[str]]) -> None:
    """Of the statements of one relation, one at most may be theirs for the same property."""
    for relation in RELATIONS:
        theirs = set[str]().union(*(pararel.get(name, ()) for name in relation.wikidata))
        assert len({bare(p) for p in relation.statements} & theirs) <= 1, relation.id


@pytest.fixture(scope="module")
def pararel(published: Callable[[str], Path]) -> dict[str, set[str]]:
    """ParaRel's patterns as far as the answer, by Wikidata property."""
    folder = published("pararel")
    found: defaultdict[str, set[str]] = defaultdict(set)
    for file in folder.glob("*.jsonl"):
        for line in file.read_text("utf-8").splitlines():
            pattern = json.loads(line)["pattern"]
            found[file.stem].add(bare(pattern.partition("[Y]")[0].replace("[X]", "{}")))
    return found


def bare(phrasing: str) -> str:
    """Lower case, without marks: what two collections would have in common."""
    return " ".join(re.sub(r"[^\w{} ]", " ", phrasing.casefold()).split())


def test_the_development_set_asks_all_relations_in_other_words() -> None:
    own = tomllib.loads((ROOT / "tools/bench_router_own.toml").read_text("utf-8"))
    names = own.pop("subjects")
    asked = {f"{kind}.{name}": one["phrasings"] for kind in own for name, one in own[kind].items()}
    assert set(asked) == {relation.id for relation in RELATIONS}
    assert {bare(p) for each in asked.values() for p in each}.isdisjoint(map(bare, PHRASINGS))
    for kind, listed in subjects().items():
        assert not set(listed) & set(names[kind])
