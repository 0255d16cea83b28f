"""A session survives whatever it is asked, and is the same one afterwards."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memoir_edge.errors import InputError
from memoir_edge_runtime import Options

# MEMOIR_EDGE_REQUESTS=10000 is the long run.
REQUESTS = int(os.environ.get("MEMOIR_EDGE_REQUESTS", "500"))

texts = st.text(max_size=40) | st.sampled_from(["", " ", "a" * 200, "日本語", "\0", "\ud800"])
wishes = st.fixed_dictionaries(
    {},
    optional={
        "max_new_tokens": st.integers(-1, 12),
        "temperature": st.floats(width=32),
        "top_k": st.integers(-1, 400),
        "top_p": st.floats(-0.5, 1.5),
        "seed": st.none() | st.integers(-1, 2**64),
        "stop": texts | st.lists(texts, max_size=3).map(tuple),
    },
)


@pytest.fixture(scope="module")
def generations(loaded, make_memory, prompts):
    memories = [make_memory(prompts[:20:2], seed=seed) for seed in (1, 2)]
    return [loaded.base, *(loaded.load(memory) for memory in memories)]


@pytest.mark.slow
def test_a_session_survives_any_requests(session, generations, prompts):
    asked, before = prompts[:4], [
        session.generate(prompts[:4], Options(max_new_tokens=8), memory=g) for g in generations
    ]  # fmt: skip
    seen = {"answered": 0, "refused": 0}

    @settings(
        max_examples=REQUESTS, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(
        st.lists(texts | st.sampled_from(prompts), max_size=3), st.sampled_from(generations), wishes
    )
    def request(some, generation, options):
        try:
            results = session.generate(some, Options(**options), memory=generation)
        except InputError:
            seen["refused"] += 1
            return
        seen["answered"] += 1
        assert [r.row for r in results] == list(range(len(some)))
        for result in results:
            assert 1 <= len(result.ids) <= options.get("max_new_tokens", 64)
            assert result.routing.digest == generation.digest

    request()
    print(seen)
    assert min(seen.values()) > REQUESTS // 20
    after = [session.generate(asked, Options(max_new_tokens=8), memory=g) for g in generations]
    assert after == before
