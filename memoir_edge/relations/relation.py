"""A relation, its phrasings, and what is made of them. Knows nothing of files."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from memoir_edge.errors import InputError

HOLE = "{}"  # where a phrasing's subject stands

QUESTION_MARKS = ("?", "？", "؟")
FULL_STOPS = (".", "。", "।")

WIKIDATA = re.compile(r"P[1-9]\d*")  # the id of a Wikidata property


@dataclass(frozen=True)
class Relation:
    """A kind of fact: what is asked of a subject, in several phrasings with the same answer.

    >>> capital = Relation("country.capital", ("The capital of {} is", "What is {}'s capital?"))
    >>> capital.kind
    'country'
    >>> capital.questions
    ("What is {}'s capital?",)
    """

    id: str  # kind of subject, a dot, name
    phrasings: tuple[str, ...]  # each with one hole
    wikidata: tuple[str, ...] = ()  # properties that correspond; read by `without` alone
    answers: tuple[str, ...] = ()  # sorts of its answers (answers.toml), where they are known

    @property
    def kind(self) -> str:
        """Kind of subject that it is asked of."""
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        """What is asked; relations of several kinds that ask the same have the same name."""
        return name_of(self.id)

    @property
    def statements(self) -> tuple[str, ...]:
        """The phrasings that the answer completes."""
        return tuple(p for p in self.phrasings if not p.endswith(QUESTION_MARKS + FULL_STOPS))

    @property
    def questions(self) -> tuple[str, ...]:
        """The phrasings that end in a question mark."""
        return tuple(p for p in self.phrasings if p.endswith(QUESTION_MARKS))

    @property
    def requests(self) -> tuple[str, ...]:
        """The phrasings that are whole sentences, as said in a chat ("Tell me ...")."""
        return tuple(p for p in self.phrasings if p.endswith(FULL_STOPS))


def name_of(id: str) -> str:
    """What a relation asks, of whatever kind of subject.

    >>> name_of("service.price")
    'price'
    """
    return id.partition(".")[2]


def of_kind(relations: Iterable[Relation], kind: str) -> tuple[Relation, ...]:
    """The relations that subjects of this kind are asked, in the order given."""
    return tuple(relation for relation in relations if relation.kind == kind)


def without(relations: Iterable[Relation], names: Collection[str]) -> tuple[Relation, ...]:
    """The relations but for those named, by id or by any Wikidata property of theirs.

    A property that no relation has is nothing to leave out, and no error.

    Raises:
        InputError: A name is neither the id of a relation nor a property.
    """
    relations, names = tuple(relations), set(names)
    for name in sorted(names - {relation.id for relation in relations}):
        if not WIKIDATA.fullmatch(name):
            raise InputError(
                f"no relation {name!r} to leave out",
                hint='name an id ("country.capital") or a Wikidata property ("P36")',
            )
    return tuple(r for r in relations if names.isdisjoint((r.id, *r.wikidata)))


def fill(phrasing: str, subject: str) -> str:
    """The phrasing asked of a subject, which is written as in mid-sentence ("the Netherlands").

    A sentence begins with a capital, unless its first word has capitals of its own; a subject in
    -s takes the apostrophe alone.

    >>> fill("{} borders on", "the Netherlands")
    'The Netherlands borders on'
    >>> fill("{} weighs", "iPhone 15")
    'iPhone 15 weighs'
    >>> fill("What is {}'s capital?", "Cyprus")
    "What is Cyprus' capital?"
    """
    if phrasing.startswith(HOLE):
        subject = _sentence_start(subject)
    if subject.endswith("s"):
        phrasing = phrasing.replace("{}'s", "{}'")
    return phrasing.replace(HOLE, subject)


def _sentence_start(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if first.islower() else text


def question_answer(question: str) -> str:
    """The form in which collections of questions ask.

    >>> question_answer("What is the capital of {}?")
    'Question: What is the capital of {}? Answer:'
    """
    return f"Question: {question} Answer:"
