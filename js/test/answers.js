// What transformers.js answers with a package: node test/answers.js node|BROWSER FOLDER, and on standard
// input {asked, memory: a file of the folder or null, tokens, dtype}. Prints the answers as JSON.
import fs from "node:fs";
import path from "node:path";
import { env, pipeline } from "@huggingface/transformers";
import { edit } from "memoir-edge";
import { open } from "./page.js";

const [host, folder] = process.argv.slice(2);
const wanted = JSON.parse(fs.readFileSync(0, "utf-8"));
const options = { max_new_tokens: wanted.tokens, do_sample: false, return_full_text: false };

async function underNode({ asked, memory, dtype }) {
  Object.assign(env, { allowRemoteModels: false, localModelPath: "/" });
  const session_options = { intraOpNumThreads: 1, logSeverityLevel: 3 };
  const edited = edit(await pipeline("text-generation", path.resolve(folder), { dtype, session_options }));
  if (memory) await edited.swap(fs.readFileSync(path.join(folder, memory)));
  const answers = [];
  for (const prompt of asked) answers.push((await edited.generate(prompt, options))[0].generated_text);
  return answers;
}

async function inBrowser(given) {
  const { page, close } = await open(path.dirname(path.resolve(folder)), host);
  try {
    return await page.evaluate(
      async ({ asked, memory, dtype, name, options }) => {
        const { pipeline } = await import("@huggingface/transformers");
        const { edit } = await import("memoir-edge");
        const edited = edit(await pipeline("text-generation", name, { dtype, device: "wasm" }));
        if (memory) await edited.swap(await fetch(`/${name}/${memory}`));
        const answers = [];
        for (const prompt of asked) answers.push((await edited.generate(prompt, options))[0].generated_text);
        return answers;
      },
      { ...given, name: path.basename(folder), options },
    );
  } finally {
    await close();
  }
}

process.stdout.write(JSON.stringify(await (host === "node" ? underNode : inBrowser)(wanted)));
