"""The subjects that near misses are made of."""

from memoir_edge.relations import load
from memoir_edge.router.subjects import subjects


def test_every_kind_of_relation_has_subjects() -> None:
    kinds = {relation.kind for relation in load()}
    assert kinds == subjects().keys()
    assert all(len(names) >= 20 for names in subjects().values())


def test_no_subject_stands_twice_in_a_kind() -> None:
    for kind, names in subjects().items():
        lower = [name.lower() for name in names]
        assert len(set(lower)) == len(lower), kind
        assert all(name.strip() == name and name for name in names), kind
