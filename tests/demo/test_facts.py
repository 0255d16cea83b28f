"""The fact list: large enough, clean, and without two prompts that are the same."""

from collections import Counter

import pytest

from memoir_edge.demo.facts import RELATIONS, load_facts, prompt

FACTS = load_facts()


def clean(cell: str) -> bool:
    """Printable ASCII, no bracket or quotation mark, no blank too many."""
    one_line = cell == " ".join(cell.split()) and cell.isascii() and cell.isprintable()
    return one_line and cell != "" and not set(cell) & set('()[]{}<>|;"')


def test_a_thousand_facts_over_six_relations() -> None:
    assert len(FACTS) >= 1000
    counts = Counter(fact.relation for fact in FACTS)
    assert counts.keys() == RELATIONS.keys()
    assert len(counts) >= 6


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_has_statements_questions_and_one_chat_form(relation: str) -> None:
    phrasings = RELATIONS[relation]
    assert len(phrasings) >= 8
    assert all(text.count("{s}") == 1 for text in phrasings)
    assert not phrasings[0].endswith(("?", ":")), "phrasing 0 is a plain statement"
    assert sum(text.endswith("?") for text in phrasings) >= 2
    assert sum(not text.endswith(("?", ":")) for text in phrasings) >= 2
    chat = [text for text in phrasings if text.startswith("Q: ") and text.endswith("? A:")]
    assert chat == [phrasings[-1]]
    asked = chat[0].removeprefix("Q: ").removesuffix(" A:")
    assert asked in phrasings, "the chat form asks one of the plain questions"


def test_cells_are_clean() -> None:
    cells = {cell for fact in FACTS for cell in (fact.subject, fact.answer)}
    assert sorted(cell for cell in cells if not clean(cell)) == []


def test_no_fact_twice() -> None:
    keys = Counter((fact.subject, fact.relation) for fact in FACTS)
    assert [key for key, count in keys.items() if count > 1] == []


def test_no_template_twice() -> None:
    templates = Counter(text for phrasings in RELATIONS.values() for text in phrasings)
    assert [text for text, count in templates.items() if count > 1] == []


def test_prompts_are_distinct_sentences() -> None:
    prompts = [prompt(fact, i) for fact in FACTS for i in range(len(RELATIONS[fact.relation]))]
    assert len(set(prompts)) == len(prompts)
    assert all(text[0].isupper() and text == text.strip() and "{" not in text for text in prompts)


def test_articles_read_naturally_in_and_at_the_start_of_a_sentence() -> None:
    netherlands = next(
        f for f in FACTS if (f.subject, f.relation) == ("the Netherlands", "capital")
    )
    assert prompt(netherlands, 0) == "The capital of the Netherlands is"
    assert prompt(netherlands, 1) == "The Netherlands has its capital in"
