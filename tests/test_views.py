"""What is read of a prompt, and which text of it decides."""

import numpy as np
import pytest

from memoir_edge.tophash import Routes
from memoir_edge.views import asking, bare, decisive, said, views


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("The capital of France is", None),
        ("What is the capital of France?", None),
        ("It rained. The capital of France is", "The capital of France is"),
        ("It rained!\nWhat is the capital of France?", "What is the capital of France?"),
        (
            "Could you help? What is the capital of France? Thanks!",
            "What is the capital of France?",
        ),
        ("Version 2.1 of Plume was released in", None),
        ("Hi! Yes?", None),
        ("Question: What is the capital of France?\nAnswer:", None),
        ("Question: It rained. The capital of France is\nAnswer:", "The capital of France is"),
        ("Q: Who runs Acme?\nA: Ann\nQ: Plume's price?\nA:", "Plume's price?"),
        ("User: It rained. Assistant: Yes. User: Who runs Acme?", "Who runs Acme?"),
        ("", None),
        ("The mayor of St. Louis is", None),
        ("Who runs St. Louis, Missouri? Thanks!", "Who runs St. Louis, Missouri?"),
        ("Who is the CEO of Acme Inc. Japan?", None),
        ("It rained. Who governs the U.S. Virgin Islands?", "Who governs the U.S. Virgin Islands?"),
        ("I work for Acme Inc. Who runs Plume?", "Who runs Plume?"),
        ("Please tell me who runs Acme. Thanks!", "Please tell me who runs Acme."),
    ],
)
def test_the_last_sentence_is_a_text_of_its_own(text: str, last: str | None) -> None:
    assert asking(text) == (() if last is None else (last,))


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Question: Who runs Acme?\nAnswer:", "Who runs Acme?"),
        ("Question: Acme's CEO is Answer:", "Acme's CEO is"),
        (" Q: Who runs Acme?\nA: ", "Who runs Acme?"),
        ("USER: Who runs Acme?", "Who runs Acme?"),
        ("Questions: two of them remain", "Questions: two of them remain"),
        ("The source of vitamin A:", "The source of vitamin A:"),  # nothing said that it asks
        ("Question:", "Question:"),
        ("Q: A:", "Q: A:"),
        ("Who runs Acme? ", "Who runs Acme? "),
        ("", ""),
    ],
)
def test_labels_are_no_part_of_what_is_asked(text: str, rest: str) -> None:
    assert bare(text) == rest
    assert views([text])[0] == [rest]


@pytest.mark.parametrize(
    "chat",
    [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
        "<|system|>\nBe brief.<|end|>\n<|user|>\n{}<|end|>\n<|assistant|>\n",
        "<|user|>\n{}</s>\n<|assistant|>\n",
        "<|start|>user<|message|>{}<|end|><|start|>assistant",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>{}<｜Assistant｜>",
        "<s>[INST] {} [/INST]",
    ],
)
def test_a_chat_in_its_template_asks_what_the_last_user_message_says(chat: str) -> None:
    question = "It rained.\nWho runs Acme?"
    assert bare(chat.format(question)) == said(chat.format(question)) == question
    assert views([chat.format(question)])[0] == [question, "Who runs Acme?"]
    before = chat.format("Who runs Plume?")
    assert bare(f"{before}Bob.{chat.format('Question: Who runs Acme?')}") == "Who runs Acme?"
    assert bare(chat.format("")) == chat.format("")


@pytest.mark.parametrize(
    "part", ["[INST]", "Q: ", " ", "a : ", "[/INST]", "\n", "a", "?! ", "St. "]
)
def test_a_long_text_of_anything_is_read_at_once(part: str) -> None:
    """In time that grows with its length, not with its square: the test would not end."""
    texts, _ = views(["Q: " + part * 100_000 + "x"])
    assert texts


def test_texts_stand_prompt_by_prompt_the_whole_first() -> None:
    texts, of = views(["One two three. Four five six", "Seven"])
    assert texts == ["One two three. Four five six", "Four five six", "Seven"]
    assert of.tolist() == [0, 0, 1]
    assert views([])[1].shape == (0,)


def test_what_was_meant_is_read_beside_what_was_typed() -> None:
    texts, of = views(["Teh b. One two teh", "One two"], lambda text: text.replace("eh", "he"))
    assert texts == ["Teh b. One two teh", "One two teh", "The b. One two the", "One two the",
                     "One two"]  # fmt: skip
    assert of.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("route", "overlap", "wins"),
    [
        ((-1, -1), (0.6, 0.7), 1),  # nothing is reached: the nearest is told
        ((3, -1), (0.8, 0.9), 0),  # a guard that is nearer to one text does not stop the other
        ((-1, 3), (0.9, 0.8), 1),
        ((3, 5), (0.8, 0.9), 1),
        ((3, 5), (0.8, 0.8), 0),  # equals: the whole prompt
    ],
)
def test_a_text_that_reaches_an_edit_decides(
    route: tuple[int, int], overlap: tuple[float, float], wins: int
) -> None:
    routes = Routes(np.array([7, *route]), np.array([0.5, *overlap], np.float32), np.arange(3))
    found = decisive(routes, np.array([0, 1, 1]))
    assert found.candidate.tolist() == [0, 1 + wins]
    assert found.route.tolist() == [7, route[wins]]
    assert found.overlap.tolist() == pytest.approx([0.5, overlap[wins]])


def test_nothing_decides_nothing() -> None:
    none = np.zeros(0, np.int64)
    assert len(decisive(Routes(none, np.zeros(0, np.float32), none), none).route) == 0
