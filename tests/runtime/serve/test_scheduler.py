"""Requests that come and go at any time are answered as if each were alone."""

import queue
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memoir_edge.errors import InputError
from memoir_edge_runtime import Options, Result, Row, Token
from memoir_edge_runtime._reading import Reader
from memoir_edge_runtime.serve.scheduler import (
    BusyError,
    ClosedError,
    DeadlineError,
    Failed,
    Scheduler,
)


@pytest.fixture
def make_scheduler(session):
    made = []

    def make(**sizes):
        context = session.language.context
        made.append(Scheduler(session.decoder, **({"context": context} | sizes)))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.close(seconds=5)


class Asked:
    """A request and what was delivered for it."""

    def __init__(self, scheduler, session, prompts, generation=None, *, seconds=None, **options):
        self.prompts, self.options = prompts, options
        self.generation = generation or session.base
        self.events = queue.SimpleQueue()
        self.rows = session.completions(prompts, Options(**options))
        self.ticket = scheduler.submit(self.rows, self.generation, self.events.put, seconds=seconds)

    def wait(self):
        """All events; ends with the last result or a failure."""
        events, results = [], 0
        while results < len(self.rows):
            part = self.events.get(timeout=60)
            events += part
            results += sum(isinstance(e, Result) for e in part)
            if isinstance(part[-1], Failed):
                break
        return events

    def results(self):
        found = [e for e in self.wait() if isinstance(e, Result)]
        return sorted(found, key=lambda r: r.row)

    def alone(self, session):
        return session.generate(self.prompts, Options(**self.options), memory=self.generation)


@pytest.fixture
def slow(session, monkeypatch):
    """Steps wait for permission: `slow()` lets one more through."""
    allowed, step = threading.Semaphore(0), session.decoder.step

    def held(state, tokens):
        assert allowed.acquire(timeout=60)
        return step(state, tokens)

    monkeypatch.setattr(session.decoder, "step", held)
    yield allowed.release
    for _ in range(10_000):
        allowed.release()


def test_requests_that_come_and_go_equal_requests_alone(session, make_scheduler, prompts, two):
    generations = [session.base, *(session.load(memory) for memory in two)]
    scheduler, draw = make_scheduler(max_rows=7, prefill_tokens=40), random.Random(3)
    asked = []
    for i in range(60):
        some = draw.sample(prompts[:30], draw.choice([1, 1, 1, 3]))
        options = {"max_new_tokens": draw.randint(1, 24), "stop": draw.choice([(), ("a",)])}
        options |= {"temperature": 0.9, "seed": i} if i % 2 else {}
        asked.append(Asked(scheduler, session, some, draw.choice(generations), **options))
        if i % 9 == 0:  # let some be done before others come
            asked[-1].alone(session)

    fired = 0
    for each in asked:
        found = each.results()
        assert found == each.alone(session)
        fired += sum(r.fired is not None for r in found)
    assert 10 < fired < 50


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_sizes_and_any_requests(session, make_scheduler, prompts, two, data):
    generations = [session.base, *(session.load(memory) for memory in two)]
    scheduler = make_scheduler(
        max_rows=data.draw(st.integers(1, 6)), prefill_tokens=data.draw(st.integers(1, 60))
    )
    wishes = st.fixed_dictionaries(
        {
            "max_new_tokens": st.integers(1, 100),
            "temperature": st.sampled_from([0.0, 0.7, 2.0]),
            "top_k": st.sampled_from([0, 1, 5]),
            "top_p": st.sampled_from([1.0, 0.5]),
            "seed": st.integers(0, 9),
            "stop": st.sampled_from([(), ("e",), ("the", "x")]),
        }
    )
    requests = st.tuples(
        st.lists(st.sampled_from(prompts), min_size=1, max_size=3), st.integers(0, 2), wishes
    )
    asked = [
        Asked(scheduler, session, some, generations[which], **options)
        for some, which, options in data.draw(st.lists(requests, min_size=1, max_size=6))
    ]
    for each in asked:
        assert each.results() == each.alone(session)


def test_tokens_arrive_in_order_and_join_to_the_result(session, make_scheduler, prompts):
    events = Asked(make_scheduler(), session, prompts[:4], max_new_tokens=9).wait()
    for row in range(4):
        *tokens, result = [e for e in events if e.row == row]
        assert all(isinstance(t, Token) for t in tokens)
        assert "".join(t.text for t in tokens) == result.text
        assert tuple(t.id for t in tokens) == result.ids


def test_a_request_keeps_its_generation_when_memories_change(session, make_scheduler, prompts, two):
    scheduler, a, b = make_scheduler(), *(session.load(memory) for memory in two)
    before = Asked(scheduler, session, prompts[:6], a, max_new_tokens=20)
    after = Asked(scheduler, session, prompts[:6], b, max_new_tokens=20)
    assert before.results() == before.alone(session)
    assert after.results() == after.alone(session)
    digests = (
        {r.routing.digest for r in before.alone(session)},
        {r.routing.digest for r in after.alone(session)},
    )
    assert digests == ({a.digest}, {b.digest})


def test_a_full_queue_refuses_and_says_when(session, make_scheduler, prompts, slow):
    scheduler = make_scheduler(max_rows=1, max_queue=2)
    first = Asked(scheduler, session, prompts[0], max_new_tokens=3)
    while scheduler.running == 0:
        time.sleep(0.001)
    rest = [Asked(scheduler, session, p, max_new_tokens=1) for p in prompts[1:3]]
    assert (scheduler.running, scheduler.waiting) == (1, 2)
    with pytest.raises(BusyError, match="2 rows are waiting") as caught:
        Asked(scheduler, session, prompts[3])
    assert 1 <= caught.value.retry_after <= 60
    for _ in range(9):
        slow()
    assert all(each.results() for each in (first, *rest))
    assert Asked(scheduler, session, prompts[3], max_new_tokens=1).results()


def test_a_cancelled_request_leaves_the_others_as_they_are(session, make_scheduler, prompts, slow):
    scheduler = make_scheduler(max_rows=3)
    asked = [Asked(scheduler, session, p, max_new_tokens=12) for p in prompts[:4]]
    slow()
    asked[1].ticket.cancel()  # runs
    asked[3].ticket.cancel()  # waits
    for _ in range(30):
        slow()
    kept = [asked[0].results(), asked[2].results()]
    for _ in range(60):
        slow()
    assert kept == [asked[0].alone(session), asked[2].alone(session)]
    assert scheduler.running + scheduler.waiting == 0
    assert not asked[3].rows[0].ids


def test_deadlines_fail_running_and_waiting_requests(session, make_scheduler, prompts, slow):
    scheduler = make_scheduler(max_rows=1)
    running = Asked(scheduler, session, prompts[0], max_new_tokens=50, seconds=0.05)
    waiting = Asked(scheduler, session, prompts[1], max_new_tokens=50, seconds=0.05)
    patient = Asked(scheduler, session, prompts[2], max_new_tokens=2, seconds=1000)
    time.sleep(0.06)
    for _ in range(9):
        slow()
    for late in (running, waiting):
        *_, last = late.wait()
        assert isinstance(last.error, DeadlineError)
    assert len(patient.results()) == 1


def test_closing_finishes_what_was_taken(session, make_scheduler, prompts):
    scheduler = make_scheduler(max_rows=2)
    asked = [Asked(scheduler, session, p, max_new_tokens=8) for p in prompts[:6]]
    scheduler.close()
    assert not scheduler.alive
    assert all(len(each.results()) == 1 for each in asked)
    with pytest.raises(ClosedError):
        Asked(scheduler, session, prompts[0])


def test_closing_in_a_hurry_fails_the_rest(session, make_scheduler, prompts, slow):
    scheduler = make_scheduler(max_rows=1)
    asked = [Asked(scheduler, session, p, max_new_tokens=50) for p in prompts[:2]]
    for _ in range(3):
        slow()
    scheduler.close(seconds=0)
    assert all(isinstance(each.wait()[-1].error, ClosedError) for each in asked)


def test_an_error_of_the_graph_fails_its_rows_and_no_others(
    session, make_scheduler, prompts, two, monkeypatch
):
    scheduler, bad = make_scheduler(), session.load(two[0])
    step = session.decoder.step

    def fragile(state, tokens):
        if state.generation is bad:
            raise RuntimeError("no memory left")
        return step(state, tokens)

    monkeypatch.setattr(session.decoder, "step", fragile)
    lost = Asked(scheduler, session, prompts[:3], bad, max_new_tokens=4)
    kept = Asked(scheduler, session, prompts[:3], max_new_tokens=4)
    assert "no memory left" in str(lost.wait()[-1].error)
    assert len(kept.results()) == 3
    monkeypatch.undo()
    assert len(Asked(scheduler, session, prompts[:3], bad, max_new_tokens=4).results()) == 3


def test_a_receiver_that_is_gone_disturbs_nobody(session, make_scheduler, prompts):
    scheduler = make_scheduler()

    def gone(events):
        raise RuntimeError("closed")

    scheduler.submit(
        session.completions(prompts[:2], Options(max_new_tokens=50)), session.base, gone
    )
    assert len(Asked(scheduler, session, prompts[:2], max_new_tokens=5).results()) == 2
    assert scheduler.alive


def test_long_prompts_delay_a_token_by_a_bounded_amount(session, make_scheduler, monkeypatch):
    """Between two tokens of a stream at most one prompt budget is read, or one longer prompt."""
    calls = []
    prefill, step = session.decoder.prefill, session.decoder.step
    monkeypatch.setattr(
        session.decoder,
        "prefill",
        lambda rows, *rest: (
            calls.append(len(rows) * max(len(r.ids) for r in rows)) or prefill(rows, *rest)
        ),
    )
    monkeypatch.setattr(session.decoder, "step", lambda s, t: calls.append("step") or step(s, t))
    scheduler = make_scheduler(max_rows=8, prefill_tokens=70)
    texts = ["a" * n for n in (5, 60, 80, 3, 4, 90, 10, 70, 2, 50)]
    asked = [Asked(scheduler, session, t, max_new_tokens=5) for t in texts]
    assert [each.results() for each in asked]
    sizes = [c for c in calls if c != "step"]
    assert max(sizes) <= 91
    assert all(c <= 70 for c in sizes if c not in (81, 91, 71))
    between = " ".join("step" if c == "step" else "read" for c in calls)
    assert "read read" not in between


@pytest.fixture
def make_reader(session):
    def make(chunk):
        return Reader(session.decoder, base="base", chunk=chunk, max_bytes=2**20, block=4)

    return make


def test_a_long_prompt_is_read_between_the_tokens_of_others(
    session, make_scheduler, make_reader, monkeypatch
):
    calls, decoder = [], session.decoder
    prefill, extend, step = decoder.prefill, decoder.extend, decoder.step
    monkeypatch.setattr(
        decoder,
        "prefill",
        lambda rows, *rest: calls.append(len(rows[0].ids)) or prefill(rows, *rest),
    )
    monkeypatch.setattr(
        decoder,
        "extend",
        lambda s, row, **rest: calls.append(len(row.ids)) or extend(s, row, **rest),
    )
    monkeypatch.setattr(decoder, "step", lambda s, t: calls.append("step") or step(s, t))
    scheduler = make_scheduler(prefill_tokens=10, reader=make_reader(10))
    others = Asked(scheduler, session, "a", max_new_tokens=60, ignore_eos=True)
    others.events.get(timeout=60)
    long = Asked(scheduler, session, "the city of Paris " * 4, max_new_tokens=3)
    assert long.results() == long.alone(session)
    scheduler.close()
    sizes = [c for c in calls if c != "step"]
    between = " ".join("step" if c == "step" else "read" for c in calls)
    assert sum(sizes[: len(sizes) - 1]) > 20  # the last is the prompt alone, read at once
    assert max(sizes[:-1]) <= 10
    assert "read read" not in between.rpartition("read")[0]


def test_a_short_prompt_does_not_wait_for_all_of_a_long_one(
    session, make_scheduler, make_reader, monkeypatch
):
    read, decoder, began, go_on = [], session.decoder, threading.Event(), threading.Event()
    prefill, extend = decoder.prefill, decoder.extend

    def first_read(rows, *rest):
        read.extend(len(row.ids) for row in rows)
        return prefill(rows, *rest)

    def further_read(state, row, **rest):
        read.append("part")
        began.set()
        assert go_on.wait(60)
        return extend(state, row, **rest)

    scheduler = make_scheduler(prefill_tokens=10, reader=make_reader(10))
    alone = session.generate("ab", Options(max_new_tokens=2))
    monkeypatch.setattr(decoder, "prefill", first_read)
    monkeypatch.setattr(decoder, "extend", further_read)
    long = Asked(scheduler, session, "the city of Paris " * 4, max_new_tokens=3)
    assert began.wait(60)
    short = Asked(scheduler, session, "ab", max_new_tokens=2)
    go_on.set()
    assert short.results() == alone
    assert long.results()
    scheduler.close()
    assert read[:2] == [10, "part"]  # of the long prompt
    assert read[2] == len(session.prompt("ab").row.ids)
    assert read[3:] == ["part"] * 2


def test_a_prompt_is_given_up_while_it_is_read(session, make_scheduler, make_reader, slow):
    scheduler = make_scheduler(max_rows=3, prefill_tokens=4, reader=make_reader(4))
    other = Asked(scheduler, session, "a", max_new_tokens=5, ignore_eos=True)
    long = Asked(scheduler, session, "the city of Paris " * 4)
    while scheduler.running < 2:
        slow()
        time.sleep(0.01)
    long.ticket.cancel()
    for _ in range(10):
        slow()
    assert other.results() == other.alone(session)
    assert long.events.empty()
    assert scheduler.running == 0


def test_any_requests_are_answered_behind_what_is_kept(
    session, make_scheduler, make_reader, prompts, two
):
    scheduler, draw = make_scheduler(prefill_tokens=12, reader=make_reader(12)), random.Random(5)
    memories = [session.base, *map(session.load, two)]
    begin = "who was where in the long river city of France? "
    asked = [
        Asked(scheduler, session, [begin + p for p in draw.sample(prompts, 2)],
              draw.choice(memories), max_new_tokens=6)
        for _ in range(12)
    ]  # fmt: skip
    for each in asked:
        assert [r.ids for r in each.results()] == [r.ids for r in each.alone(session)]
    assert scheduler.reader.found > 0


def test_first_come_first_served(session, make_scheduler, monkeypatch):
    order = []
    prefill = session.decoder.prefill
    monkeypatch.setattr(
        session.decoder,
        "prefill",
        lambda rows, *rest: order.extend(len(r.ids) for r in rows) or prefill(rows, *rest),
    )
    scheduler = make_scheduler(max_rows=2, prefill_tokens=20)
    lengths = [5, 60, 3, 80, 4, 30]
    asked = [Asked(scheduler, session, "a" * n, max_new_tokens=3) for n in lengths]
    assert [each.results() for each in asked]
    assert order == [n + 1 for n in lengths]


def test_a_tick_reads_one_memorys_prompts_and_the_first_is_never_passed(
    session, make_scheduler, prompts, two, slow, monkeypatch
):
    a, b = (session.load(memory) for memory in two)
    calls, prefill, step = [], session.decoder.prefill, session.decoder.step
    monkeypatch.setattr(
        session.decoder,
        "prefill",
        lambda rows, g, *rest: calls.append((g, len(rows))) or prefill(rows, g, *rest),
    )
    monkeypatch.setattr(session.decoder, "step", lambda s, t: calls.append("step") or step(s, t))
    scheduler = make_scheduler()
    first = Asked(scheduler, session, prompts[0], max_new_tokens=9)
    while "step" not in calls:
        time.sleep(0.001)
    mixed = [Asked(scheduler, session, prompts[1], g, max_new_tokens=2) for g in (a, b, a, b, a)]
    for _ in range(30):
        slow()
    assert all(each.results() for each in (first, *mixed))
    reads = [call for call in calls if call != "step"]
    assert reads == [(session.base, 1), (a, 3), (b, 2)]
    assert calls.index((b, 2)) > calls.index((a, 3)) + 1  # a step between them


def test_the_servers_own_requests_wait_behind_a_full_queue(session, make_scheduler, prompts, slow):
    scheduler = make_scheduler(max_rows=1, max_queue=1)
    asked = [Asked(scheduler, session, prompts[0], max_new_tokens=2)]
    while scheduler.running == 0:
        time.sleep(0.001)
    asked.append(Asked(scheduler, session, prompts[1], max_new_tokens=2))
    rows, found = session.completions(prompts[:3], Options(max_new_tokens=1)), []
    thread = threading.Thread(target=lambda: found.extend(scheduler.complete(rows, session.base)))
    thread.start()
    while scheduler.waiting < 4:
        time.sleep(0.001)
    for _ in range(9):
        slow()
    thread.join()
    assert found == session.generate(prompts[:3], Options(max_new_tokens=1))
    assert all(each.results() for each in asked)


def test_log_probabilities_are_those_of_the_logits(session, make_scheduler, prompts):
    rows = session.completions(prompts[0], Options(max_new_tokens=4, logprobs=3))
    events = queue.SimpleQueue()
    make_scheduler().submit(rows, session.base, events.put)
    tokens = []
    while len(tokens) < 4:
        tokens += [e for e in events.get(timeout=60) if isinstance(e, Token)]
    ids = list(session.prompt(prompts[0]).row.ids)
    for token in tokens:
        _, [logits] = session.decoder.prefill([Row(tuple(ids))], session.base)
        expected = logits - np.log(np.exp(logits.astype(np.float64)).sum())
        assert token.logprob == pytest.approx(expected[token.id], abs=1e-3)
        best = np.argsort(-logits, kind="stable")[:3]
        assert [i for i, _ in token.likeliest] == best.tolist()
        assert token.likeliest[0] == (token.id, token.logprob)
        ids.append(token.id)


@pytest.mark.parametrize("name", ["max_rows", "max_queue", "prefill_tokens"])
def test_sizes_must_be_positive(session, name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        Scheduler(session.decoder, **{name: 0})
