"""Memories that fit, and what a routing says."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from memoir_edge import memory as memories
from memoir_edge.errors import InputError, MemoryFormatError, MismatchError
from memoir_edge.memory import Base
from memoir_edge_runtime import Options, Routing


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"site": "model.layers.0.mlp.down_proj"}, r"site is model\.layers\.0.*layers\.1"),
        ({"widths": (40, 32)}, r"D, d is \(40, 32\), the graph's is \(44, 32\)"),
        ({"widths": (44, 24)}, r"D, d is \(44, 24\)"),
        ({"digest": "f" * 64}, r"base model is tiny \(ffffffffffffffff\), the graph's is model"),
    ],
)
def test_a_memory_of_another_model_or_site(session, make_memory, wrong, said):
    with pytest.raises(MismatchError, match=said) as caught:
        session.load(make_memory([], **wrong))
    assert caught.value.hint


def test_an_unknown_base_is_taken_by_site_and_widths(session, make_memory):
    assert session.load(make_memory([], digest=None)).memory is not None


def test_the_digest_is_the_files(session, make_memory, prompts, tmp_path):
    memory = make_memory(prompts[:3])
    path = tmp_path / "a.safetensors"
    written = memories.write(memory, path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert session.load(memory).digest == written.digest == expected
    assert session.load(path).digest == session.load(str(path)).digest == expected


def test_files_that_are_no_memory(session, tmp_path):
    with pytest.raises(InputError, match="cannot read memory"):
        session.load(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"0" * 100)
    with pytest.raises(MemoryFormatError):
        session.load(tmp_path / "bad")


def test_an_invalid_memory_in_hand_is_refused_too(session, make_memory, prompts):
    memory = make_memory(prompts[:2])
    with pytest.raises(MemoryFormatError):
        session.load(replace(memory, k=memory.k + 1))


def test_what_the_caller_does_to_the_arrays_later_changes_nothing(session, make_memory, prompts):
    memory = make_memory(prompts[:4])
    memory = replace(memory, bank=memory.bank.copy())
    generation = session.load(memory)
    before = session.route(prompts[:4], memory=generation)
    memory.bank[:] = 0
    assert session.route(prompts[:4], memory=generation) == before


def test_a_memory_without_keys_is_the_base_model(session, make_memory, prompts):
    generation = session.load(make_memory([]))
    [routing] = session.route(prompts[0], memory=generation)
    assert routing == Routing(digest=generation.digest)
    base = session.generate(prompts[:5], Options(max_new_tokens=5), memory=session.base)
    found = session.generate(prompts[:5], Options(max_new_tokens=5), memory=generation)
    assert [r.ids for r in found] == [r.ids for r in base]


def test_a_guard_holds_the_base_model(session, make_memory, prompts):
    other, guarded = sorted(set(prompts))[:2]
    generation = session.load(make_memory([other], guards=[guarded]))
    reached, held = session.route([other, guarded], memory=generation)
    assert (reached.edit, reached.candidate) == ("edit-0", "edit-0")
    assert (held.edit, held.candidate) == (None, None)
    assert held.overlap == pytest.approx(1)
    assert held.threshold == np.float32(0.9)


def test_one_threshold_for_all_keys(session, make_memory, prompts):
    memory = make_memory(prompts[:5])
    one = replace(memory, thresholds=np.array([0.9], np.float32))
    found = session.route(prompts[:10], memory=session.load(one))
    expected = session.route(prompts[:10], memory=session.load(memory))
    assert [r.threshold for r in found] == [np.float32(0.9)] * 10
    assert [(r.edit, r.overlap) for r in found] == [(r.edit, r.overlap) for r in expected]


def test_the_base_model_has_no_overlap_to_speak_of(session):
    assert session.route("the city") == [Routing()]
    assert session.base.number == 0
    assert session.base.memory is None


def test_base_model_id_alone_does_not_refuse(session, make_memory, oracle):
    memory = replace(make_memory([]), base=Base("another/name", oracle.digest))
    assert session.load(memory).memory is memory
