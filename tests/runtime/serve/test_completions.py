"""The official client gets from the server what the session answers alone."""

import pytest

from memoir_edge_runtime import Options

GREEDY = {"temperature": 0.0, "max_tokens": 8}


@pytest.fixture
def running(make_server, files):
    running = make_server()
    running.server.memories.load(files[0])
    running.server.memories.load(files[1], activate=False)
    return running


@pytest.fixture
def client(running):
    with running.openai() as client:
        yield client


def _generation(running, name):
    return running.server.memories.table.loaded[name].generation


@pytest.mark.parametrize(
    ("model", "name"),
    [("base", "base"), ("base@a", "a"), ("base@b", "b"), ("default", "a")],
)
def test_completions_are_the_sessions(session, running, client, prompts, model, name):
    alone = session.generate(prompts[:6], Options(8), memory=_generation(running, name))
    found = client.completions.create(model=model, prompt=prompts[:6], **GREEDY)
    assert [c.text for c in found.choices] == [r.text for r in alone]
    assert [c.finish_reason for c in found.choices] == [r.finish_reason for r in alone]
    assert found.model == ("base" if name == "base" else f"base@{name}")
    assert found.usage.prompt_tokens == sum(r.prompt_tokens for r in alone)
    assert found.usage.completion_tokens == sum(r.completion_tokens for r in alone)
    for choice, result in zip(found.choices, alone, strict=True):
        assert choice.memory["edit"] == result.fired
        assert choice.memory["digest"] == result.routing.digest
        assert choice.memory["overlap"] == pytest.approx(result.routing.overlap)
    assert found.memory == found.choices[0].memory


def test_replies_and_headers_name_the_edit(running, client, prompts):
    said = client.completions.with_raw_response.create(model="base@a", prompt=prompts[0], **GREEDY)
    memory = said.parse().memory
    assert memory["edit"] == memory["candidate"]
    assert said.headers["x-memory-edit"] == memory["edit"]
    assert said.headers["x-memory-digest"] == memory["digest"]
    assert float(said.headers["x-memory-overlap"]) == pytest.approx(memory["overlap"], abs=1e-4)
    assert float(said.headers["x-memory-threshold"]) == pytest.approx(0.9)
    assert said.headers["x-request-id"]
    base = client.completions.with_raw_response.create(model="base", prompt=prompts[0], **GREEDY)
    assert not [h for h in base.headers if h in ("x-memory-edit", "x-memory-digest")]


def test_a_seed_draws_what_the_session_draws(session, running, client, prompts):
    wanted = {"temperature": 0.9, "top_p": 0.9, "seed": 7}
    alone = session.generate(
        [prompts[0]] * 3, Options(max_new_tokens=8, **wanted), memory=_generation(running, "a")
    )
    found = client.completions.create(
        model="base@a", prompt=prompts[0], n=3, max_tokens=8, **wanted
    )
    assert [c.text for c in found.choices] == [r.text for r in alone]
    assert found.usage.prompt_tokens == alone[0].prompt_tokens


def test_a_stream_says_the_same(session, running, client, prompts):
    whole = client.completions.create(model="base@b", prompt=prompts[:3], **GREEDY)
    texts, reasons, last = {0: "", 1: "", 2: ""}, {}, None
    for last in client.completions.create(
        model="base@b", prompt=prompts[:3], stream=True, stream_options={"include_usage": True},
        **GREEDY,
    ):  # fmt: skip
        for choice in last.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
                assert choice.memory == whole.choices[choice.index].memory
    assert texts == {c.index: c.text for c in whole.choices}
    assert reasons == {c.index: c.finish_reason for c in whole.choices}
    assert last.usage == whole.usage
    assert last.memory == whole.memory


def test_chats(session, running, client, prompts):
    messages = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": prompts[1]}]},
    ]
    plain = [messages[0], {"role": "user", "content": prompts[1]}]
    [alone] = session.generate(
        session.chat_prompt(plain), Options(8), memory=_generation(running, "a")
    )
    found = client.chat.completions.create(model="default", messages=messages, **GREEDY)
    assert found.choices[0].message.content == alone.text
    assert found.choices[0].message.role == "assistant"
    assert found.usage.prompt_tokens == alone.prompt_tokens
    parts = list(
        client.chat.completions.create(model="default", messages=messages, stream=True, **GREEDY)
    )
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(p.choices[0].delta.content or "" for p in parts) == alone.text
    assert parts[-1].choices[0].finish_reason == alone.finish_reason
    assert parts[-1].memory == found.memory


def test_stop_strings(session, running, client, prompts):
    answers = session.generate(prompts[:20], Options(12))
    free = next(r for r in answers if len(r.text) > 5 and "\ufffd" not in r.text[3:5])
    stop = free.text[3:5]
    found = client.completions.create(
        model="base", prompt=free.prompt, stop=[stop, "never"], temperature=0, max_tokens=12
    )
    assert found.choices[0].text == free.text[: free.text.find(stop)]
    assert found.choices[0].finish_reason == "stop"


def test_log_probabilities(session, running, client, prompts):
    found = client.completions.create(
        model="base", prompt=prompts[0], logprobs=2, temperature=0, max_tokens=4
    ).choices[0]
    assert len(found.logprobs.tokens) == len(found.logprobs.token_logprobs) == 4
    assert found.logprobs.text_offset[0] == 0
    assert all(len(top) == 2 for top in found.logprobs.top_logprobs)
    message = [{"role": "user", "content": prompts[0]}]
    options = {"model": "base", "messages": message, "logprobs": True, "top_logprobs": 3}
    chat = client.chat.completions.create(**options, **GREEDY).choices[0]
    assert len(chat.logprobs.content) == 8
    for entry in chat.logprobs.content:
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs) <= 0
        if not entry.token.startswith("bytes:"):  # half a character has no other name
            assert bytes(entry.bytes).decode() == entry.token
    streamed = client.chat.completions.create(**options, stream=True, **GREEDY)
    tokens = [e for p in streamed if p.choices[0].logprobs for e in p.choices[0].logprobs.content]
    assert [t.token for t in tokens] == [t.token for t in chat.logprobs.content]


def test_offsets_are_places_in_the_text_whole_or_streamed(session, running, client, prompts):
    asked = {"model": "base", "prompt": prompts[:3], "logprobs": 1, "temperature": 0}
    asked |= {"extra_body": {"ignore_eos": True}}
    silent = {session.language.tokenizer.show(id) for id in session.language.silent}
    whole = client.completions.create(**asked, max_tokens=20)
    parts = {0: [], 1: [], 2: []}
    for part in client.completions.create(**asked, max_tokens=20, stream=True):
        for choice in part.choices:
            parts[choice.index] += choice.logprobs.text_offset if choice.logprobs else []
    for choice in whole.choices:
        said = choice.logprobs
        assert parts[choice.index] == said.text_offset
        assert said.text_offset == sorted(said.text_offset)
        named = list(zip(said.tokens, said.text_offset, strict=True))
        assert len(named) == 20
        for token, at in named:
            if not token.startswith("bytes:") and token not in silent:
                assert choice.text[at:].startswith(token)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_an_echo_begins_with_the_prompt(session, client, prompts, stream, logprobs):
    asked = {"model": "base@a", "prompt": prompts[:2], "n": 2, "temperature": 0, "max_tokens": 3}
    asked |= {"extra_body": {"ignore_eos": True}}
    plain = client.completions.create(**asked)
    wanted = [prompts[c.index // 2] + c.text for c in plain.choices]
    found = client.completions.create(**asked, echo=True, logprobs=logprobs, stream=stream)
    texts, offsets = dict.fromkeys(range(4), ""), {i: [] for i in range(4)}
    for part in found if stream else [found]:
        for choice in part.choices:
            texts[choice.index] += choice.text
            offsets[choice.index] += choice.logprobs.text_offset if choice.logprobs else []
    assert list(texts.values()) == wanted
    for i, each in offsets.items():
        read = len(session.prompt(prompts[i // 2]).row.ids)
        assert len(each) == (0 if logprobs is None else read + 3)
        assert each == sorted(each)


def test_an_echo_says_how_likely_the_prompt_was(session, client, prompts):
    """As a harness scores a continuation: token ids in, one token more, all with their odds."""
    ids = list(session.prompt(prompts[0]).row.ids)
    said = client.completions.create(
        model="base", prompt=[ids], echo=True, logprobs=1, max_tokens=1, temperature=0
    ).choices[0].logprobs  # fmt: skip
    assert said.token_logprobs[0] is said.top_logprobs[0] is None
    assert len(said.tokens) == len(ids) + 1
    for place in range(1, len(ids)):
        [result] = session.generate(
            session.token_prompt(ids[:place]), Options(1, logprobs=1), memory=session.base
        )
        [likeliest] = said.top_logprobs[place]
        assert likeliest == session.language.tokenizer.show(result.ids[0])
        assert said.token_logprobs[place] <= said.top_logprobs[place][likeliest] + 1e-4
