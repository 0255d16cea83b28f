"""Events: each becomes a frame, and that frame is read as the same event."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memoir_edge.errors import InputError
from memoir_edge.history import (
    Again,
    Audit,
    Calibrated,
    Change,
    Deleted,
    Event,
    Made,
    RolledBack,
    Tabled,
    Together,
    Written,
)
from memoir_edge.history import frames as frames_file
from memoir_edge.history.events import BEGIN, KINDS, Measured, Wrong, change_of
from memoir_edge.memory import Probe, Router

PAGE = (Path(__file__).parents[2] / "docs" / "journal.md").read_text(encoding="utf-8")


def kept(event: Event) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of an event's frame, read from the frame's bytes."""
    file = frames_file.create(None)
    frame = file.append(event.kind, *event.content())
    return frame.data, file.tensors(frame)


def read(event: Event) -> Event:
    return KINDS[event.kind].of(*kept(event))


def plain(value: Any) -> Any:
    """Comparable: arrays with types and shapes."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, Together):
        return plain(value.edits)
    if isinstance(value, list | tuple):
        return type(value).__name__, [plain(inner) for inner in value]
    return value


@pytest.mark.parametrize("keys", [0, 1, 4])
@pytest.mark.parametrize("guards", [0, 1, 4])
@pytest.mark.parametrize("coded", [False, True])
def test_edits_made_together(
    made: Any, router: Router, keys: int, guards: int, coded: bool
) -> None:
    own = router if coded else None
    event = Together(
        (
            made("a", keys=keys, guards=guards, router=own),
            made("b", guards=keys, decay=0.5, router=own),
        )
    )
    found = read(event)
    assert isinstance(found, Together)
    assert plain(found) == plain(event)
    assert [edit.key is not None for edit in found.edits] == [coded] * 2


def test_a_made_frame_is_what_the_page_says(made: Any, router: Router) -> None:
    edit: Made = made("a", keys=2, guards=1)
    data, tensors = kept(Together((made("x"), edit)))
    assert data["edits"][1] == {
        "id": "a", "record": edit.record, "threshold": 0.5, "others": 2, "loss": 0.01, "steps": 5,
        "decay": 1.0, "error": 0.001,
    }  # fmt: skip
    assert set(tensors) == {"0.keys", "0.V", "0.U", "1.keys", "1.V", "1.U"}
    assert np.array_equal(tensors["1.keys"], [edit.primary, *edit.others, *edit.guards])
    assert np.array_equal(tensors["1.V"] @ tensors["1.U"], edit.change.delta())

    coded: Made = made("a", keys=2, guards=1, router=router)
    _, tensors = kept(Together((coded,)))
    assert set(tensors) == {"0.keys", "0.mask", "0.V", "0.U"}
    assert np.array_equal(tensors["0.keys"], [coded.key, *coded.others, *coded.guards])
    assert np.array_equal(tensors["0.mask"], coded.primary)


def test_an_edit_trained_again(change: Any) -> None:
    event = Again("a", change(np.random.default_rng(0)))
    found = read(event)
    assert isinstance(found, Again)
    assert found.edit == "a"
    assert plain(found.change) == plain(event.change)


PROBES = [Probe("Où ?", "Rome", "a"), Probe("p", "t")]


@pytest.mark.parametrize(
    "event",
    [
        Audit(3, ["a", "b"], PROBES),
        Audit(0, [], []),
        Audit(2, ["b"], PROBES, {"b": {"form": (2, 1)}}, [Wrong("b", "form", "p", "x", None)]),
        Written("ab" * 32, finished=True),
        Written("ab" * 32, finished=False),
        Deleted(["a", "b"]),
        RolledBack(7),
    ],
    ids=repr,
)
def test_an_event_without_tensors(event: Event) -> None:
    assert read(event) == event
    assert kept(event)[1] == {}


def test_thresholds() -> None:
    event = Calibrated(np.array([0.5, 0.75], np.float32))
    found = read(event)
    assert isinstance(found, Calibrated)
    assert plain(found.thresholds) == plain(event.thresholds)


def test_keys_made_anew() -> None:
    event = Tabled(
        ["a", "b"], ["Où ?", "p", "q"], np.arange(6, dtype=np.uint8).reshape(3, 2),
        np.array([0, 0, 1], np.int32), np.array([0, 1, 0], np.uint8),
        np.array([0.5, 0.75, 1], np.float32),
    )  # fmt: skip
    for told in (event, replace(event, measured=Measured(2, 0.75, 0.5, "rules", 0.7))):
        found = read(told)
        assert isinstance(found, Tabled)
        assert plain(list(vars(found).values())) == plain(list(vars(told).values()))


def test_an_edit_is_deleted_once() -> None:
    assert read(Deleted(["b", "a", "b"])) == Deleted(["b", "a"])


def test_every_kind_is_on_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)`", PAGE.split("| kind |")[1], re.MULTILINE)
    assert sorted(rows) == sorted([BEGIN, *KINDS])


# --- What an event says --------------------------------------------------------------------------


def test_a_change_is_the_product_of_what_is_stored() -> None:
    V, U = np.array([[1], [2]], np.float32), np.array([[3, 4]], np.float32)
    delta = Change(V, U).delta()
    assert delta.dtype == np.float32
    assert delta.tolist() == [[3, 4], [6, 8]]


def test_a_change_at_several_sites_is_a_product_for_each() -> None:
    V, U = np.array([[1], [2], [5], [0]], np.float32), np.array([[3, 4], [1, -1]], np.float32)
    assert Change(V, U).delta(2).tolist() == [[3, 4], [6, 8], [5, -5], [0, 0]]
    for sites in (1, 3):
        with pytest.raises(ValueError, match=r"cannot reshape|mismatch"):
            Change(V, U).delta(sites)


def test_numbers_that_a_frame_leaves_out_are_the_usual_ones() -> None:
    V, U = np.ones((2, 1), np.float32), np.ones((1, 3), np.float32)
    assert change_of({}, {"0.V": V, "0.U": U}).numbers() == Change(V, U).numbers()
    assert change_of({"decay": 0.5}, {"3.V": V, "3.U": U}, 3).decay == 0.5


def test_an_audit_sums_itself_up() -> None:
    assert Audit(3, ["a"], []).evaluation == {"checked": 3, "took": 2}


def test_only_what_is_held_and_told_apart_is_deleted() -> None:
    Deleted(["a"]).check({"a", "b"}, {"b"})
    with pytest.raises(InputError, match="there is no edit 'x'"):
        Deleted(["a", "x"]).check({"a", "b"}, set())
    with pytest.raises(InputError, match="was in the memory that the journal began from"):
        Deleted(["a", "b"]).check({"a", "b"}, {"b"})


def test_a_rollback_leads_to_a_step_that_is_there() -> None:
    for to in (0, 4):
        RolledBack(to).check(5)
    for to in (-1, 5):
        with pytest.raises(InputError, match=f"no step {to}; the last is 4"):
            RolledBack(to).check(5)
