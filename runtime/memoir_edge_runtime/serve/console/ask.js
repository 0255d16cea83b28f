// Ask: one prompt, the base model and a memory side by side, and why.

import { answer, route } from "./api.js";
import { scale } from "./charts.js";
import { marked } from "./diff.js";
import { field, h, say, sentByKeys, shown, trouble } from "./dom.js";

export const title = "Ask";
const TOKENS = 64;

export function view({ models, query, fail }) {
  const names = models.map((model) => model.id).filter((id) => id !== "base");
  const choices = [...names, "base"];
  const active = models.find((model) => model.active)?.id;
  const wanted = query.get("model") ?? (active === "base" ? names[0] : active) ?? "base";
  const there = choices.includes(wanted); // a link may be older than what is loaded
  const prompt = h("textarea", { name: "prompt", rows: 3, required: true, maxlength: 100000, placeholder: "The capital of France is" });
  prompt.value = query.get("prompt") ?? "";
  const model = h("select", { name: "model" }, choices.map((id) =>
    h("option", { value: id, selected: id === wanted }, id)));
  const chat = h("input", { type: "checkbox", name: "chat", checked: query.has("chat") });
  const results = h("section", { class: "results", "aria-label": "Answers" });
  let running = new AbortController();

  const link = () => "#/ask?" + new URLSearchParams({ prompt: prompt.value, model: model.value, ...(chat.checked && { chat: "" }) });

  function start() {
    if (!prompt.value.trim()) return;
    running.abort();
    running = new AbortController();
    history.replaceState(null, "", link());
    both({ prompt: prompt.value, chat: chat.checked, tokens: TOKENS }, model.value, results, running.signal).catch(fail);
  }

  const form = h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); start(); } },
    field("Prompt", prompt),
    h("div", { class: "row" },
      field("Memory", model),
      h("label", { class: "check" }, chat, "as a chat message"),
      h("button", { "aria-keyshortcuts": "Control+Enter" }, "Ask"),
      h("p", { class: "hint" }, "Ctrl-Enter asks. The address of this page reproduces it.")));
  sentByKeys(form);
  return {
    children: [...(there ? [] : [trouble(new Error(`${wanted} is not loaded any more: choose what is asked.`))]), form, results],
    begin: () => { prompt.value && there ? start() : prompt.focus(); },
    leave: () => running.abort(),
  };
}

/** Both answers as they are written, then what differs; beside them the route. */
async function both(asked, model, results, signal) {
  const why = h("article", { class: "card why", "aria-busy": "true" }, h("h2", {}, "Why"));
  const left = column("Base model"), right = column(model);
  results.replaceChildren(h("div", { class: "pair" }, left.card, right.card), why);
  say("asking");
  const body = { model, ...(asked.chat ? { messages: [{ role: "user", content: asked.prompt }] } : { prompt: asked.prompt }) };
  const [, old, fresh] = await Promise.all([
    reason(why, body, model, signal),
    write(left, { ...asked, model: "base" }, signal),
    write(right, { ...asked, model }, signal),
  ]);
  compared(left, right, old, fresh, model);
}

/** Both answers with what differs marked. */
export function compared(left, right, old, fresh, name) {
  left.text.replaceChildren(...words(fresh, old));
  right.text.replaceChildren(...words(old, fresh));
  say(old === fresh ? `Both answer: ${fresh}` : `The base model answers: ${old}. ${name} answers: ${fresh}`);
}

/** A card for an answer that is awaited. */
export function column(name) {
  const text = h("p", { class: "answer" });
  return { text, card: h("article", { class: "card", "aria-busy": "true" }, h("h2", {}, name), text) };
}

async function write({ text, card }, asked, signal) {
  try {
    for await (const piece of answer(asked, signal)) text.append(piece.text);
    return text.textContent;
  } catch (error) {
    if (error.constructor === Error) card.append(trouble(error));
    else throw error;
    return text.textContent;
  } finally {
    card.removeAttribute("aria-busy");
  }
}

const words = (from, to) => marked(from, to).map(({ text, fresh }) => (fresh ? h("mark", {}, text) : text));

async function reason(card, body, model, signal) {
  const { routes: [found] } = await route(body, signal);
  const name = model.split("@")[1];
  card.append(...reasons(found, (id) => h("a", { href: `#/edits/${encodeURIComponent(name)}/${encodeURIComponent(id)}` }, id)));
  card.removeAttribute("aria-busy");
}

/** What a router decided; `named` shows an edit's id. */
export function reasons({ memory, explanation }, named) {
  const edit = memory.edit ?? memory.candidate;
  return [
    memory.threshold != null && scale(memory.overlap, memory.threshold, memory.edit != null),
    h("p", {}, `${explanation[0].toUpperCase()}${explanation.slice(1)}.`),
    memory.threshold != null && h("dl", {},
      h("dt", {}, memory.edit ? "edit that fired" : "nearest edit"),
      h("dd", {}, edit ? named(edit) : "a guard"),
      memory.key != null && [h("dt", {}, memory.guard ? "nearest guard" : "nearest key"), h("dd", {}, shown(memory.key))]),
  ].filter(Boolean);
}
