"""What litellm's examples do with a server of its own kind; the address is the first argument."""

import asyncio
import sys

import litellm

litellm.suppress_debug_info = True
MESSAGES = [{"role": "user", "content": "the capital of France"}]
WANTED = {"api_base": f"{sys.argv[1]}/v1", "api_key": "none", "max_tokens": 4, "temperature": 0}

for provider in ("openai", "hosted_vllm"):
    chat = litellm.completion(model=f"{provider}/base", messages=MESSAGES, **WANTED)
    said = chat.choices[0].message
    assert chat.usage.completion_tokens <= 4
    parts = list(litellm.completion(
        model=f"{provider}/base", messages=MESSAGES, stream=True,
        stream_options={"include_usage": True}, **WANTED,
    ))  # fmt: skip
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == said.content, (provider, text, said.content)
    history = [*MESSAGES, said.model_dump(), *MESSAGES]
    again = litellm.completion(model=f"{provider}/base", messages=history, **WANTED)
    assert again.usage.prompt_tokens > chat.usage.prompt_tokens
    told = litellm.completion(
        model=f"{provider}/base", messages=MESSAGES, logprobs=True, top_logprobs=2, **WANTED
    )
    assert len(told.choices[0].logprobs.content[0].top_logprobs) == 2

whole = litellm.text_completion(model="text-completion-openai/base", prompt=["the", "a"], **WANTED)
assert len(whole.choices) == 2
assert (
    asyncio.run(litellm.acompletion(model="openai/base", messages=MESSAGES, **WANTED))
    .choices[0]
    .message.content
    == said.content
)
for wrong, kind in (
    ({"model": "openai/none"}, litellm.NotFoundError),
    ({"model": "openai/base", "logit_bias": {"5": 1}}, litellm.BadRequestError),
    ({"model": "openai/base", "messages": [{"role": "user", "content": "a " * 4000}]},
     litellm.ContextWindowExceededError),
):  # fmt: skip
    try:
        litellm.completion(**{"messages": MESSAGES} | WANTED | wrong)
    except kind:
        continue
    raise AssertionError(wrong)
print("done")
