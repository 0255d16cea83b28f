// What the official client's own examples do, from JavaScript; the address is the first argument.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const OpenAI = createRequire(`${process.env.MEMOIR_EDGE_CLIENTS}/`)("openai").OpenAI;
const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const ask = { role: "user", content: "the capital of France" };
const wanted = { model: "default", max_tokens: 4, temperature: 0 };

const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert(names.includes("base"));
assert.equal((await client.models.retrieve("base")).id, "base");

const whole = await client.completions.create({ ...wanted, prompt: "the capital of", logprobs: 2 });
let text = "";
for await (const part of await client.completions.create({ ...wanted, prompt: "the capital of", stream: true }))
  text += part.choices[0].text;
assert.equal(text, whole.choices[0].text);

const chat = await client.chat.completions.create({ ...wanted, messages: [ask] });
const said = chat.choices[0].message;
const again = { ...wanted, max_tokens: 2, messages: [ask, said, ask] };
assert((await client.chat.completions.create(again)).usage.prompt_tokens > chat.usage.prompt_tokens);

// Helpers that put a stream together by themselves.
const stream = client.chat.completions.stream({ ...wanted, messages: [ask], stream_options: { include_usage: true } });
const final = await stream.finalChatCompletion();
assert.equal(final.choices[0].message.content, said.content);
assert.deepEqual(await stream.totalUsage(), chat.usage);
const parsed = await client.chat.completions.parse({ ...wanted, messages: [ask], response_format: { type: "text" } });
assert.equal(parsed.choices[0].message.content, said.content);

const { request_id: id } = await client.completions.create({ ...wanted, prompt: "a" }).withResponse();
assert(id);
await assert.rejects(client.completions.create({ ...wanted, model: "none", prompt: "a" }), OpenAI.NotFoundError);
await assert.rejects(
  client.chat.completions.create({ ...wanted, messages: [ask], logit_bias: { 5: 1 } }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "logit_bias",
);
const stopped = await client.chat.completions.create({ ...wanted, messages: [ask], stream: true });
for await (const _ of stopped) break; // lets go of the stream
console.log("done");
