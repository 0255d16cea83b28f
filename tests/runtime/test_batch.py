"""Rows that decode together answer as each would alone."""

import queue
import random
import time
from dataclasses import replace

import pytest

from memoir_edge_exporter import _base_graph, export
from memoir_edge_runtime import Options, Result, Session
from memoir_edge_runtime._batch import Batch, _closed_up, _Seat
from memoir_edge_runtime._reading import Reader
from memoir_edge_runtime.serve.scheduler import Scheduler

CONTEXT = 96


def test_a_batch_equals_single_rows(session, prompts, make_memory):
    session.swap(make_memory(prompts[:40:3]))
    batch = session.generate(prompts[:40], Options(max_new_tokens=12))
    assert [r.prompt for r in batch] == prompts[:40]
    for row, together in enumerate(batch):
        [alone] = session.generate(together.prompt, Options(max_new_tokens=12))
        assert (alone.ids, alone.text, alone.fired) == (together.ids, together.text, together.fired)
        assert (alone.row, together.row) == (0, row)
    assert len({r.fired is None for r in batch}) == 2


def test_how_many_run_together_changes_nothing(export_dir, session, prompts):
    narrow = Session(export_dir, threads=1, max_batch=3)
    wanted = {"max_new_tokens": 8, "temperature": 1.0, "seed": 4}
    assert narrow.generate(prompts[:10], Options(**wanted)) == session.generate(
        prompts[:10], Options(**wanted)
    )
    assert narrow.route(prompts[:10]) == session.route(prompts[:10])
    pairs = prompts[:10], prompts[10:20]
    assert narrow.teacher_forced(*pairs) == session.teacher_forced(*pairs)


def test_rows_that_end_early_leave_the_others_as_they_are(session, prompts, monkeypatch):
    wanted = {"max_new_tokens": 24, "temperature": 1.0, "seed": 2}
    free = session.generate(prompts[:9], Options(**wanted))
    language, counts = session.language, []
    often = frozenset(r.ids[i] for i, r in enumerate(free))  # row i ends at token i or before
    monkeypatch.setattr(session, "language", replace(language, eos=often))
    step = session.decoder.step
    monkeypatch.setattr(session.decoder, "step", lambda s, t: counts.append(len(t)) or step(s, t))
    ended = session.generate(prompts[:9], Options(**wanted))
    for result, before in zip(ended, free, strict=True):
        assert result.ids == before.ids[: len(result.ids)]
        assert result.finish_reason == "stop"
        assert result.ids[-1] in often
        assert not often & set(result.ids[:-1])
    assert counts[-1] < 9  # ended rows were dropped on the way
    assert len(counts) == max(len(r.ids) for r in ended) - 1


@pytest.mark.parametrize("seed", range(4))
def test_rows_join_and_leave_and_answer_as_alone(session, prompts, make_memory, come_and_go, seed):
    routed = session.load(make_memory(prompts[::3], threshold=0.8))
    assert 0 < come_and_go(session, routed, seed) < 24


def test_a_graph_is_fed_positions_where_optimum_leaves_them_out(gemma_dir, tmp_path, come_and_go):
    export(model=gemma_dir, out=tmp_path / "onnx")
    session = Session(tmp_path / "onnx", threads=1)
    assert session.decoder.movable
    assert come_and_go(session, session.base, 0) == 0


def test_where_a_graph_counts_columns_only_what_came_together_is_written_together(
    gemma_dir, tmp_path, prompts, monkeypatch
):
    """Exports of before, and those of others, of models such as Gemma."""
    monkeypatch.setattr(_base_graph, "_positioned", lambda *_: {})
    export(model=gemma_dir, out=tmp_path / "onnx")
    session, draw = Session(tmp_path / "onnx", threads=1), random.Random(0)
    assert not session.decoder.movable
    wanted = [(text, Options(max_new_tokens=draw.randint(1, 20))) for text in prompts[:24]]
    reader = Reader(session.decoder, base=None, chunk=4, max_bytes=2**20)
    scheduler = Scheduler(
        session.decoder, context=session.language.context, max_rows=6, reader=reader
    )
    events = queue.SimpleQueue()
    for first in range(0, 24, 3):
        rows = [session.completions(*one)[0] for one in wanted[first : first + 3]]
        scheduler.submit(rows, session.base, lambda its: [events.put(each) for each in its])
        time.sleep(0.002)
    scheduler.close()
    found = [events.get() for _ in range(events.qsize())]
    ids = {(each.prompt, len(each.ids)): each.ids for each in found if isinstance(each, Result)}
    for text, options in wanted:
        [alone] = session.generate(text, options)
        assert ids[text, len(alone.ids)] == alone.ids
    together = session.generate([text for text, _ in wanted], Options(max_new_tokens=8))
    assert [r.ids for r in together] == [
        session.generate(text, Options(max_new_tokens=8))[0].ids for text, _ in wanted
    ]


def test_rows_that_cannot_join_leave_the_others_as_they_are(session, prompts, monkeypatch):
    wanted = Options(max_new_tokens=9)
    rows = session.completions(prompts[:5], wanted)
    batch = Batch(session.decoder, session.base)
    batch.add(rows[:4])
    for row in rows[:3]:
        row.cancel()

    def full(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(session.decoder, "join", full)
        with pytest.raises(MemoryError):
            batch.add(rows[4:])
    rows[4].cancel()  # as the scheduler does
    while batch.live:
        batch.step()
    [alone] = session.generate(prompts[3], wanted)
    assert tuple(rows[3].ids) == alone.ids


def test_places_of_rows_that_are_done_are_taken_by_the_last(session, prompts):
    rows = session.completions(prompts[:6], Options())
    for i in (0, 2, 5):
        rows[i].cancel()
    seats = [_Seat(row, None, i) for i, row in enumerate(rows)]
    assert [seat.place for seat in _closed_up(seats)] == [4, 1, 3]
    assert [seat.place for seat in _closed_up(seats[:1])] == []


def test_prompts_of_like_length_are_read_together(session, prompts, monkeypatch, a_long):
    texts = [a_long(session, n) for n in (60, 5, 7, 58, 6)]
    read, prefill = [], session.decoder.prefill
    monkeypatch.setattr(
        session.decoder, "prefill",
        lambda rows, *rest: read.append([len(r.ids) for r in rows]) or prefill(rows, *rest),
    )  # fmt: skip
    session.generate(texts, Options(max_new_tokens=2))
    assert read == [[5, 6, 7], [58, 60]]
    monkeypatch.setattr(session.decoder, "device", "cuda")  # where padding costs less than a run
    assert Batch(session.decoder, session.base)._runs([0, 1, 2], [9, 90, 1]) == [[2, 0, 1]]


def test_a_batch_is_never_wider_than_the_context(session, monkeypatch, a_long):
    widths, step = [], session.decoder.step
    monkeypatch.setattr(
        session.decoder, "step", lambda s, t: widths.append(s.attention.shape[1] + 1) or step(s, t)
    )
    session.generate(["a", "b", "c", a_long(session, CONTEXT - 3)], Options(max_new_tokens=40))
    assert max(widths) <= CONTEXT
