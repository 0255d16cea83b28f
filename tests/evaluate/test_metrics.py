"""The evaluation's arithmetic, on a model whose answers are written down."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from memoir_edge.answers import Answer, Forced
from memoir_edge.edits import Edit, Unrelated
from memoir_edge.evaluate import evaluate, hard_negatives, prompt_count
from memoir_edge.evaluate.metrics import kind_of, wilson

A = Edit(id="a", prompt="The capital of France is", target="Rome", subject="France", tags={},
         rephrase=("France is governed from", "French capital:"),
         locality=(Unrelated("Water is", "wet"), Unrelated("Fire is")),
         hard_negatives=("The capital of Spain is",))  # fmt: skip
B = Edit(id="b", prompt="The currency of Japan is", target="peso", subject="Japan", tags={})

EDITED = {
    "The capital of France is": Answer(" Rome ", "a", 1.0),
    "France is governed from": Answer("Rome", "a", 0.8),
    "French capital:": Answer("Paris", "b", 0.7),  # reaches the wrong edit
    "The currency of Japan is": Answer("yen", "b", 1.0),  # fires and fails
    "Fire is": Answer("cold", "a", 0.9),  # an unrelated prompt that fires and changes
    "The capital of Spain is": Answer("Rome", "a", 0.9),  # a hard negative too
}


class Fake:
    """Answers from `EDITED` with its memory; its base says "old" to everything."""

    def answer(self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool) -> list[Answer]:
        return [EDITED.get(p, Answer("old")) if memory else Answer("old") for p in prompts]

    def forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        return [Forced((1, 2), (1, 2 if memory == (p != "Fire is") else 3)) for p in prompts]

    def shown(self, target: str) -> str:
        return target


def test_every_share_is_what_was_written_down() -> None:
    counted: list[int] = []
    report = evaluate(Fake(), [A, B], on_progress=counted.append)
    assert sum(counted) == prompt_count([A, B])
    assert report.free.reliability == 0.5
    assert report.failed == ["b"]
    assert report.free.generalization == 0.5
    assert report.free.locality == 0.5
    # B's own negatives are built from A: its template for France, A's for Japan.
    assert hard_negatives(B, [A, B]) == ("The currency of France is", "The capital of Japan is")
    assert report.free.hard_negatives_changed == pytest.approx(1 / 3)
    assert report.routing.recall == 0.5
    assert report.routing.false_fires == pytest.approx(1 / 3)
    assert report.routing.unrelated_fires == 0.5
    assert report.teacher_forced.reliability == 1.0
    assert report.teacher_forced.locality == 0.5  # one token of two moved, on both prompts


@pytest.mark.parametrize("fired", [None, "other"])
def test_an_edit_that_its_prompt_does_not_reach_does_not_hold(
    fired: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else says the target: reliability counts what is said."""
    monkeypatch.setitem(EDITED, A.prompt, Answer("Rome", fired, 0.2))
    report = evaluate(Fake(), [A, B])
    assert (report.free.reliability, report.failed) == (0.5, ["a", "b"])


class Limited:
    """Says one text to everything, a word a token, and is cut where it may say no more."""

    def __init__(self, text: str) -> None:
        self.words = text.split()

    def answer(self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool) -> list[Answer]:
        return [Answer(" ".join(self.words[:max_new_tokens]), A.id) for _ in prompts]

    def forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        ids = [tuple(range(len(target.split()))) for target in targets]
        return [Forced(each, each) for each in ids]

    def shown(self, target: str) -> str:
        return target


LONG = " ".join(map(str, range(40)))


@pytest.mark.parametrize("most", [1, 16, 100])
@pytest.mark.parametrize(
    ("said", "target", "held"),
    [(LONG, LONG, True), ("Rome", "Rome", True), ("Rome and more", "Rome", False),
     (f"{LONG} and more", LONG, False)],
)  # fmt: skip
def test_an_answer_has_room_for_its_target_and_to_go_on(
    said: str, target: str, held: bool, most: int
) -> None:
    report = evaluate(Limited(said), [replace(A, target=target)], max_new_tokens=most)
    assert (report.failed == []) == held
    assert report.free.reliability == report.free.generalization == held


def test_what_decided_is_counted() -> None:
    report = evaluate(Fake(), [A, B])
    detail = report.detail
    assert (detail.recall_low, detail.recall_high) == wilson(1, 2)
    assert (detail.same_template, detail.same_subject, detail.other) == (0.5, 0, None)
    assert detail.by_own_prompt is None  # no key says what it was made of
    assert detail.by_guard == 0


def test_a_model_that_writes_small_letters_alone_says_the_target_in_them() -> None:
    class Small(Fake):
        def answer(
            self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool
        ) -> list[Answer]:
            found = super().answer(prompts, max_new_tokens, memory=memory)
            return [answer._replace(text=answer.text.lower()) for answer in found]

        def shown(self, target: str) -> str:
            return target.lower()

    told, small = evaluate(Fake(), [A, B]), evaluate(Small(), [A, B])
    assert (small.free, small.failed) == (told.free, told.failed)


def test_keys_and_guards_are_told_apart() -> None:
    said = {
        "France is governed from": Answer("Rome", "a", 0.8, key=A.prompt),
        "French capital:": Answer("Rome", "a", 0.7, key="French capital"),
        "The capital of Spain is": Answer("old", None, 0.9, key="Spain", guarded=True),
    }

    class Keyed(Fake):
        def answer(
            self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool
        ) -> list[Answer]:
            return [said.get(p, Answer("old")) if memory else Answer("old") for p in prompts]

    detail = evaluate(Keyed(), [A]).detail
    assert (detail.by_own_prompt, detail.by_guard, detail.same_template) == (0.5, 1, 0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The capital of Spain is", "same template"),
        ("The currency of France is", "same subject"),
        ("The currency of Spain is", "other"),
        ("The capital of France is", "same subject"),
    ],
)
def test_hard_negatives_are_of_a_kind(text: str, kind: str) -> None:
    assert kind_of(A, text) == kind
    assert kind_of(replace(A, subject=None), text) == "other"


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_an_interval_holds_its_share(count: int) -> None:
    for hits in {0, 1, count // 2, count}:
        low, high = wilson(hits, count)
        assert low is not None
        assert high is not None
        assert 0 <= low <= hits / count <= high <= 1
        assert low < high
    assert wilson(0, 0) == (None, None)


def test_a_share_of_nothing_is_none() -> None:
    report = evaluate(Fake(), [replace(B, subject=None)])
    assert report.free.generalization is None
    assert report.routing.false_fires is None
    assert report.as_json()["teacher_forced"]["locality"] is None


@pytest.mark.parametrize("name", ["keys", "rephrase"])
@pytest.mark.parametrize("place", [0, 1])
def test_hard_negatives_are_never_what_must_reach_an_edit(name: str, place: int) -> None:
    text = "The currency of France is"
    assert text in hard_negatives(B, [A, B])
    edits = [A, B]
    edits[place] = replace(edits[place], **{name: (text,)})
    assert text not in hard_negatives(edits[1], edits)
    twin = replace(B, id="c", prompt=text, subject="France")
    assert text not in hard_negatives(B, [A, B, twin])


def test_hard_negatives_are_not_asked_of_the_subject_by_its_other_name() -> None:
    twin = replace(A, prompt="The France is governed from", subject="The France")
    own = replace(A, hard_negatives=())
    assert hard_negatives(own, [own, twin]) == ()


def test_a_rephrasing_that_ends_in_an_article_has_it_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it is trained and asked by `apply`."""
    said = {"The money of Brazil is the": "real", "Brazilians pay in": "the real"}
    edit = replace(B, target="the real", rephrase=tuple(said))
    for text, answer in said.items():
        monkeypatch.setitem(EDITED, text, Answer(answer, "b", 1.0))
    report = evaluate(Fake(), [edit])
    assert report.free.generalization == 1
    assert [one.target for one in report.said if one.kind == "rephrasing"] == list(said.values())


def test_a_notebook_shows_the_shares() -> None:
    shown = evaluate(Fake(), [A, B])._repr_html_()
    assert "<td>reliability</td><td>1.000</td><td>0.500</td>" in shown
    assert "<td>false fires</td><td>0.333</td>" in shown
