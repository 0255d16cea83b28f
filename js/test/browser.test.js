// In headless Chromium: onnxruntime-web on WASM.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { at, json, TOKENS } from "./cases.js";
import { open } from "./page.js";

let opened;
before(async () => { opened = await open(at(), process.env.MEMOIR_EDGE_CHROMIUM); });
after(() => opened?.close());

test("a page swaps a memory in and out, and answers as Session does", async () => {
  const { prompts: all, memories } = json("cases.json");
  const prompts = all.slice(0, 4); // an edit by its prompt and two paraphrases, and a neighbour
  const found = await opened.page.evaluate(
    async ({ asked, memory, options }) => {
      const { pipeline } = await import("@huggingface/transformers");
      const { edit } = await import("memoir-edge");
      const made = await (await fetch("/web/memoir_edge.json")).json();
      const edited = edit(await pipeline("text-generation", "web", { dtype: "fp32", device: "wasm" }), { made });
      const ask = async (some = asked) => {
        const answers = [];
        for (const prompt of some) answers.push((await edited.generate(prompt, options))[0]);
        return answers.map(({ generated_text, routing }) => ({ text: generated_text.trim(), edit: routing.edit }));
      };
      const before = await ask();
      const { digest } = await edited.swap(await fetch(memory));
      const during = await ask();
      await edited.swap(null);
      return { before, during, after: await ask(asked.slice(0, 1)), digest };
    },
    {
      asked: prompts.map((each) => each.prompt), memory: `/${memories[0].name}`,
      options: { ...TOKENS, return_full_text: false },
    },
  );
  const expected = (kind) => prompts.map((each) => ({ text: each[kind].text.trim(), edit: each[kind].edit }));
  assert.equal(found.digest, memories[0].digest);
  assert.deepEqual(found.before, expected("base"));
  assert.deepEqual(found.during, expected("edited"));
  assert.deepEqual(found.after, expected("base").slice(0, 1));
});
