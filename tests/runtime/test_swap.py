"""Memories exchanged between and during requests."""

import threading

import pytest

from memoir_edge import memory as memories
from memoir_edge.errors import InputError, MemoryFormatError, MismatchError
from memoir_edge_runtime import Options, Result, Session


@pytest.fixture
def two(make_memory, prompts):
    """Two memories with the same keys and different changes."""
    keys = sorted(set(prompts[:30]))
    return make_memory(keys, seed=1), make_memory(keys, seed=2)


def _ids(session, prompts, **rest):
    return [r.ids for r in session.generate(prompts, Options(max_new_tokens=8), **rest)]


def test_swapping_there_and_back_restores_the_tokens(session, prompts, two):
    base = _ids(session, prompts[:30])
    a, b = (session.swap(memory) for memory in two)
    assert a.digest != b.digest
    assert a.number != b.number
    assert session.generation is b
    answers = {"base": base, "b": _ids(session, prompts[:30])}
    assert session.swap(a) is a
    answers["a"] = _ids(session, prompts[:30])
    assert len({str(answer) for answer in answers.values()}) == 3
    session.swap(two[1])
    assert _ids(session, prompts[:30]) == answers["b"]
    assert session.swap(None) is session.base
    assert _ids(session, prompts[:30]) == base


def test_a_result_names_the_memory_that_answered(session, prompts, two):
    a, b = (session.load(memory) for memory in two)
    session.swap(a)
    [of_a] = session.generate(prompts[0], Options(max_new_tokens=2))
    [of_b] = session.generate(prompts[0], Options(max_new_tokens=2), memory=b)
    [of_base] = session.generate(prompts[0], Options(max_new_tokens=2), memory=session.base)
    assert (of_a.routing.digest, of_b.routing.digest) == (a.digest, b.digest)
    assert of_a.fired == of_b.fired is not None
    assert (of_base.fired, of_base.routing.digest) == (None, None)
    assert session.generation is a


def test_a_stream_finishes_on_its_generation(session, prompts, two):
    a, b = (session.load(memory) for memory in two)
    expected = session.generate(prompts[:6], Options(max_new_tokens=12), memory=a)
    session.swap(a)
    stream = session.stream(prompts[:6], Options(max_new_tokens=12))
    session.swap(b)  # before the first token
    found = []
    for n, event in enumerate(stream):
        session.swap((b, None, a)[n % 3])  # and at each of them
        found += [event] if isinstance(event, Result) else []
    assert sorted(found, key=lambda r: r.row) == expected


def test_swaps_from_another_thread_mix_no_answer(session, prompts, two):
    loaded = [session.base, *(session.load(memory) for memory in two)]
    expected = {g.digest: _ids(session, prompts[:8], memory=g) for g in loaded}
    over, swaps = threading.Event(), 0

    def swap():
        nonlocal swaps
        while not over.is_set():
            session.swap(loaded[swaps % 3])
            swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = set()
        for _ in range(60):
            results = session.generate(prompts[:8], Options(max_new_tokens=8))
            [digest] = {r.routing.digest for r in results}
            assert [r.ids for r in results] == expected[digest]
            seen.add(digest)
    finally:
        over.set()
        thread.join()
    print(swaps, "swaps,", len(seen), "memories answered")
    assert swaps > 60


def test_threads_share_a_session(session, prompts, two):
    session.swap(two[0])
    expected = [_ids(session, part) for part in (prompts[:6], prompts[6:12], prompts[12:18])]
    found = [[] for _ in expected]

    def work(i):
        for _ in range(5):
            found[i].append(_ids(session, prompts[6 * i : 6 * i + 6]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[answer] * 5 for answer in expected]


def test_a_failed_swap_leaves_the_old_memory(session, prompts, two, make_memory, tmp_path):
    current = session.swap(two[0])
    before = _ids(session, prompts[:10])
    broken = tmp_path / "broken.safetensors"
    memories.write(two[1], broken)
    broken.write_bytes(broken.read_bytes()[:-1])
    for wrong, error in (
        (make_memory([], site="model.layers.0.mlp.down_proj"), MismatchError),
        (make_memory([], digest="0" * 64), MismatchError),
        (tmp_path / "none", InputError),
        (broken, MemoryFormatError),
    ):
        with pytest.raises(error):
            session.swap(wrong)
        assert session.generation is current
    assert _ids(session, prompts[:10]) == before


def test_a_session_may_begin_with_a_memory(export_dir, prompts, two, tmp_path):
    path = tmp_path / "facts.safetensors"
    memories.write(two[0], path)
    session = Session(export_dir, memory=path, threads=1)
    assert session.generation.memory is not None
    assert session.generate(prompts[0], Options(max_new_tokens=1))[0].fired


def test_a_generation_of_another_model_is_refused(session, stories, prompts, two):
    other = Session(stories, threads=1)
    foreign = session.load(two[0])
    for use in (other.swap, lambda g: other.generate("a", memory=g)):
        with pytest.raises(MismatchError):
            use(foreign)
