// Now: the server's own metrics, read once a second while this view is seen.

import { metrics } from "./api.js";
import { line } from "./charts.js";
import { h } from "./dom.js";

export const title = "Now";
const KEPT = 120; // seconds

const sum = (found, name, has = "") => found.filter((s) => s.name === name && s.labels.includes(has)).reduce((all, s) => all + s.value, 0);
// Counters are shown as what came in the last second, gauges as they are.
const SHOWN = [
  ["tokens a second", (m) => sum(m, "memoir_tokens_total", 'kind="completion"'), "rate"],
  ["ms to the first token", null, "first"],
  ["edits fired", (m) => sum(m, "memoir_fires_total"), "count"],
  ["bypasses", (m) => sum(m, "memoir_bypasses_total"), "count"],
  ["near misses", (m) => sum(m, "memoir_near_misses_total"), "count"],
  ["swaps", (m) => sum(m, "memoir_memory_changes_total", 'result="ok"'), "count"],
  ["running", (m) => sum(m, "memoir_running"), "gauge"],
  ["waiting", (m) => sum(m, "memoir_queue_depth"), "gauge"],
];

export function view({ fail }) {
  const cards = SHOWN.map(([name]) => ({ name, values: [], number: h("b", {}, "–"), drawn: h("div", {}) }));
  const place = h("section", { class: "tiles", "aria-label": "Measured now" }, cards.map((card) =>
    h("article", { class: "card" }, h("p", { class: "hint" }, card.name), h("p", { class: "big" }, card.number), card.drawn)));
  let last = null, timer = null;

  async function tick() {
    if (document.visibilityState === "visible") {
      const found = parsed(await metrics()), at = performance.now();
      cards.forEach((card, i) => draw(card, SHOWN[i], found, at, last));
      last = { found, at };
    }
    timer = setTimeout(() => tick().catch(fail), 1000);
  }

  let left = false;
  return {
    children: [place],
    begin: () => { tick().catch((error) => left || fail(error)); },
    leave: () => { left = true; clearTimeout(timer); },
  };
}

function draw(card, [name, read, kind], found, at, last) {
  const seconds = last ? (at - last.at) / 1000 : 1;
  const value = kind === "first" ? first(found, last?.found) : read(found);
  const moved = kind === "gauge" || kind === "first" ? value : last ? (value - read(last.found)) / seconds : 0;
  card.values = [...card.values, moved ?? 0].slice(-KEPT);
  const told = kind === "count" ? value : kind === "rate" ? moved.toFixed(1) : kind === "first" ? value?.toFixed(0) : value;
  card.number.textContent = told ?? "–";
  card.drawn.replaceChildren(line(name, card.values));
}

/** Mean time to the first token since the last look, or of all where nothing was asked since. */
function first(found, last) {
  const [seconds, count] = ["sum", "count"].map((part) => sum(found, `memoir_first_token_seconds_${part}`));
  const [before, known] = ["sum", "count"].map((part) => (last ? sum(last, `memoir_first_token_seconds_${part}`) : 0));
  if (count > known) return (1000 * (seconds - before)) / (count - known);
  return count ? (1000 * seconds) / count : null;
}

/** Prometheus' text as samples. */
function parsed(text) {
  return text.split("\n").filter((row) => row && !row.startsWith("#")).map((row) => {
    const [, name, labels = "", value] = row.match(/^([^{ ]+)(?:\{(.*)\})? (\S+)/);
    return { name, labels, value: Number(value) };
  });
}
