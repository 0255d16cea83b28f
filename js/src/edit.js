// transformers.js with memories, in one call.
//
//     const edited = edit(await pipeline("text-generation", "org/llama-web"));
//     await edited.swap(await fetch("facts.safetensors"));
//     const [answer] = await edited.generate("The capital of France is", { max_new_tokens: 8 });
//     answer.generated_text, answer.routing.edit
//
// The pipeline itself answers edited, too, where a memory is not routed by a router; tell it
// add_special_tokens: true, so that prompts are read as the memory's own were.
import { readMemory } from "./memory.js";
import { attach } from "./session.js";

/**
 * @param pipeline a text-generation pipeline whose graph has required ports
 * @param made     memoir_edge.json, parsed: memories of another model are then refused
 * @param router   a Router, for memories whose keys are codes
 */
export function edit(pipeline, { made = null, router = null } = {}) {
  const sessions = pipeline.model.sessions;
  const name = "model" in sessions ? "model" : "decoder_model_merged";
  const { session, state } = attach(sessions[name], null, made);
  sessions[name] = session;
  return new Edited(pipeline, state, made, router);
}

class Edited {
  #state; #made; #router; #turn = Promise.resolve();

  constructor(pipeline, state, made, router) {
    this.pipeline = pipeline;
    this.#state = state;
    this.#made = made;
    this.#router = router;
  }

  /** The memory that answers begin with; null is the base model. */
  get memory() {
    return this.#state.memory;
  }

  /** Answer with this memory from now on; null is the base model. If it does not fit, nothing changes. */
  async swap(source) {
    const memory = source === null || source?.ports ? source : await readMemory(source);
    if (memory !== null) this.#check(memory);
    this.#state.memory = memory;
    return memory;
  }

  /** Answer prompts or chats as the pipeline does; each answer also says which edit gave it. */
  generate(prompts, options = {}) {
    const turn = this.#turn.then(() => this.#generate(prompts, options));
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async #generate(prompts, options) {
    const one = typeof prompts === "string" || isChat(prompts), all = one ? [prompts] : prompts;
    if (!Array.isArray(all) || !all.every((each) => typeof each === "string" || isChat(each)))
      throw new TypeError("a prompt is a string or a chat of messages, each with a role; several are an array");
    const memory = this.#state.memory, answers = [];
    for (const group of this.#groups(all, options)) answers.push(...(await this.#answers(group, memory, options)));
    return one ? answers[0] : answers;
  }

  /** The prompts that run together, in their order. */
  #groups(all, options) {
    const special = new Set(all.map((prompt) => takesSpecial(this.pipeline.tokenizer, prompt, options)));
    // A pipeline pads on the left, whatever the graph reads.
    const apart = special.size > 1 || this.#made?.padding_side === "right";
    return apart ? all.map((prompt) => [prompt]) : [all];
  }

  /** The answers to each of some prompts, of one run. */
  async #answers(all, memory, options) {
    const { tokenizer } = this.pipeline;
    // As a memory's own prompts were read; a pipeline leaves special tokens out by itself.
    const told = { ...options, add_special_tokens: all.some((each) => takesSpecial(tokenizer, each, options)) };
    const rows = memory && all.map((prompt) => counted(tokenizer, prompt, told));
    const read = (prompt) => asked(prompt) || (isChat(prompt) ? rendered(tokenizer, prompt, options) : "");
    const found = memory?.keys ? await this.#router.decide(all.map(read), memory) : null;
    this.#state.given = given(memory, found, rows, all.length);
    this.#state.decided = null;
    // A pipeline that fails before its run leaves what was given for it.
    const answers = await this.pipeline(all, told).finally(() => { this.#state.given = null; });
    const routings = all.map((_, row) => routing(memory, found?.[row] ?? decided(this.#state.decided, row)));
    return answers.map((many, row) => many.map((answer) => ({ ...answer, routing: routings[row] })));
  }

  #check(memory) {
    const { D, d, base, router } = memory.document, made = this.#made;
    if (made) {
      const sites = [String(memory.sites), String(made.sites ?? made.site)];
      for (const [name, found, expected] of [["site", ...sites], ["D", D, made.D], ["d", d, made.d]])
        if (found !== expected) throw new Error(`the memory's ${name} is ${found}, the graph's is ${expected}`);
      const known = [made.digest, ...(made.former ?? [])], own = [base.digest, ...(base.former ?? [])];
      if (base.digest && made.digest && !own.some((digest) => known.includes(digest)))
        throw new Error(`the memory is of base model ${base.model_id}, the graph of another, ${made.model_id}`);
    }
    if (memory.keys && !this.#router)
      throw new Error(`the memory is routed by ${router.kind} ${router.digest.slice(0, 16)}: give its router`);
    if (memory.keys && !this.#router.fits(memory))
      throw new Error(`the memory is routed by ${router.kind} ${router.digest.slice(0, 16)}, the router is another`);
  }
}

const isChat = (it) => Array.isArray(it) && it.length > 0 && it.every((turn) => turn?.role !== undefined);

/** What a prompt asks: its text, or a chat's last user message; empty where that is no text. */
function asked(prompt) {
  if (!isChat(prompt)) return prompt;
  const content = prompt.findLast((turn) => turn.role === "user")?.content;
  return typeof content === "string" ? content.trim() : "";
}

/** The text that the chat template makes of a chat, told what a pipeline tells it. */
const rendered = (tokenizer, chat, { tools, documents, chat_template, tokenizer_encode_kwargs }) =>
  tokenizer.apply_chat_template(chat, {
    tokenize: false, add_generation_prompt: true, tools, documents, chat_template, ...tokenizer_encode_kwargs,
  });

/** Whether special tokens are put before a prompt: not where a template wrote the one that begins a text, which is not doubled. */
function takesSpecial(tokenizer, prompt, { add_special_tokens = true }) {
  if (isChat(prompt) || !add_special_tokens) return add_special_tokens;
  const [first, second] = tokenizer.bos_token && prompt.startsWith(tokenizer.bos_token) ? tokenizer.encode(prompt) : [];
  return first === undefined || first !== second;
}

/**
 * For each token of a prompt whether it counts: spaces at the end do not; of a chat those do that stand
 * from the last user message on, or all where that is not found.
 */
function counted(tokenizer, prompt, options) {
  const chat = isChat(prompt), text = chat ? rendered(tokenizer, prompt, options) : prompt;
  const ids = (part) => tokenizer.encode(part, { add_special_tokens: !chat && options.add_special_tokens });
  const said = chat ? asked(prompt) : "", at = said ? Math.max(text.lastIndexOf(said), 0) : 0;
  const all = ids(text), words = ids(text.replace(/ +$/, "") || text);
  if (all.length > tokenizer.model_max_length)
    throw new Error(`a prompt is ${all.length} tokens long, of which ${tokenizer.model_max_length} are read: shorten it`);
  const begin = at ? alike(ids(text.slice(0, at)), all) : 0;
  const end = alike(words, all) === words.length ? words.length : all.length;
  return all.map((_, i) => (i >= begin && i < end ? 1 : 0));
}

/** How many tokens two texts begin with alike. */
function alike(some, others) {
  const at = some.findIndex((id, i) => id !== others[i]);
  return at < 0 ? some.length : at;
}

/** What the run of B prompts is told: the router's routes, or which tokens count. */
function given(memory, found, rows, B) {
  if (memory === null) return { memory, route: new BigInt64Array(B).fill(-1n), span: null };
  if (found) return { memory, route: BigInt64Array.from(found, (each) => each.route), span: null };
  const route = new BigInt64Array(B), T = Math.max(...rows.map((row) => row.length));
  const feature = Array.from(memory.ports["memory.feature"].data, Number);
  const span = new BigInt64Array(B * T); // padding is on the left
  rows.forEach((row, i) => span.set(spanOf(row, feature), i * T + T - row.length));
  return { memory, route, span };
}

/** Of the tokens that count those that a routing feature takes, as docs/ports.md says. */
function spanOf(row, [times, share, more]) {
  const total = row.reduce((sum, n) => sum + n, 0);
  let left = total;
  return row.map((n) => {
    const taken = n && times * left <= share * total + more ? 1n : 0n;
    left -= n;
    return taken;
  });
}

const decided = (runs, row) =>
  runs && { route: runs.route[row], overlap: runs.overlap[row], candidate: Number(runs.candidate[row]) };

function routing(memory, found) {
  if (memory === null || !found) return { edit: null, overlap: 0, threshold: null, candidate: null, digest: null };
  const keys = memory.keys ?? {
    owner: memory.ports["memory.owner"], thresholds: memory.ports["memory.thresholds"],
  };
  return {
    edit: found.route > 0n ? (memory.edits.get(Number(found.route) - 1) ?? null) : null,
    overlap: found.overlap,
    threshold: keys.thresholds.data[found.candidate] ?? null,
    candidate: memory.edits.get(keys.owner.data[found.candidate]) ?? null,
    digest: memory.digest,
  };
}
