"""Relations: what can be asked of a subject, each in several phrasings with the same answer.

The other phrasings of an edit's relation must reach the edit; the same subject asked the other
relations of its kind must not. Both are made from here:

    relations = load()
    capital = next(r for r in relations if r.id == "country.capital")
    keys = [fill(phrasing, "France") for phrasing in capital.phrasings]
    others = [r for r in of_kind(relations, capital.kind) if r != capital]
    guards = [fill(phrasing, "France") for r in others for phrasing in r.phrasings[:2]]

Knows nothing of models, encoders and edits.
"""

from memoir_edge.relations.files import answers, load
from memoir_edge.relations.relation import (
    Relation,
    fill,
    name_of,
    of_kind,
    question_answer,
    without,
)

__all__ = [
    "Relation",
    "answers",
    "fill",
    "load",
    "name_of",
    "of_kind",
    "question_answer",
    "without",
]
