import pytest

from memoir_edge.router.text import views


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
        ("", None),
    ],
)
def test_the_last_sentence_is_a_view_of_its_own(text: str, last: str | None) -> None:
    assert views(text) == ((text,) if last is None else (text, last))
