// Memories: what is loaded, and with the admin key: load, activate, roll back, unload, compare.

import { activate, admin, everyEdit, load, memories, unload, Unauthorized, whole } from "./api.js";
import { field, h, say, short, shown, table, trouble } from "./dom.js";

export const title = "Memories";
const MOST = 20; // prompts that a comparison asks
let before = null; // what answered before the last activation in this tab

export function view({ models, fail, reload }) {
  const place = h("div", {});
  const begin = () => (admin.get() === "" ? signIn() : manage()).catch(fail);

  async function signIn(error) {
    const key = h("input", { type: "password", name: "admin", autocomplete: "off", required: true });
    place.replaceChildren(
      table("Loaded memories", ["model", "digest", ""], models.map((model) =>
        [model.id, code(model.digest), model.active ? active() : ""])),
      h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); admin.set(key.value); begin(); } },
        h("h2", {}, "Change what answers"),
        h("p", { class: "hint" }, "This needs the admin key. It is forgotten when this page is closed or loaded again."),
        h("div", { class: "row" }, field("Admin key", key), h("button", {}, "Unlock")),
        error && trouble(error)),
      compare(models));
  }

  async function manage() {
    let found;
    try {
      found = await memories();
    } catch (error) {
      admin.set("");
      return signIn(error instanceof Unauthorized ? new Error("The server does not take this admin key.") : error);
    }
    const now = found.find((memory) => memory.active).name;
    const back = before !== null && before !== now && found.some((memory) => memory.name === before) ? before : null;
    const told = h("div", { "aria-live": "polite" });
    const gate = h("input", { type: "checkbox", name: "gate", checked: true });
    const act = (what, work) => async () => {
      try {
        const changed = await work();
        if (changed.active && changed.name !== now) before = now;
        await reload();
        say(what);
      } catch (error) {
        if (error instanceof Unauthorized) { admin.set(""); await signIn(error); } else told.replaceChildren(trouble(error));
      }
    };
    place.replaceChildren(
      h("div", { class: "row card" },
        h("p", {}, "Answers by default: ", h("b", {}, now)),
        back && h("button", { onclick: act(`rolled back to ${back}`, () => activate(back)) }, `Roll back to ${back}`),
        now !== "base" && h("button", { class: "quiet", onclick: act("the base model answers", () => activate("base")) }, "Answer with the base model"),
        h("button", { class: "quiet", onclick: () => { admin.set(""); reload(); } }, "Lock")),
      told,
      h("label", { class: "check gate" }, gate, "activate only if the memory's probes hold, asked again now"),
      table("Loaded memories", ["name", "digest", "edits", "probes held", "file", ""], found.map((memory) => [
        memory.name, code(memory.digest), String(memory.edits), memory.name === "base" ? "–" : String(memory.probes), h("span", { title: memory.file ?? "" }, shown(memory.file?.split("/").pop())),
        memory.active ? active() : h("div", { class: "row" },
          h("button", { class: "quiet", onclick: act(`${memory.name} answers`, () => activate(memory.name, gate.checked)) }, `Activate ${memory.name}`),
          memory.name !== "base" && h("button", { class: "quiet", onclick: act(`${memory.name} is unloaded`, () => unload(memory.name)) }, `Unload ${memory.name}`)),
      ])),
      loading(act),
      compare(models));
  }

  return { children: [place], begin };
}

const code = (digest) => h("code", { title: digest ?? "" }, short(digest));
const active = () => h("span", { class: "badge" }, "active");

/** The gate: a file answers only when its probes hold. */
function loading(act) {
  const path = h("input", { name: "path", required: true, placeholder: "facts-2.safetensors" });
  const name = h("input", { name: "name", placeholder: "the file's own" });
  const digest = h("input", { name: "digest", placeholder: "any", pattern: "[0-9a-f]{64}" });
  const answering = h("input", { type: "checkbox", name: "activate", checked: true });
  const button = h("button", {}, "Load");
  const work = () => load({ path: path.value, activate: answering.checked, verify: true,
    ...(name.value && { name: name.value }), ...(digest.value && { digest: digest.value }) });
  return h("form", { class: "card", onsubmit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    await act(`${path.value} is loaded`, work)();
    button.disabled = false;
  } },
    h("h2", {}, "Load a memory"),
    h("p", { class: "hint" }, "The file lies under a memory root of the server. Its probes are asked first; if one does not hold, nothing changes."),
    h("div", { class: "row" }, field("File", path), field("Name", name), field("SHA-256", digest),
      h("label", { class: "check" }, answering, "activate if its probes hold"), button));
}

/** Which edits came, went and changed from one memory to another, and what both answer. */
function compare(models) {
  const names = models.filter((model) => model.id !== "base").map((model) => model.id.split("@")[1]);
  if (names.length < 2) return null;
  const choice = (chosen, label) => h("select", { name: label }, names.map((name, i) => h("option", { selected: i === chosen }, name)));
  const [a, b, found] = [choice(0, "before"), choice(1, "after"), h("div", { "aria-live": "polite" })];
  return h("form", { class: "card", onsubmit: (event) => {
    event.preventDefault();
    differences(a.value, b.value, found).catch((error) => found.replaceChildren(trouble(error)));
  } }, h("h2", {}, "Compare two"), h("div", { class: "row" }, field("Before", a), field("After", b), h("button", {}, "Compare")), found);
}

async function differences(before, after, found) {
  const [old, fresh] = await Promise.all([everyEdit(before), everyEdit(after)]);
  const was = new Map(old.map((edit) => [edit.id, edit])), now = new Map(fresh.map((edit) => [edit.id, edit]));
  const rows = [
    ...fresh.filter((edit) => !was.has(edit.id)).map((edit) => ["came", edit, null, edit.target]),
    ...old.filter((edit) => !now.has(edit.id)).map((edit) => ["went", edit, edit.target, null]),
    ...fresh.filter((edit) => was.has(edit.id) && differ(was.get(edit.id), edit))
      .map((edit) => ["changed", edit, was.get(edit.id).target, edit.target]),
  ];
  const prompts = [...new Set([...rows.map(([, edit]) => edit), ...fresh, ...old].map((edit) => edit.prompt))]
    .filter((prompt) => prompt != null).slice(0, MOST);
  found.replaceChildren(
    rows.length ? table("Edits that differ", ["", "id", "prompt", "before", "after"], rows.map(([what, edit, a, b]) =>
      [what, edit.id, shown(edit.prompt), shown(a), shown(b)])) : h("p", {}, "Their edits are the same."),
    prompts.length > 0 && h("button", { type: "button", onclick: (event) => asked(event.target, before, after, prompts) },
      `Ask ${prompts.length} prompts of both`));
}

const differ = (a, b) => ["prompt", "target", "source", "valid_from", "valid_to"].some((name) => a[name] !== b[name]);

async function asked(button, before, after, prompts) {
  button.disabled = true;
  const answers = await Promise.all(prompts.map(async (prompt) => {
    const [a, b] = await Promise.all([before, after].map((name) => whole({ model: `base@${name}`, prompt, tokens: 16 })));
    return [prompt, a, a === b ? b : h("mark", {}, b)];
  })).catch((error) => button.replaceWith(trouble(error)));
  if (answers) button.replaceWith(table("Answers of both", ["prompt", before, after], answers));
}
