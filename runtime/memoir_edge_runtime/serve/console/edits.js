// Edits: those of one memory as a table that may be long, and each on a page of its own.

import { edit, edits } from "./api.js";
import { failures, tallied } from "./checks.js";
import { field, h, say, share, short, shown, table } from "./dom.js";

export const title = "Edits";
const ROW = 40; // pixels of a row, as style.css has it: only rows that are seen are in the page
const BEYOND = 8; // rows above and below them
const PART = 200; // edits that are asked for at once
const REST = 60; // milliseconds without scrolling, after which edits are asked for

const when = (seconds) => (seconds == null ? "–" : new Date(1000 * seconds).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" }));
const COLUMNS = [
  ["prompt", (each) => each.prompt ?? "(withheld)"],
  ["target", (each) => shown(each.target)],
  ["source", (each) => shown(each.source)],
  ["valid from", (each) => shown(each.valid_from)],
  ["valid to", (each) => shown(each.valid_to)],
  ["fires", (each) => shown(each.fires)],
  ["last fired", (each) => when(each.last_fired)],
  ["near misses", (each) => shown(each.near_misses)],
];
const SORTS = { memory: "as in the memory", fires: "fires", last_fired: "last fired", near_misses: "near misses" };

export function view({ models, rest, query, fail }) {
  const names = models.filter((model) => model.id !== "base").map((model) => model.id.split("@")[1]);
  const active = models.find((model) => model.active)?.id.split("@")[1];
  const name = rest[0] ?? active ?? names[0];
  if (name === undefined) return { children: [h("p", { class: "card" }, "No memory is loaded.")] };
  if (rest[1] === undefined) return list(name, names, query, fail);
  const place = h("section", {}, h("p", { class: "hint" }, "Reading the edit …"));
  return {
    children: [h("p", {}, h("a", { href: address(name) }, `All edits of ${name}`)), place],
    begin: () => edit(name, rest[1]).then((found) => place.replaceChildren(...one(name, found)), fail),
  };
}

const address = (name, id) => `#/edits/${encodeURIComponent(name)}${id === undefined ? "" : `/${encodeURIComponent(id)}`}`;
const asking = (name, prompt) => `#/ask?${new URLSearchParams({ prompt, model: `base@${name}` })}`;

function list(name, names, query, fail) {
  const search = h("input", { type: "search", name: "query", placeholder: "id, prompt or target", autocomplete: "off" });
  search.value = query.get("query") ?? "";
  const memory = h("select", { name: "memory", onchange: () => { location.hash = address(memory.value); } },
    names.map((each) => h("option", { selected: each === name }, each)));
  const sort = h("select", { name: "sort", onchange: () => find() }, Object.entries(SORTS).map(([value, said]) =>
    h("option", { value, selected: value === query.get("sort") }, said)));
  const count = h("p", { class: "hint", role: "status" });
  const rows = long([["id", (each) => h("a", { href: address(name, each.id) }, each.id)], ...COLUMNS]);

  function find() {
    const wanted = { query: search.value, sort: sort.value };
    history.replaceState(null, "", `${address(name)}?${new URLSearchParams(wanted)}`);
    rows.fill(async (offset) => {
      const part = await edits(name, { ...wanted, offset, limit: PART });
      count.textContent = `${part.total} edits`;
      return part;
    }).catch(fail);
  }

  let typing;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(find, 150); });
  return {
    children: [
      h("div", { class: "row card" }, field("Search", search), field("Memory", memory), field("Order", sort), count),
      rows.element,
    ],
    begin: find,
    leave: () => clearTimeout(typing),
  };
}

/**
 * A table that holds only the rows that are seen, and asks for edits when they come into sight;
 * without the columns that are empty in all of the first ones.
 */
function long(all) {
  const heads = h("tr", { "aria-rowindex": 1 }), body = h("tbody"), above = h("tr", { "aria-hidden": "true" }), below = h("tr", { "aria-hidden": "true" });
  const table = h("table", { class: "long" },
    h("thead", {}, heads), body);
  const element = h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Edits" }, table);
  let parts = new Map(), total = 0, read = null, columns = all, resting;

  function want(number) {
    const own = parts;
    if (!own.has(number)) own.set(number, read(number * PART).then((part) => { own.set(number, part.data); if (own === parts) draw(); }));
  }

  function draw() {
    const from = Math.max(Math.floor(element.scrollTop / ROW) - BEYOND, 0);
    const to = Math.min(from + Math.ceil(element.clientHeight / ROW) + 2 * BEYOND, total);
    above.style.height = `${from * ROW}px`;
    below.style.height = `${(total - to) * ROW}px`;
    clearTimeout(resting); // what only flies by is not asked for
    resting = setTimeout(() => { for (let part = Math.floor(from / PART); part * PART < to; part++) want(part); }, REST);
    const seen = Array.from({ length: to - from }, (_, i) => [from + i, parts.get(Math.floor((from + i) / PART))?.[(from + i) % PART]]);
    body.replaceChildren(above, ...seen.map(([i, item]) =>
      h("tr", { "aria-rowindex": i + 2 }, columns.map(([, cell]) => h("td", {}, item ? cell(item) : "…")))), below);
  }

  let waiting = false;
  element.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }, { passive: true });
  return {
    element,
    async fill(reader) {
      const first = await reader(0);
      [parts, total, read] = [new Map([[0, first.data]]), first.total, reader];
      columns = all.filter(([, cell]) => !total || first.data.some((each) => cell(each) !== "–"));
      heads.replaceChildren(...columns.map(([column]) => h("th", { scope: "col" }, column)));
      table.setAttribute("aria-rowcount", total + 1);
      element.scrollTop = 0;
      draw();
      draw(); // the first rows gave the element its height
    },
  };
}

function one(name, { id, prompt, target, keys, guards, record, ...facts }) {
  say(`Edit ${id}`);
  const told = Object.entries(record ?? {}).filter(([key]) => !["prompt", "target", "keys", "guards", "id"].includes(key));
  const measured = { threshold: share(facts.threshold), fires: facts.fires, "last fired": when(facts.last_fired),
    "near misses": facts.near_misses, "last near miss": when(facts.last_near_miss) };
  return [
    h("article", { class: "card" },
      h("h2", {}, prompt ?? "(withheld)", " ", h("mark", {}, shown(target))),
      h("dl", {}, Object.entries({ id, ...Object.fromEntries(told), ...measured }).map(([key, value]) =>
        [h("dt", {}, key.replaceAll("_", " ")), h("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value))])),
      prompt != null && h("p", {}, h("a", { class: "button", href: asking(name, prompt) }, "Ask it"))),
    checks(facts),
    past(facts),
    phrasings(name, "Keys: phrasings that reach it", keys),
    phrasings(name, "Guards: prompts that the base model answers", guards),
  ].filter(Boolean);
}

/** What is known of an edit's checks: the last of its history, what the memory keeps, what was replayed here. */
function checks({ history, probes, replayed, evaluation }) {
  const last = history?.findLast((step) => step.what === "audit");
  return h("article", { class: "card" }, h("h2", {}, "Verification"),
    h("dl", {}, Object.entries({
      "last checked": last && `${date(last.at)}: ${held(last)}`,
      "when it was made": evaluation.checked != null && `${evaluation.took} of ${evaluation.checked} edits of the memory held`,
      "on this server": replayed ? `${replayed} probes of the memory held, ${probes} of this edit` : "no probe was replayed",
    }).filter(([, said]) => said).map(([key, said]) => [h("dt", {}, key), h("dd", {}, said)])),
    failures(last?.wrong));
}

const held = ({ held, asked }) => `${held ? "held" : "did not hold"} (${tallied(asked) || "its prompt alone was asked"})`;
const date = (text) => when(Date.parse(text) / 1000);
const DONE = {
  made: ({ loss, steps }) => `trained: loss ${share(loss)} after ${steps} steps`,
  again: ({ loss, steps }) => `trained again: loss ${share(loss)} after ${steps} steps`,
  audit: (step) => `asked: ${held(step)}`,
  written: ({ digest }) => `written into memory ${short(digest)}`,
};

function past({ history: steps, history_unknown: unknown }) {
  const heading = h("h2", {}, "History");
  if (!steps?.length) return h("article", { class: "card" }, heading,
    h("p", {}, `Its training is not known: ${unknown ?? "it was in the memory that the journal began from"}.`));
  return h("article", { class: "card" }, heading, table("Steps of the journal", ["step", "when", "what"],
    steps.map((step) => [String(step.step), date(step.at), DONE[step.what](step)])));
}

function phrasings(name, heading, texts) {
  return texts.length > 0 && h("article", { class: "card" }, h("h2", {}, heading),
    h("ul", {}, texts.map((text) => h("li", {}, h("a", { href: asking(name, text) }, text)))));
}
