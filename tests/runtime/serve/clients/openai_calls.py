"""What the official client's own examples do; the address is the first argument."""

import asyncio
import sys

import openai

ASK = {"role": "user", "content": "the capital of France"}
WANTED = {"model": "default", "max_tokens": 4, "temperature": 0}
URL = f"{sys.argv[1]}/v1"

client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
assert "base" in [model.id for model in client.models.list()]
whole = client.completions.create(prompt="the capital of", logprobs=2, **WANTED).choices[0]
parts = client.completions.create(prompt="the capital of", stream=True, **WANTED)
assert "".join(part.choices[0].text for part in parts) == whole.text

chat = client.chat.completions.create(messages=[ASK], **WANTED)
said = chat.choices[0].message
again = client.chat.completions.create(messages=[ASK, said, ASK], **WANTED | {"max_tokens": 2})
assert again.usage.prompt_tokens > chat.usage.prompt_tokens

with client.chat.completions.stream(
    messages=[ASK], stream_options={"include_usage": True}, **WANTED
) as stream:
    kinds = {event.type for event in stream}
    final = stream.get_final_completion()
assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
assert final.choices[0].message.content == said.content
assert final.usage == chat.usage
parsed = client.chat.completions.parse(messages=[ASK], **WANTED)
assert parsed.choices[0].message.content == said.content

raw = client.completions.with_raw_response.create(prompt="a", **WANTED)
assert raw.headers["x-request-id"]
for wrong, kind, param in (
    ({"prompt": "a", "model": "none"}, openai.NotFoundError, None),
    ({"prompt": "a", "logit_bias": {"5": 1}}, openai.BadRequestError, "logit_bias"),
):
    try:
        client.completions.create(**WANTED | wrong)
    except kind as error:
        if error.param == param:
            continue
    raise AssertionError(wrong)


async def together() -> list[str]:
    """Several at once, from one connection pool."""
    async with openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0) as several:
        asked = [several.chat.completions.create(messages=[ASK], **WANTED) for _ in range(8)]
        return [str(reply.choices[0].message.content) for reply in await asyncio.gather(*asked)]


assert set(asyncio.run(together())) == {said.content}
print("done")
