"""What clients send that ask for nothing, or for what was made for other servers."""

import itertools

import pytest

from memoir_edge_runtime import Options

ASK = [{"role": "user", "content": "the capital of France"}]
NOTHING = {
    "tools": ([], None), "tool_choice": ("none", None, "auto"), "parallel_tool_calls": (True, None),
    "reasoning_effort": (None, "", "none"), "stop": ([], None, "", [""], ["", None]),
    "logit_bias": ({}, None), "n": (None, 1),
    "response_format": (None, {"type": "text"}), "functions": ([], None), "top_k": (-1, None),
    "function_call": ("none", None, "auto"), "stream_options": (None,), "seed": (None,),
    "modalities": (["text"], None), "service_tier": ("auto", None), "store": (False, None),
    "frequency_penalty": (0, 0.0, None), "repetition_penalty": (1.0, None), "min_p": (0.0,),
    "prompt_cache_key": ("a",), "safety_identifier": ("a",), "user": ("", "me"),
    "metadata": ({}, {"a": "b"}), "a_field_of_tomorrow": (None, [], {}, "", False),
    "web_search_options": (None,), "logprobs": (None, False),
    "chat_template_kwargs": (None, {}, {"unread": [1]}), "top_logprobs": (0, None),
    "max_completion_tokens": (None,), "n_probs": (None, False), "mirostat": (0,),
    "repeat_penalty": (1.0,), "add_generation_prompt": (True,), "verbosity": ("medium", None),
    "thinking": (None, {"type": "disabled"}), "cache_prompt": (True, False), "priority": (0,),
    "add_special_tokens": (False, None), "guided_json": (None,), "json_schema": (None,),
}  # fmt: skip


@pytest.fixture
def running(make_server):
    return make_server(max_new_tokens=6)


@pytest.fixture
def post(running):
    with running.client() as client:
        yield lambda path, **body: client.post(
            f"/v1/{path}", json={"temperature": 0, "max_tokens": 4} | body
        )


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in NOTHING.items() for v in values], ids=str
)
def test_a_value_that_asks_for_nothing_changes_nothing(post, name, value):
    plain = post("chat/completions", messages=ASK).json()["choices"][0]["message"]
    found = post("chat/completions", messages=ASK, **{name: value})
    assert found.status_code == 200, found.text
    assert found.json()["choices"][0]["message"] == plain


def test_all_of_them_together_and_in_messages(post):
    asked = {name: values[0] for name, values in NOTHING.items()}
    nulls = dict.fromkeys(("refusal", "audio", "function_call", "tool_calls", "name", "later"))
    said = [m | nulls | {"annotations": []} for m in (*ASK, {"role": "assistant", "content": None})]
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "later": None}
    found = post("chat/completions", messages=[*said, {"role": "user", "content": [part]}], **asked)
    assert found.status_code == 200, found.text


@pytest.mark.parametrize("stream", [False, True])
def test_replies_are_taken_as_history(running, stream):
    messages = list(ASK)
    with running.openai() as client:
        for _ in range(3):
            if stream:
                parts = client.chat.completions.create(
                    model="default", messages=messages, stream=True, max_tokens=1
                )
                text = "".join(part.choices[0].delta.content or "" for part in parts)
                messages.append({"role": "assistant", "content": text, "refusal": None})
            else:
                reply = client.chat.completions.create(
                    model="default", messages=messages, max_tokens=1
                )
                messages.append(reply.choices[0].message)
            messages += ASK
    assert len(messages) == 7


@pytest.mark.parametrize(
    ("turn", "same"),
    [
        ({"content": None, "refusal": "no"}, {"content": "no"}),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, {"content": "no"}),
        ({"content": [{"type": "output_text", "text": "a", "annotations": []}, "b"]},
         {"content": "ab"}),
        ({"content": "a", "type": "text"}, {"content": "a"}),
        ({"content": "a", "type": "message"}, {"content": "a"}),
        ({"content": "a", "id": "msg_1", "provider_specific_fields": {"refusal": None}},
         {"content": "a"}),
        ({"role": "developer", "content": "short"}, {"role": "system", "content": "short"}),
    ],
)  # fmt: skip
def test_turns_of_other_clients_are_read_as_what_they_say(post, turn, same):
    def asked(own):
        found = post("chat/completions", messages=[{"role": "assistant"} | own, *ASK])
        assert found.status_code == 200, found.text
        return found.json()["choices"][0]["message"], found.json()["usage"]

    assert asked(turn) == asked(same)


def test_a_template_is_told_of_reasoning_and_knows_its_developers(session, monkeypatch, post):
    monkeypatch.setattr(
        session, "_template",
        "{% for m in messages %}<{{ m.role }}>{{ m.reasoning_content }}{{ m.content }}"
        "{% endfor %}{# developer #}",
    )  # fmt: skip
    seen, render = [], session.render_chat
    monkeypatch.setattr(
        session, "render_chat", lambda *a, **b: seen.append(render(*a, **b)) or seen[-1]
    )
    turns = [{"role": "developer", "content": "be"}, *ASK,
             {"role": "assistant", "reasoning_content": "so", "content": "said"}]  # fmt: skip
    assert post("chat/completions", messages=turns).status_code == 200
    assert seen == ["<developer>be<user>the capital of France<assistant>sosaid"]


def test_an_empty_turn_is_rendered_as_nothing(running, session):
    empty = [*ASK, {"role": "assistant", "content": None}, *ASK]
    asked = session.chat_prompt([m | {"content": m["content"] or ""} for m in empty])
    with running.openai() as client:
        found = client.chat.completions.create(model="base", messages=empty, max_tokens=1)
    assert found.usage.prompt_tokens == len(asked.row.ids)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("asked", [6, 7, 10**30])
def test_more_tokens_than_the_server_gives_are_capped_and_said(post, name, asked):
    found = post("chat/completions", messages=ASK, ignore_eos=True, **{name: asked})
    assert found.status_code == 200
    assert found.json()["usage"]["completion_tokens"] == 6
    assert found.json()["choices"][0]["finish_reason"] == "length"
    assert found.json().get("max_tokens") == (6 if asked > 6 else None)
    assert found.headers.get("x-max-tokens") == ("6" if asked > 6 else None)
    stream = post("completions", prompt="a", stream=True, max_tokens=asked)
    assert stream.headers.get("x-max-tokens") == ("6" if asked > 6 else None)


def test_token_ids_are_prompts_as_they_are(session, running, post, prompts):
    rows = [session.prompt(text).row.ids for text in prompts[:3]]
    alone = session.generate(prompts[:3], Options(4))
    found = post("completions", prompt=rows).json()
    assert [c["text"] for c in found["choices"]] == [r.text for r in alone]
    assert found["usage"]["prompt_tokens"] == sum(map(len, rows))
    [one] = post("completions", prompt=list(rows[0])).json()["choices"]
    assert one["text"] == alone[0].text
    bare = post("completions", prompt=list(rows[0][1:]))  # no BOS is added
    assert bare.json()["usage"]["prompt_tokens"] == len(rows[0]) - 1
    with running.client() as client:
        routes = client.post("/v1/route", json={"prompt": rows}).json()["routes"]
    assert [r["prompt_tokens"] for r in routes] == list(map(len, rows))


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": [*ASK, {"role": "user", "content": [{"type": "image_url"}]}]},
         "messages.1.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages.0.content"),
        ({"messages": [{"content": "a"}]}, "messages.0.role"),
        ({"messages": [ASK[0] | {"weight": 1}]}, "messages.0.weight"),
        ({"messages": [ASK[0] | {"type": "function_call"}]}, "messages.0.type"),
        ({"messages": [ASK[0], {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
         "messages.1.tool_calls"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.type"),
        ({"stop": ["a", 5]}, "stop.1"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"web_search_options": {"user_location": None}}, "web_search_options"),
        ({"guided_json": {}}, "guided_json"), ({"json_schema": {}}, "json_schema"),
        ({"add_special_tokens": True}, "add_special_tokens"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"mirostat": 2}, "mirostat"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ],
)  # fmt: skip
def test_a_refused_field_has_the_name_that_the_client_wrote(post, wrong, param):
    found = post("chat/completions", **({"messages": ASK} | wrong))
    assert found.status_code == 400
    error = found.json()["error"]
    assert error["param"] == param
    assert param in error["message"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"prompt": [10**6]}, "prompt"), ({"prompt": "a" * 300}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt.1"), ({"prompt": [[1], [-1]]}, "prompt.1.0"),
        ({"prompt": "a", "best_of": 2}, "best_of"), ({"prompt": ["a"] * 65}, "prompt"),
        ({}, "prompt"), ({"prompt": "a", "n": 0}, "n"), ({"prompt": "a", "n": 100}, "n"),
    ],
)  # fmt: skip
def test_a_refused_prompt_has_the_name_that_the_client_wrote(post, wrong, param):
    found = post("completions", **wrong)
    assert found.status_code == 400
    assert found.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"\xff", b'"a"', b"[" * 5000])
def test_a_body_that_is_no_object_names_no_field(running, body):
    with running.client() as client:
        found = client.post(
            "/v1/completions", content=body, headers={"content-type": "application/json"}
        )
    assert found.status_code == 400
    assert found.json()["error"]["param"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_may_be_asked_for(running, session, prompts, stream):
    asked = {"model": "base", "prompt": prompts[0], "max_tokens": 0, "echo": True, "logprobs": 1}
    with running.openai() as client:
        found = client.completions.create(**asked, stream=stream)
        parts = [choice for part in found for choice in part.choices] if stream else found.choices
    assert "".join(choice.text for choice in parts) == prompts[0]
    told = [t for choice in parts if choice.logprobs for t in choice.logprobs.token_logprobs]
    assert len(told) == len(session.prompt(prompts[0]).row.ids)
    assert parts[-1].finish_reason == "length"
    if not stream:
        assert found.usage.completion_tokens == 0


def test_values_at_the_ends_of_their_ranges_mean_what_they_mean_elsewhere(post):
    greedy = post("completions", prompt="a").json()["choices"][0]["text"]
    drawn = post("completions", prompt="a", temperature=1, top_p=0, best_of=2, n=2).json()
    assert [c["text"] for c in drawn["choices"]] == [greedy] * 2
    unbound = post("completions", prompt="a", max_tokens=-1, ignore_eos=True).json()
    assert unbound["usage"]["completion_tokens"] == 6
    assert "max_tokens" not in unbound
    assert post("completions", prompt="a", logprobs=False).json()["choices"][0]["logprobs"] is None


def test_a_prompt_beyond_the_context_has_its_code(post, make_server):
    for path, body in (("completions", {"prompt": "a" * 300}), ("chat/completions", {
        "messages": [{"role": "user", "content": "a" * 300}]})):  # fmt: skip
        error = post(path, **body).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["param"] == next(iter(body))
        assert "this model's maximum context length is" in error["message"]  # litellm looks for it
    with make_server(max_prompt_tokens=3).client() as client:
        found = client.post("/v1/completions", json={"prompt": "a long one"}).json()
    assert found["error"]["code"] == "context_length_exceeded"


def test_json_that_is_not_declared_is_said_to_be_so(running):
    with running.client() as client:
        found = client.post("/v1/completions", content=b'{"prompt": "a"}')
    assert found.status_code == 400
    assert "content-type: application/json" in found.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"prompt": "Was läuft"}'.encode("latin-1"), "can't decode byte 0xe4"),
        (b'{"prompt": ' + b"[" * 200_000, "recursion"),
        (b'{"prompt": "a", "seed": ' + b"1" * 5000 + b"}", "digits"),
        (b'{"prompt": "a', "Unterminated string"),
    ],
    ids=["not UTF-8", "too deep", "too long a number", "cut short"],
)
def test_a_body_that_is_no_json_is_told_why(running, body, said):
    with running.client() as client:
        found = client.post(
            "/v1/completions", content=body, headers={"content-type": "application/json"}
        )
    assert found.status_code == 400
    message = found.json()["error"]["message"]
    assert message.startswith("the body is no JSON: ")
    assert said in message


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
TAKES = (
    "{%- if tools is not none %}TOOLS{{ tools | map(attribute='function.name') | join(',') }}"
    "{%- endif %}{% if documents is none %}{% for m in messages %}[{{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.function.arguments.city }}{% endfor %}]"
    "{% endfor %}{% endif %}{{ mood }}"
)


def test_a_template_that_takes_tools_is_told_of_them(session, post, monkeypatch):
    monkeypatch.setattr(session, "_template", TAKES)
    called = {"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages = [*ASK, {"role": "assistant", "tool_calls": [called]},
                {"role": "tool", "tool_call_id": "a", "content": "rain"}]  # fmt: skip
    seen = []
    render = session.render_chat
    monkeypatch.setattr(
        session, "render_chat", lambda *a, **b: seen.append(render(*a, **b)) or seen[-1]
    )
    for asked in (
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"chat_template_kwargs": {"mood": "glad"}},
    ):
        assert post("chat/completions", messages=messages, **asked).status_code == 200
    said = "[the capital of France][Oslo][rain]"
    assert seen == [f"TOOLSweather{said}", said, f"{said}glad"]


def test_what_is_marked_to_be_kept_reads_as_without_the_mark(session, post, monkeypatch):
    template = "{{ tools[0] | list }}{% for m in messages %}{{ m | list }}{% endfor %}"
    monkeypatch.setattr(session, "_template", template)

    def asked(mark):
        messages = [turn | mark for turn in ASK]
        found = post("chat/completions", messages=messages, tools=[TOOL | mark], **mark)
        assert found.status_code == 200, found.text
        return found.json()["choices"][0]["message"], found.json()["usage"]

    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert asked(mark) == asked({})
    found = post("completions", prompt="a", **mark)
    assert found.status_code == 200, found.text


def test_a_variable_of_the_template_has_one_meaning(post):
    for name, mixed in itertools.product(("messages", "tools", "documents"), ({}, {"a": 1})):
        given = mixed | {name: []}
        found = post("chat/completions", messages=ASK, chat_template_kwargs=given)
        assert found.status_code == 400
        assert name in found.json()["error"]["message"]
