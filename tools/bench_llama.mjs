// llama.cpp's part of bench_hosts.py:
//   node bench_llama.mjs PATH '{"model": "FILE.gguf", "lengths": [128], "prompts": ["..."]}'
// PATH is node-llama-cpp's dist/index.js. Prints the figures of bench_hosts.py as one JSON line.
import {pathToFileURL} from "node:url";

const [path, asked] = process.argv.slice(2);
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(path));
const {model: modelPath, lengths, prompts} = JSON.parse(asked);

const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath});
const sequences = prompts.length;
const context = await model.createContext({contextSize: 512, sequences, batchSize: 512, threads: 1});
const each = prompts.map((prompt) => ({ids: model.tokenize(prompt), sequence: context.getSequence()}));

async function answer({ids, sequence}, count) {
  await sequence.clearHistory();
  let written = 0;
  for await (const _ of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
    if (++written >= count) return;
  }
  throw new Error(`${written} tokens, not ${count}`);
}

async function write(wanted) {
  const left = wanted.values(); // each sequence takes the next when its last has ended
  await Promise.all(each.map(async (one) => {
    for (const count of left) await answer(one, count);
  }));
}

await write(prompts.map(() => 8));
const [began, used] = [performance.now(), process.cpuUsage()];
await write(lengths);
const [wall, cpu] = [performance.now() - began, process.cpuUsage(used)];
const written = lengths.reduce((sum, length) => sum + length);
console.log(JSON.stringify({
  "tokens a second": (1000 * written) / wall,
  "CPU ms a token": (cpu.user + cpu.system) / 1000 / written,
  "resident MB": process.memoryUsage.rss() / 2 ** 20,
}));
process.exit(0);
