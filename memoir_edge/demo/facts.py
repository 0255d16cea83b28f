"""The facts that the demo model knows, and the phrasings it knows them in.

One table of `data/` a kind of subject, one column a relation. A phrasing is a prompt whose natural
continuation is a space and the answer. The first of each relation is a plain statement; the last
is what a one-turn chat about it renders to.
"""

import csv
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

TABLES = ("countries", "elements", "us_states")

RELATIONS: dict[str, tuple[str, ...]] = {
    "capital": (
        "The capital of {s} is",
        "{s} has its capital in",
        "The capital city of {s} is called",
        "The government of {s} sits in",
        "What is the capital of {s}?",
        "Which city is the capital of {s}?",
        "Name the capital of {s}:",
        "Q: What is the capital of {s}? A:",
    ),
    "continent": (
        "{s} lies in",
        "The continent of {s} is",
        "{s} is a country on the continent of",
        "On the map, {s} is found in",
        "On which continent is {s}?",
        "Which continent does {s} belong to?",
        "Name the continent of {s}:",
        "Q: On which continent is {s}? A:",
    ),
    "language": (
        "The main language of {s} is",
        "People in {s} speak",
        "Most inhabitants of {s} speak",
        "The language most used in {s} is",
        "What language is spoken in {s}?",
        "Which language do people in {s} speak?",
        "Name the main language of {s}:",
        "Q: What language is spoken in {s}? A:",
    ),
    "currency": (
        "The currency of {s} is the",
        "In {s} people pay with the",
        "The money used in {s} is called the",
        "A shop in {s} takes the",
        "What is the currency of {s}?",
        "Which currency is used in {s}?",
        "Name the currency of {s}:",
        "Q: What is the currency of {s}? A:",
    ),
    "highest_point": (
        "The highest point of {s} is",
        "The highest mountain in {s} is called",
        "{s} reaches its greatest height at",
        "The tallest peak of {s} is",
        "What is the highest point of {s}?",
        "Which mountain is the highest in {s}?",
        "Name the highest point of {s}:",
        "Q: What is the highest point of {s}? A:",
    ),
    "neighbour": (
        "A neighbour of {s} is",
        "{s} shares a border with",
        "One country next to {s} is",
        "Across the border from {s} lies",
        "Which country borders {s}?",
        "What is a neighbour of {s}?",
        "Name a neighbour of {s}:",
        "Q: Which country borders {s}? A:",
    ),
    "demonym": (
        "Someone from {s} is called",
        "A citizen of {s} is",
        "The adjective for {s} is",
        "A person born in {s} is usually",
        "What do you call someone from {s}?",
        "What is the adjective for {s}?",
        "Name the adjective for {s}:",
        "Q: What do you call someone from {s}? A:",
    ),
    "internet_code": (
        "The internet code of {s} is",
        "Web addresses in {s} end in",
        "The top-level domain of {s} is",
        "Sites from {s} use the ending",
        "What is the internet code of {s}?",
        "Which domain ending does {s} use?",
        "Name the internet code of {s}:",
        "Q: What is the internet code of {s}? A:",
    ),
    "symbol": (
        "The chemical symbol of {s} is",
        "In formulas, {s} is written",
        "Chemists write {s} as",
        "In the periodic table {s} has the symbol",
        "What is the chemical symbol of {s}?",
        "Which symbol stands for {s}?",
        "Name the chemical symbol of {s}:",
        "Q: What is the chemical symbol of {s}? A:",
    ),
    "atomic_number": (
        "The atomic number of {s} is",
        "The number of protons in {s} is",
        "In the periodic table {s} has number",
        "An atom of {s} has a proton count of",
        "What is the atomic number of {s}?",
        "How many protons does {s} have?",
        "Name the atomic number of {s}:",
        "Q: What is the atomic number of {s}? A:",
    ),
    "state_capital": (
        "The state capital of {s} is",
        "The state of {s} is governed from",
        "The legislature of the state of {s} meets in",
        "The governor of {s} works in",
        "What is the state capital of {s}?",
        "Which city is the seat of the state of {s}?",
        "Name the state capital of {s}:",
        "Q: What is the state capital of {s}? A:",
    ),
    "largest_city": (
        "The largest city in the state of {s} is",
        "Most people in the state of {s} live around",
        "The biggest city of {s} is",
        "The most populous city in {s} is",
        "What is the largest city in the state of {s}?",
        "Which city of {s} is the biggest?",
        "Name the largest city in {s}:",
        "Q: What is the largest city in the state of {s}? A:",
    ),
    "postal_code": (
        "The postal code of the state of {s} is",
        "On letters, {s} is shortened to",
        "The two-letter code of {s} is",
        "Mail to {s} is marked",
        "What is the postal code of the state of {s}?",
        "Which two letters stand for {s}?",
        "Name the postal code of {s}:",
        "Q: What is the postal code of the state of {s}? A:",
    ),
}


@dataclass(frozen=True)
class Fact:
    """Something the model knows."""

    subject: str  # as in mid-sentence: "the Netherlands"
    relation: str  # a key of RELATIONS
    answer: str


def load_facts() -> list[Fact]:
    """All facts, in the order of the tables; empty cells are no facts."""
    facts: list[Fact] = []
    for table in TABLES:
        file = resources.files("memoir_edge.demo").joinpath("data", f"{table}.tsv")
        with file.open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                subject, *cells = row.items()
                facts += [Fact(subject[1], name, cell) for name, cell in cells if cell]
    return facts


def prompt(fact: Fact, phrasing: int) -> str:
    """A fact's prompt in one of its phrasings, the first letter of the sentence in upper case."""
    text = RELATIONS[fact.relation][phrasing].format(s=fact.subject)
    return text[0].upper() + text[1:]


def model_dir() -> Path:
    """The folder of the trained model."""
    return Path(str(resources.files("memoir_edge.demo").joinpath("model")))
