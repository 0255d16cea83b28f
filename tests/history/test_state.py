"""What events amount to, and what is next: a run that was cut off goes on as if it had not been."""

from typing import Any

import numpy as np

from memoir_edge.history import Audit
from memoir_edge.memory import Probe


def test_what_a_run_has_trained_is_known(fresh: Any, made: Any, change: Any) -> None:
    """Enough to go on with a second pass where it was cut off."""
    more = change(np.random.default_rng(9))
    with fresh() as journal:
        journal.made([made("a"), made("b")])
        journal.again("a", more)
        state = journal.state()
        assert (state.fresh, state.passes) == (["a", "b"], {"a": 1})
        journal.made([made("c")])
        state = journal.state()
        assert (state.fresh, state.passes) == (["a", "b", "c"], {})
        journal.audited(Audit(3, ["a"], []))
        journal.again("a", more)
        assert journal.state().passes == {}  # a repair, no pass
        journal.written("0" * 64, finished=False)
        assert journal.state().fresh == ["a", "b", "c"]
        journal.written("0" * 64, finished=True)
        assert journal.state().fresh == []


def test_an_audit_is_gone_on_with(fresh: Any, made: Any, change: Any) -> None:
    with fresh() as journal:
        journal.made([made("a"), made("b")])
        assert not journal.state().settled(5)
        journal.audited(Audit(2, ["a", "b"], [Probe("p", "t", "a"), Probe("q", "t", "z")]))
        journal.again("a", change(np.random.default_rng(1)))
        state = journal.state()
        assert (state.broken, state.audits, state.settled(0)) == (["b"], 1, False)
        assert journal.compile().evaluation == {"checked": 2, "took": 0}
        assert journal.compile().probes == (Probe("p", "t", "a"),)  # z is not there
        journal.again("b", change(np.random.default_rng(2)))
        journal.audited(Audit(2, ["b"], []))
        assert (journal.state().settled(1), journal.state().settled(2)) == (True, False)
        journal.audited(Audit(2, [], []))
        assert journal.state().settled(9)
        journal.deleted(["a"])
        assert not journal.state().settled(0)
