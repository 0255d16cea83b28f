// Under node: onnxruntime-node, and transformers.js on it.
import assert from "node:assert/strict";
import fs from "node:fs";
import { before, test } from "node:test";
import { Tokenizer } from "@huggingface/tokenizers";
import { env, pipeline } from "@huggingface/transformers";
import ort from "onnxruntime-node";
import { attach, edit, emptyPorts, readMemory, Router } from "memoir-edge";
import { spelling } from "../src/spelling.js";
import { at, json, TOKENS } from "./cases.js";

env.allowRemoteModels = false;
env.localModelPath = "/";
const { prompts, memories, chats, withCare, routed, spelled } = json("cases.json");
const made = json("web", "memoir_edge.json");
const PLAIN = { ...TOKENS, return_full_text: false, add_special_tokens: true };
const ones = json("cases.json").k;
const file = (...parts) => fs.readFileSync(at(...parts));
const options = { intraOpNumThreads: 1, logSeverityLevel: 3 };
const load = () => pipeline("text-generation", at("web"), { dtype: "fp32", session_options: options });

test("a memory of every value type and format is what the ports of Python are fed", async () => {
  for (const { name, ports, digest } of memories) {
    const memory = await readMemory(file(name));
    assert.equal(memory.digest, digest);
    assert.deepEqual(Object.keys(memory.ports).sort(), Object.keys(ports).sort());
    for (const [port, { type, data, dims }] of Object.entries(memory.ports)) {
      assert.deepEqual([type, dims], [ports[port].type, ports[port].dims], `${name}: ${port}`);
      const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64");
      assert.equal(bytes, ports[port].bytes, `${name}: ${port}`);
    }
  }
});

test("damage and other files are refused", async () => {
  const good = file(memories[0].name);
  const spoiled = Buffer.from(good);
  spoiled[spoiled.length - 1] ^= 1;
  for (const [bytes, said] of [
    [spoiled, /not the ones that were written/],
    [good.subarray(0, 100), /cut short/],
    [good.subarray(0, 4), /cut short/],
    [Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 123, 125]), /no memoir_edge.memory/],
  ])
    await assert.rejects(readMemory(bytes), said);
  await assert.rejects(readMemory("facts.safetensors"), /bytes, a Blob or a Response/);
  await assert.rejects(readMemory(new Response("", { status: 404 })), /cannot be had: 404/);
  assert.equal((await readMemory(new Blob([good]))).digest, memories[0].digest);
});

test("a memory of several sites says them, and a graph of others refuses it", async () => {
  const [site] = (await readMemory(file(memories[0].name))).sites;
  const sited = edit({ model: { sessions: { model: plainPorts } } }, { made });
  for (const name of ["sited.safetensors", "sited-coded.safetensors"]) {
    const memory = await readMemory(file(name));
    assert.deepEqual(memory.sites, [site, "model.layers.7.mlp.down_proj"]);
    assert.equal(memory.tiles % 2, 0);
    await assert.rejects(sited.swap(memory), /the memory's site is .*layers.7.*, the graph's is model.layers.6/);
    const fitting = edit({ model: { sessions: { model: plainPorts } } }, { made: { ...made, sites: memory.sites } });
    if (memory.keys === null) assert.equal(await fitting.swap(memory), memory);
  }
});

// A session that lists ports, and is not run.
const port = (name, shape) => ({ name, shape });
const plainPorts = {
  inputNames: ["past_key_values.0.key", "memory.center", "memory.values"],
  inputMetadata: [port("memory.center", [made.D]), port("memory.values", [1, made.d])],
};

test("a graph with optional ports is refused: node would answer as the base model", async () => {
  const session = await ort.InferenceSession.create(at("optional", "model.onnx"), options);
  assert.throws(() => attach(session), /--ports required/);
});

test("plain onnxruntime-node answers as Session does, and route -1 is the empty memory bit for bit", async () => {
  const plain = await ort.InferenceSession.create(at("web", "onnx", "model.onnx"), options);
  const memory = await readMemory(file(memories[0].name));
  const { session, state } = attach(plain, memory);
  assert.ok(session.inputNames.every((name) => !name.startsWith("memory.")));
  const int64 = (list, dims) => new ort.Tensor("int64", BigInt64Array.from(list, BigInt), dims);
  const nothing = () => Object.fromEntries(
    session.inputMetadata.filter(({ name }) => name.startsWith("past_"))
      .map(({ name, shape }) => [name, new ort.Tensor("float32", new Float32Array(0), [1, shape[1], 0, shape[3]])]),
  );
  const prompt = (ids) => ({
    input_ids: int64(ids, [1, ids.length]), attention_mask: int64(ids.map(() => 1), [1, ids.length]),
    position_ids: int64(ids.map((_, i) => i), [1, ids.length]), ...nothing(),
  });
  for (const { ids, edited } of prompts) {
    let feeds = prompt(ids), read = 0, tokens = [], last = ids;
    while (tokens.length < TOKENS.max_new_tokens && !edited.ends.includes(tokens.at(-1))) {
      const found = await session.run(feeds);
      read += last.length;
      const V = found.logits.dims[2], row = found.logits.data.subarray(-V);
      last = [row.reduce((best, x, i) => (x > row[best] ? i : best), 0)];
      tokens.push(...last);
      feeds = {
        input_ids: int64(last, [1, 1]), attention_mask: int64(Array(read + 1).fill(1), [1, read + 1]),
        position_ids: int64([read], [1, 1]),
        ...Object.fromEntries(Object.entries(found).filter(([name]) => name.startsWith("present"))
          .map(([name, value]) => [name.replace("present", "past_key_values"), value])),
      };
    }
    assert.deepEqual(tokens, edited.ids);
  }
  const { ids } = prompts[0];
  state.given = { memory, route: BigInt64Array.of(-1n), span: null };
  const base = await session.run(prompt(ids));
  state.memory = null;
  const empty = await session.run(prompt(ids));
  assert.deepEqual(base.logits.data, empty.logits.data);
  assert.deepEqual(emptyPorts(made.D, made.d)["memory.owner"].data, Int32Array.of(-1));
});

let edited;
before(async () => { edited = edit(await load(), { made }); });

test("transformers.js answers as Session does; swapped out, as the base model", async () => {
  const memory = await edited.swap(file(memories[0].name));
  for (const swapped of [memory, null]) {
    await edited.swap(swapped);
    for (const each of prompts) {
      const expected = swapped ? each.edited : each.base;
      const [answer] = await edited.generate(each.prompt, { ...TOKENS, return_full_text: false });
      assert.equal(answer.generated_text.trim(), expected.text.trim(), each.prompt);
      assert.equal(answer.routing.edit, expected.edit);
      // Another ONNX Runtime rounds otherwise, which may move a bit of a mask.
      if (swapped) assert.ok(Math.abs(answer.routing.overlap - expected.overlap) <= 1.5 / ones);
    }
  }
});

test("a batch is routed row by row, and answers of two pipelines' runs do not mix", async () => {
  await edited.swap(file(memories[0].name));
  const answers = await edited.generate(prompts.map((each) => each.prompt), { ...TOKENS, return_full_text: false });
  answers.forEach(([answer], i) => {
    assert.equal(answer.routing.edit, prompts[i].edited.edit);
    assert.ok(answer.generated_text.trim().startsWith(prompts[i].edited.text.trim()));
  });
  const together = await Promise.all(
    prompts.map((each) => edited.pipeline(each.prompt, PLAIN)),
  );
  together.forEach(([answer], i) => assert.equal(answer.generated_text.trim(), prompts[i].edited.text.trim()));
});

test("what counts of a prompt is what counts for Session", async () => {
  for (const { memory, asked } of withCare) {
    await edited.swap(file(memory));
    for (const { prompt, variables, text, edit, overlap } of asked) {
      const options = { ...TOKENS, return_full_text: false, tokenizer_encode_kwargs: variables };
      const [{ generated_text: said, routing }] = await edited.generate(prompt, options);
      const which = `${memory}: ${JSON.stringify(prompt)}`;
      assert.equal(routing.edit, edit, which);
      assert.ok(Math.abs(routing.overlap - overlap) <= 1.5 / ones, `${which}: ${routing.overlap} for ${overlap}`);
      assert.equal((said.at(-1).content ?? said).trim(), text.trim(), which);
    }
    const texts = asked.filter((each) => typeof each.prompt === "string");
    const answers = await edited.generate(texts.map((each) => each.prompt), { ...TOKENS, return_full_text: false });
    answers.forEach(([{ routing }], i) => assert.equal(routing.edit, texts[i].edit, texts[i].prompt));
  }
});

test("what a prompt that failed was told is not told to the next one", async () => {
  await edited.swap(file(memories[0].name));
  const [{ prompt, base }] = prompts, streamer = { put() { throw new Error("the reader is gone"); }, end() {} };
  await assert.rejects(edited.generate(prompt, { ...TOKENS, streamer }), /the reader is gone/);
  await assert.rejects(edited.swap(undefined), /bytes, a Blob or a Response/);
  await edited.swap(null);
  const [answer] = await edited.pipeline(prompt, PLAIN);
  assert.equal(answer.generated_text.trim(), base.text.trim());
});

test("a prompt that would be cut, or is none, is refused", async () => {
  await edited.swap(file(memories[0].name));
  const long = "well ".repeat(600) + prompts[0].prompt;
  for (const prompt of [long, [{ role: "user", content: long }]])
    await assert.rejects(edited.generate(prompt, TOKENS), /tokens long, of which 512 are read/);
  for (const prompt of [undefined, null, 5, [null], [[]]])
    await assert.rejects(edited.generate(prompt, TOKENS), /a prompt is a string or a chat/);
});

test("rows are asked one by one, or refused, where a graph reads them flush left", async () => {
  const alone = edit(await load(), { made: { ...made, padding_side: "right" } });
  await alone.swap(file(memories[0].name));
  const all = prompts.map((each) => each.prompt), answers = await alone.generate(all, { ...TOKENS, return_full_text: false });
  answers.forEach(([answer], i) => assert.equal(answer.generated_text.trim(), prompts[i].edited.text.trim()));
  await assert.rejects(alone.pipeline(all, PLAIN), /the graph reads rows flush left/);
  const [answer] = await alone.pipeline(all[0], PLAIN);
  assert.equal(answer.generated_text.trim(), prompts[0].edited.text.trim());
});

test("an answer goes on with the memory that it began with", async () => {
  await edited.swap(file(memories[0].name));
  const asked = prompts.find((each) => each.edited.edit);
  assert.notEqual(asked.edited.text, asked.base.text);
  const swaps = [];
  // Told of the prompt, then of each token as it is written.
  const streamer = { told: 0, put() { if (this.told++ === 1) swaps.push(edited.swap(null)); }, end() {} };
  const [answer] = await edited.pipeline(asked.prompt, { ...PLAIN, streamer });
  assert.deepEqual(await Promise.all(swaps), [null]);
  assert.equal(edited.memory, null);
  assert.ok(streamer.told > 2);
  assert.equal(answer.generated_text.trim(), asked.edited.text.trim());
});

test("a chat is routed from its last user message on, or as a whole", async () => {
  await edited.swap(file(memories[0].name));
  for (const { chat, edited: expected } of chats) {
    const [answer] = await edited.generate(chat, TOKENS);
    assert.equal(answer.routing.edit, expected.edit, JSON.stringify(chat));
    assert.ok(Math.abs(answer.routing.overlap - expected.overlap) <= 1.5 / ones, JSON.stringify(chat));
    assert.equal(answer.generated_text.at(-1).content.trim(), expected.text.trim());
  }
});

test("a memory of another model is refused and nothing changes", async () => {
  const before = await edited.swap(file(memories[0].name));
  const other = { ...made, digest: "0".repeat(64), former: [] };
  const strict = edit(await load(), { made: other });
  await assert.rejects(strict.swap(file(memories[0].name)), /of base model/);
  assert.equal(strict.memory, null);
  await assert.rejects(edited.swap(file(routed.memory)), /give its router/);
  assert.equal(edited.memory, before);
});

test("typos are put right as in Python", () => {
  const { vocabulary, keys, typed, meant } = spelled;
  const byId = Object.entries(vocabulary).sort(([, a], [, b]) => a - b);
  const unigram = byId.map(([token], id) => [token, -id]); // as tokenizer.json of an XLM-R has it
  for (const each of [vocabulary, unigram]) assert.deepEqual(typed.map(spelling(each)(keys)), meant);
});

test("a router decides as in Python, long texts, last sentences and typos included", async () => {
  const create = (name) => ort.InferenceSession.create(at("web", "router", name), options);
  const tokenizer = new Tokenizer(json("web", "router", "tokenizer.json"), {});
  const router = new Router({
    ort, encoder: await create("router.onnx"), route: await create("route.onnx"),
    tokenize: (text) => tokenizer.encode(text).ids, made: made.router,
    vocabulary: json("web", "router", "tokenizer.json").model.vocab,
  });
  const memory = await readMemory(file(routed.memory));
  assert.ok(router.fits(memory));
  const found = await router.decide(routed.texts, memory);
  assert.deepEqual(found.map((each) => Number(each.route)), routed.routes);
  found.forEach(({ overlap }, i) => assert.ok(Math.abs(overlap - routed.overlaps[i]) < 1e-2, routed.texts[i]));
  const answering = edit(await load(), { made, router });
  await answering.swap(memory);
  for (const each of routed.prompts) {
    const [answer] = await answering.generate(each.prompt, { ...TOKENS, return_full_text: false });
    assert.deepEqual([answer.routing.edit, answer.generated_text.trim()], [each.edit, each.text.trim()]);
  }
  for (const { chat, coded } of chats) {
    const [{ routing }] = await answering.generate(chat, TOKENS);
    assert.equal(routing.edit, coded.edit, JSON.stringify(chat));
    assert.ok(Math.abs(routing.overlap - coded.overlap) < 1e-2, JSON.stringify(chat));
  }
});

test("the types name what the package exports", async () => {
  const types = fs.readFileSync(new URL("../src/index.d.ts", import.meta.url), "utf-8");
  const declared = [...types.matchAll(/^export (?:function|class) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(declared.sort(), Object.keys(await import("memoir-edge")).sort());
});
