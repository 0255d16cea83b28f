"""Memories with probes that hold, beside the tiny model of the folder above."""

from dataclasses import replace

import pytest

from memoir_edge.memory import Memory, Probe
from memoir_edge_runtime import Session


def probed(session: Session, memory: Memory, prompts: list[str], n: int = 3) -> Memory:
    """The memory with probes that say what it answers."""
    generation = session.load(memory)
    found = [session.generate(p, max_new_tokens=n, memory=generation)[0] for p in prompts]
    return replace(
        memory, probes=tuple(Probe(r.prompt, r.text.strip(), r.fired) for r in found), digest=None
    )


@pytest.fixture(scope="session")
def two(make_memory, prompts) -> tuple[Memory, Memory]:
    """Two memories with the same keys and different changes."""
    keys = sorted(set(prompts[:30]))[::2]
    return make_memory(keys, seed=1), make_memory(keys, seed=2)
