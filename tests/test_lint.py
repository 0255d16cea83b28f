"""What is doubtful about a batch, seen before anything is trained."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memoir_edge import tophash
from memoir_edge.edits import Edit
from memoir_edge.history.bank import Bank
from memoir_edge.lint import (
    CONTESTED,
    CONTRADICTION,
    CUT,
    DUPLICATE,
    SAME_FACT,
    TOO_LONG,
    UNNAMED,
    UNSAID,
    contested,
    cut,
    doubtful,
    too_long,
    unnamed,
    unsaid,
)

D, K = 16, 4


def mask(*ones: int) -> tophash.Bytes:
    bits = np.zeros(D, np.bool_)
    bits[list(ones)] = True
    return tophash.pack(bits)


def edit(id: str, prompt: str, target: str, threshold: float | None = None) -> Edit:
    return Edit(id=id, prompt=prompt, target=target, threshold=threshold, tags={})


A, B = mask(0, 1, 2, 3), mask(0, 1, 2, 4)  # they overlap by three quarters


def kinds(*batch: tuple[Edit, tophash.Bytes], held: Bank | None = None, threshold: float = 0.7):
    found = doubtful(
        [e for e, _ in batch], [m for _, m in batch], held or Bank(D, K), threshold
    )  # fmt: skip
    return [(f.kind, f.edit, f.other, f.overlap) for f in found]


def test_within_a_batch() -> None:
    first = (edit("a", "p", "x"), A)
    assert kinds(first) == []
    assert kinds(first, (edit("b", "p", "x"), A)) == [(DUPLICATE, "b", "a", 1.0)]
    assert kinds(first, (edit("b", "p", "y"), A)) == [(CONTRADICTION, "b", "a", 1.0)]
    assert kinds(first, (edit("b", "q", "x"), B)) == [(SAME_FACT, "b", "a", 0.75)]
    assert kinds(first, (edit("b", "q", "x"), B), threshold=0.8) == []
    assert kinds() == []


def test_either_threshold_may_be_reached() -> None:
    strict = (edit("a", "p", "x", threshold=0.9), A)
    assert kinds(strict, (edit("b", "q", "x", threshold=0.9), B)) == []
    assert kinds(strict, (edit("b", "q", "x", threshold=0.6), B)) == [(SAME_FACT, "b", "a", 0.75)]


def test_beside_a_memory() -> None:
    held = Bank(D, K)
    held.add("old", {"prompt": "p", "target": "x"}, A, [], [], 0.7)
    held.add("withheld", None, mask(8, 9, 10, 11), [], [], 0.7)
    assert kinds((edit("b", "p", "y"), A), held=held) == [(CONTRADICTION, "b", "old", 1.0)]
    new = (edit("c", "r", "x"), mask(8, 9, 10, 12))
    assert kinds(new, held=held) == [(SAME_FACT, "c", "withheld", 0.75)]


def test_cut() -> None:
    edits = [edit("a", "long enough", "x"), edit("b", "Question: short\nAnswer:", "x")]
    [found] = cut(edits, lambda text: len(text) < 6)
    assert (found.kind, found.edit) == (CUT, "a")
    assert "'long enough'" in found.note


X = replace(edit("x", "p", "Rome"), keys=("k", "p"), guards=("g",))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"prompt": "k"}, "its prompt 'k' is that one's key"),
        ({"keys": ("p",)}, "its key 'p' is that one's prompt"),
        ({"keys": ("k",)}, "its key 'k' is that one's key"),
        ({"keys": ("g",)}, "its key 'g' is that one's guard"),
        ({"prompt": "g"}, "its prompt 'g' is that one's guard"),
        ({"guards": ("k",)}, "its guard 'k' is that one's key"),
        ({"guards": ("p",)}, "its guard 'p' is that one's prompt"),
        ({"guards": ("p",), "target": "Rome"}, "its guard 'p' is that one's prompt"),
        ({"keys": ("k",), "target": "Rome"}, None),  # they agree
        ({"guards": ("g",)}, None),
        ({"prompt": "p", "keys": ("k",)}, None),  # it takes the other's place
        ({"keys": ("a", "p"), "made": 1}, None),  # none that the tool made
    ],
)
def test_contested(other: dict[str, Any], told: str | None) -> None:
    y = replace(edit("y", "q", "Bern"), **other)
    wanted = [(CONTESTED, "y", "x", None, told)] if told else []
    for found in (contested([X, y], []), contested([y], [X])):
        assert [(f.kind, f.edit, f.other, f.overlap, f.note) for f in found] == wanted
    assert contested([], [X, y]) == contested([X], []) == []


CHAT = "<|im_start|>system\nYou help Acme Corp.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"


@pytest.mark.parametrize(
    ("prompt", "subject", "note"),
    [
        ("The CEO of Acme Corp is", "Acme Corp", None),
        ("who runs acme corp?", "Acme Corp", None),
        ("The CEO of Acme Corp is", None, None),  # what is found there
        (CHAT.format("Who runs Acme Corp?"), "Acme Corp", None),
        (CHAT.format("Who runs Acme Corp?"), None, None),
        (CHAT.format("Who is the CEO?"), "Acme Corp", "'Acme Corp' does not stand in 'Who is"),
        (CHAT.format("Who is it?"), None, "no subject is found in 'Who is it?'"),
        ("Its refund window is", "Acme Corp", "'Acme Corp' does not stand in 'Its refund"),
        ("...", None, "no subject is found in '...'"),
    ],
)
def test_unnamed(prompt: str, subject: str | None, note: str | None) -> None:
    found = unnamed([replace(edit("a", prompt, "x"), subject=subject)])
    assert [(one.kind, one.edit) for one in found] == ([(UNNAMED, "a")] if note else [])
    assert all(str(note) in one.note for one in found)


def test_too_long() -> None:
    [found] = too_long([edit("a", "p", "x"), edit("b", "q", "x")], [8, 9], 8)
    assert (found.kind, found.edit) == (TOO_LONG, "b")
    assert "9 tokens, the context is 8" in found.note


def test_unsaid() -> None:
    [found] = unsaid([edit("a", "p", "x"), edit("b", "q", "x <s>")], ["x", "x"])
    assert (found.kind, found.edit) == (UNSAID, "b")
    assert "of 'x <s>' the model can only say 'x'" in found.note
