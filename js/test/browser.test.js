// In headless Chromium: onnxruntime-web on WASM, driven through a page of its own.
import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { at, json, TOKENS } from "./cases.js";

const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const MODULES = "/js/node_modules";
const IMPORTS = {
  "@huggingface/transformers": `${MODULES}/@huggingface/transformers/dist/transformers.web.js`,
  "onnxruntime-common": `${MODULES}/onnxruntime-common/dist/esm/index.js`,
  "onnxruntime-web/webgpu": `${MODULES}/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs`,
  "memoir-edge": "/js/src/index.js",
};
const PAGE = `<!doctype html><script type="importmap">${JSON.stringify({ imports: IMPORTS })}</script>`;
const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json", ".wasm": "application/wasm" };

const server = http.createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/") return response.writeHead(200, { "content-type": "text/html" }).end(PAGE);
  const file = pathname.startsWith("/js/") ? path.join(ROOT, pathname.slice(4)) : at(pathname);
  if (!fs.existsSync(file) || !fs.statSync(file).isFile()) return response.writeHead(404).end();
  const head = { "content-type": TYPES[path.extname(file)] ?? "application/octet-stream", "content-length": fs.statSync(file).size };
  response.writeHead(200, head);
  return request.method === "HEAD" ? response.end() : fs.createReadStream(file).pipe(response);
});
let browser, page;

before(async () => {
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  browser = await chromium.launch({ executablePath: process.env.MEMOIR_EDGE_CHROMIUM, args: ["--no-sandbox"] });
  page = await browser.newPage();
  page.on("pageerror", (error) => console.error(error));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
});
after(async () => {
  await browser?.close();
  server.close();
});

test("a page swaps a memory in and out, and answers as Session does", async () => {
  const { prompts: all, memories } = json("cases.json");
  const prompts = all.slice(0, 5); // an edit by its prompt and two paraphrases, and two neighbours
  const found = await page.evaluate(
    async ({ asked, memory, options, modules }) => {
      const { env, pipeline } = await import("@huggingface/transformers");
      const { edit } = await import("memoir-edge");
      Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: "/", useBrowserCache: false });
      Object.assign(env.backends.onnx.wasm, { wasmPaths: `${modules}/onnxruntime-web/dist/`, numThreads: 1 });
      const made = await (await fetch("/web/memoir_edge.json")).json();
      const edited = edit(await pipeline("text-generation", "web", { dtype: "fp32", device: "wasm" }), { made });
      const ask = async () => {
        const answers = [];
        for (const prompt of asked) answers.push((await edited.generate(prompt, options))[0]);
        return answers.map(({ generated_text, routing }) => ({ text: generated_text.trim(), edit: routing.edit }));
      };
      const before = await ask();
      const { digest } = await edited.swap(await fetch(memory));
      const during = await ask();
      await edited.swap(null);
      return { before, during, after: await ask(), digest };
    },
    {
      asked: prompts.map((each) => each.prompt), memory: `/${memories[0].name}`,
      options: { ...TOKENS, return_full_text: false }, modules: MODULES,
    },
  );
  const expected = (kind) => prompts.map((each) => ({ text: each[kind].text.trim(), edit: each[kind].edit }));
  assert.equal(found.digest, memories[0].digest);
  assert.deepEqual(found.before, expected("base"));
  assert.deepEqual(found.during, expected("edited"));
  assert.deepEqual(found.after, expected("base"));
});
