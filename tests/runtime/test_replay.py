"""What a memory is asked about, and when its answer holds."""

from dataclasses import replace

import pytest

from memoir_edge.memory import Probe
from memoir_edge_runtime import Case, Options, probes, recorded, replay


@pytest.fixture
def generation(session, make_memory, prompts):
    return session.load(make_memory(prompts[:6]))


def test_edits_are_asked_by_their_records_else_by_their_probes(generation):
    memory = generation.memory
    told, withheld = memory.edits[:2]
    record = {"prompt": "p", "target": "t"}
    held = (Probe("q", "u", told.id), Probe("r", "v", withheld.id), Probe("s", "w", None))
    edits = (told._replace(record=record), withheld._replace(record=None))
    memory = replace(memory, edits=edits, probes=held)
    assert recorded(memory) == [Case(told.id, "p", "t"), Case(withheld.id, "r", "v")]
    assert probes(memory) == [Case(p.edit, p.prompt, p.text) for p in held]


def test_a_case_holds_where_its_edit_answers_its_target(session, generation, prompts, monkeypatch):
    # The tiny model never learned to end a text by itself.
    often = replace(session.language, eos=frozenset(range(1, 300, 9)))
    monkeypatch.setattr(session, "language", often)
    asked = session.generate(prompts[:12], Options(max_new_tokens=40), memory=generation)
    short = [r for r in asked if r.finish_reason == "stop" and r.text.strip()]
    fired = next(r for r in short if r.fired is not None)
    base = next(r for r in short if r.fired is None)
    cases = [
        Case(fired.fired, fired.prompt, fired.text.strip()),
        Case(None, base.prompt, base.text.strip()),
        Case(fired.fired, fired.prompt, f"{fired.text.strip()} x"),  # another answer
        Case(None, fired.prompt, fired.text.strip()),  # an edit that must not fire
        Case("edit-none", base.prompt, base.text.strip()),  # one that must
    ]
    parts = list(replay(session, generation, cases, together=2))
    assert [len(part) for part in parts] == [2, 2, 1]
    found = [outcome for part in parts for outcome in part]
    assert [outcome.case for outcome in found] == cases
    assert [outcome.held for outcome in found] == [True, True, False, False, False]


def test_whoever_writes_answers_is_asked(session, generation, prompts):
    rooms = []

    def complete(rows, with_):
        assert with_ is generation
        rooms.extend(len(rows) for _ in rows)
        return session.complete(rows, with_)

    cases = [Case(None, prompt, "x") for prompt in prompts[:3]]
    list(replay(session, generation, cases, complete=complete))
    assert rooms == [3, 3, 3]
