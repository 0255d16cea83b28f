// Elements from plain values. Every string becomes text or an attribute, never markup.

/**
 * h("a", {href: "#/ask", class: "link"}, "Ask"); properties that begin with "on" are listeners;
 * an attribute that is true stands without a value, one that is false, null or undefined is left out.
 */
export function h(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

export function svg(name, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), properties, children);
}

function filled(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** What screen readers are told. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

export const shown = (value) => (value == null || value === "" ? "–" : String(value));
export const share = (value) => (value == null ? "–" : value.toFixed(3));
export const short = (digest) => (digest ? digest.slice(0, 12) : "–");

/** A labelled form field. */
export function field(label, input) {
  return h("label", { class: "field" }, h("span", {}, label), input);
}

/** A table with a caption for screen readers; cells are strings or elements. */
export function table(caption, columns, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, column)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))));
}

/** Ctrl-Enter sends a form from any of its fields. */
export function sentByKeys(form) {
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
  });
}

/** A slash goes to the first field of an element, as in other tools; not while somebody types. */
export function slashGoesTo(element) {
  window.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, textarea, select")) return;
    const first = element.querySelector("textarea, input");
    if (first) { event.preventDefault(); first.focus(); }
  });
}

/** What went wrong, where it is seen and heard. */
export function trouble(error) {
  return h("p", { class: "trouble", role: "alert" }, error.message);
}
