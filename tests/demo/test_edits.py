"""The demo's edits: what they say of the facts, and that they do not meet."""

from memoir_edge.demo.edits import sample, showcase
from memoir_edge.demo.facts import load_facts


def test_the_demos_edits_keep_their_promises() -> None:
    facts = {(f.subject, f.relation): f.answer for f in load_facts()}
    for edits in (showcase(), sample(200)):
        own = {edit.prompt for edit in edits}
        assert len(own) == len(edits)
        for edit in edits:
            assert facts[str(edit.subject), edit.tags["relation"]] == edit.ground_truth
            assert edit.target != edit.ground_truth
            assert len(edit.rephrase) == 7
            assert edit.prompt not in edit.rephrase
            assert not own & set(edit.hard_negatives)
            assert not own & {probe.prompt for probe in edit.locality}
            assert all(str(edit.subject) not in probe.prompt for probe in edit.locality)
