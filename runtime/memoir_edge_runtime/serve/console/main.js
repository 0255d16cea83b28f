// Which view is shown: the fragment of the address says it, so that a link reproduces a view.

import { apiKey, models, Unauthorized } from "./api.js";
import { field, h, say, short, slashGoesTo, trouble } from "./dom.js";
import * as ask from "./ask.js";
import * as edits from "./edits.js";
import * as memories from "./memories.js";
import * as now from "./now.js";

const VIEWS = { ask, edits, memories, now };
const main = document.getElementById("main");
let leave = () => {}; // ends what the view before goes on doing

/** "#/edits/some-id?query=x" as its view, what is behind it, and its parameters. */
function place() {
  const [path, query] = location.hash.slice(2).split("?");
  const [name, ...rest] = path.split("/");
  return { name: name in VIEWS ? name : "ask", rest: rest.map(decodeURIComponent), query: new URLSearchParams(query) };
}

async function show() {
  leave();
  leave = () => {};
  const { name, rest, query } = place();
  try {
    const known = await models();
    frame(name, known);
    const view = VIEWS[name].view({ models: known, rest, query, fail, reload: show });
    leave = view.leave ?? leave;
    main.replaceChildren(h("h1", { class: "unseen" }, VIEWS[name].title), ...view.children);
    document.title = `${VIEWS[name].title} – memoir-edge`;
    view.begin?.();
  } catch (error) {
    fail(error);
  }
}

/** The navigation, and what answers by default. */
function frame(name, known) {
  const active = known.find((model) => model.active);
  document.getElementById("views").replaceChildren(...Object.entries(VIEWS).map(([key, view], i) =>
    h("a", { href: `#/${key}`, "aria-current": key === name && "page", accesskey: i + 1 }, view.title)));
  document.getElementById("active").replaceChildren("active: ", h("b", {}, active?.id ?? "–"),
    active?.digest ? ` ${short(active.digest)}` : "");
}

/** A key that is not taken leads to the login; any other error is shown. */
function fail(error) {
  if (error.name === "AbortError") return;
  if (error instanceof Unauthorized) login(error);
  else main.prepend(trouble(error));
}

function login(error) {
  leave();
  const tried = apiKey.get() !== "";
  apiKey.set("");
  document.getElementById("views").replaceChildren();
  document.getElementById("active").replaceChildren();
  const input = h("input", { type: "password", name: "key", autocomplete: "off", required: true });
  const form = h("form", { class: "card login", onsubmit: (event) => {
    event.preventDefault();
    apiKey.set(input.value);
    show();
  } },
    h("h1", {}, "Sign in"),
    h("p", { class: "hint" }, "The API key that the server was started with. It is forgotten when this tab is closed."),
    field("API key", input),
    tried && trouble(new Error(`The server does not take this key. ${error.message}`)),
    h("button", {}, "Sign in"));
  main.replaceChildren(form);
  document.title = "Sign in – memoir-edge";
  input.focus();
}

window.addEventListener("hashchange", () => { show(); say(VIEWS[place().name].title); });
slashGoesTo(main);
show();
