"""What was done to one edit, and nothing of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memoir_edge.history import (
    Again,
    Audit,
    Deleted,
    JournalError,
    RolledBack,
    Together,
    Wrong,
    past,
)


def _whats(steps: list[dict[str, Any]]) -> list[str]:
    return [step["what"] for step in steps]


def test_the_steps_of_an_edit_up_to_a_memory(
    fresh: Any, made: Any, change: Any, tmp_path: Path
) -> None:
    wrong = [Wrong("a", "key", "A", "x", None), Wrong("b", "key", "B", "x", None)]
    tally = {"a": {"prompt": (1, 1), "key": (2, 1)}, "b": {"prompt": (1, 0)}}
    out = tmp_path / "m"
    with fresh() as journal:
        journal.record(Together((made("b"),)))
        journal.record(Together((made("a"), made("c"))))
        journal.record(Audit(3, ["a"], [], tally, wrong))
        first = str(journal.write(out).digest)
        journal.record(Again("a", change(np.random.default_rng(1))))
        second = str(journal.write(out).digest)
        assert _whats(past(journal, "a", first)) == ["made", "audit", "written"]
        steps = past(journal, "a", second)
        assert _whats(steps) == ["made", "audit", "written", "again", "written"]
        assert [step["step"] for step in steps] == [2, 3, 4, 5, 6]
        assert (steps[0]["loss"], steps[0]["steps"]) == (0.01, 5)
        assert (steps[1]["held"], steps[1]["asked"]) == (False, tally["a"])
        assert steps[1]["wrong"] == [wrong[0]._asdict()]
        assert [steps[2]["digest"], steps[4]["digest"]] == [first, second]
        assert past(journal, "none", second) == []
        journal.record(RolledBack(4))
        journal.record(Deleted(["b"]))
        third = str(journal.write(out).digest)
        assert _whats(past(journal, "a", third)) == ["made", "audit", "written", "written"]
        with pytest.raises(JournalError, match="is not the journal of memory 00"):
            past(journal, "a", "00")


def test_earlier_checks_said_only_which_edits_fail(fresh: Any, made: Any, tmp_path: Path) -> None:
    with fresh() as journal:
        journal.record(Together((made("a"),)))
        journal.record(Audit(1, [], []))
        digest = str(journal.write(tmp_path / "m").digest)
        step = past(journal, "a", digest)[1]
    assert (step["held"], step["asked"], step["wrong"]) == (True, {}, [])


@pytest.mark.parametrize("loss", [float("nan"), "x", None])
def test_a_malformed_step_is_named(fresh: Any, made: Any, tmp_path: Path, loss: Any) -> None:
    with fresh() as journal:
        journal.record(Together((made("a"),)))
        digest = str(journal.write(tmp_path / "m").digest)
        journal.frames[1].data["edits"][0]["loss"] = loss
        with pytest.raises(JournalError, match="step 1 is malformed"):
            past(journal, "a", digest)


@pytest.mark.parametrize("step", [0, 2])
def test_a_memory_is_not_looked_for_in_malformed_steps(
    fresh: Any, made: Any, tmp_path: Path, step: int
) -> None:
    with fresh() as journal:
        journal.record(Together((made("a"),)))
        journal.write(tmp_path / "m")
        del journal.frames[step].data["digest"]
        with pytest.raises(JournalError, match=f"step {step} is malformed"):
            past(journal, "a", "00")
