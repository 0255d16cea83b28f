// The router beside a graph (docs/ports.md): which of a memory's edits a text asks for.
import { spelling } from "./spelling.js";
import { decisive, views } from "./views.js";

export class Router {
  #respelling = new WeakMap(); // by memory: what puts typos right, by the words of its keys too

  /**
   * @param ort         onnxruntime-node or onnxruntime-web
   * @param encoder     a session of router/router.onnx
   * @param route       a session of router/route.onnx, with required ports
   * @param tokenize    text -> ids, special tokens included
   * @param made        what memoir_edge.json says of the router
   * @param vocabulary  `model.vocab` of tokenizer.json: typos are put right by it and by a memory's texts; without it they stay
   */
  constructor({ ort, encoder, route, tokenize, made, vocabulary = null }) {
    Object.assign(this, { ort, encoder, route, tokenize, made });
    this.spelling = vocabulary && spelling(vocabulary);
    const bare = tokenize(""), some = tokenize("a");
    this.lead = bare.findIndex((id, i) => id !== some[i]); // special tokens before a text
    if (this.lead < 0) this.lead = bare.length;
    this.trail = bare.length - this.lead;
  }

  /** Whether the codes of a memory are this router's. */
  fits({ document: { router } }) {
    return ["kind", "digest", "bits", "weight"].every((name) => router?.[name] === this.made[name]);
  }

  /** For each text {route, overlap, candidate}: the row of the edit's mask + 1 or -1, and the nearest key. */
  async decide(texts, memory) {
    if (memory.keys.owner.data.length === 0) return texts.map(() => ({ route: -1n, overlap: 0, candidate: 0 }));
    const found = [], respell = this.#respell(memory);
    for (const text of texts) {
      const read = [];
      for (const view of views(text, respell)) read.push(await this.#nearest(view, memory));
      found.push(decisive(read));
    }
    return found;
  }

  #respell(memory) {
    if (!this.spelling) return null;
    if (!this.#respelling.has(memory)) this.#respelling.set(memory, this.spelling(memory.document.texts ?? []));
    return this.#respelling.get(memory);
  }

  async #nearest(text, memory) {
    const ids = BigInt64Array.from(this.cut(this.tokenize(text.trim())), BigInt);
    const tensor = (type, data, dims) => new this.ort.Tensor(type, data, dims);
    const { code } = await this.encoder.run({
      input_ids: tensor("int64", ids, [1, ids.length]),
      attention_mask: tensor("int64", new BigInt64Array(ids.length).fill(1n), [1, ids.length]),
    });
    const keys = Object.entries(memory.keys).map(([n, p]) => [`memory.${n}`, tensor(p.type, p.data, p.dims)]);
    const found = await this.route.run({ code, ...Object.fromEntries(keys) });
    return {
      route: found["memory.route_out"].data[0],
      overlap: found["memory.overlap"].data[0],
      candidate: Number(found["memory.candidate"].data[0]),
    };
  }

  /** Of a text that is too long the last tokens, and all special ones. */
  cut(ids) {
    const most = this.made.max_tokens;
    return ids.length <= most ? ids : [...ids.slice(0, this.lead), ...ids.slice(ids.length - most + this.lead)];
  }
}
