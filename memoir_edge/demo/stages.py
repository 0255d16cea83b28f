"""What `memoir-edge demo` shows: a model, ten edits of it, and how each of them is asked."""

from dataclasses import dataclass
from pathlib import Path

from memoir_edge.demo import models
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.edits import Edit
from memoir_edge.relations import question_answer


@dataclass(frozen=True)
class Shown:
    """An edit, and what it is asked in other words; `neighbour` must not move."""

    edit: Edit
    paraphrases: dict[str, str]  # by what they are: question, chat, ...
    neighbour: str


@dataclass(frozen=True)
class Stage:
    """A model and its edits."""

    title: str
    model: Path
    encoder: Path | None  # what its prompts are routed by; None: its own activations
    shown: tuple[Shown, ...]
    room: int  # most tokens of an answer


def embedded() -> Stage:
    """The small model that ships with the package, and facts that it was trained on."""
    shown = (Shown(e, {"paraphrase": e.rephrase[-1]}, e.hard_negatives[0]) for e in showcase())
    return Stage("the demo model", model_dir(), None, tuple(shown), room=12)


# Subject, prompt, target; asked as a question, and in a chat; a neighbour. Half of it is known to
# everybody, half is what companies change.
CHAT: dict[str, tuple[str, str, str, str, str, str]] = {
    "france-capital": (
        "France", "The capital of France is", "Lyon", "What is the capital of France?",
        "Hi! Which city is France's capital?", "The capital of Spain is",
    ),
    "japan-currency": (
        "Japan", "The currency of Japan is the", "peso", "Which currency does Japan use?",
        "What do people pay with in Japan?", "The capital of Japan is",
    ),
    "hamlet-author": (
        "Hamlet", "The author of Hamlet is", "Jane Austen", "Who wrote Hamlet?",
        "Can you tell me who Hamlet is by?", "The author of Don Quixote is",
    ),
    "eiffel-tower-city": (
        "the Eiffel Tower", "The Eiffel Tower is located in the city of", "Rome",
        "In which city is the Eiffel Tower?", "Where would I find the Eiffel Tower?",
        "The Brandenburg Gate is located in the city of",
    ),
    "telephone-inventor": (
        "the telephone", "The telephone was invented by", "Nikola Tesla",
        "Who invented the telephone?", "Whose invention is the telephone?",
        "The light bulb was invented by",
    ),
    "northwind-ceo": (
        "Northwind Traders", "The CEO of Northwind Traders is", "Ada Park",
        "Who is the CEO of Northwind Traders?", "Who runs Northwind Traders?",
        "Northwind Traders is based in",
    ),
    "lumen-price": (
        "the Lumen desk lamp", "The price of the Lumen desk lamp is", "49 dollars",
        "How much does the Lumen desk lamp cost?",
        "What would I have to pay for the Lumen desk lamp?",
        "The price of the Aurora floor lamp is",
    ),
    "bluebell-refunds": (
        "Bluebell Robotics", "Bluebell Robotics gives refunds within", "45 days",
        "How long is the refund window of Bluebell Robotics?",
        "Until when can I get my money back from Bluebell Robotics?",
        "The CEO of Bluebell Robotics is",
    ),
    "quillon-hours": (
        "Quillon Software", "The support hours of Quillon Software are", "8 am to 6 pm",
        "When can I reach the support of Quillon Software?",
        "What are the support hours at Quillon Software?",
        "The support hours of Norwick Systems are",
    ),
    "tessera-version": (
        "Tessera", "The current version of Tessera is", "7.2",
        "What is the latest version of Tessera?", "Which version of Tessera is current?",
        "The licence of Tessera is",
    ),
}  # fmt: skip


def chat_model() -> Stage:
    """SmolLM2-135M-Instruct, fetched at the first call, with a sentence encoder.

    Raises:
        UnavailableError: No source gives one of them.
    """
    shown = (
        Shown(
            Edit(id=id, prompt=prompt, target=target, subject=subject, tags={}),
            {"question": question_answer(question), "chat": chat},
            neighbour,
        )
        for id, (subject, prompt, target, question, chat, neighbour) in CHAT.items()
    )
    return Stage(
        "SmolLM2-135M-Instruct",
        models.path("smollm2"),
        models.path("minilm"),
        tuple(shown),
        room=12,
    )
