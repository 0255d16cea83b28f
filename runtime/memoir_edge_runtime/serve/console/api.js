// The server's own routes, asked with the keys that were typed into this tab.

const KEY = "memoir-edge-api-key"; // sessionStorage ends with the tab
let adminKey = ""; // never leaves this page

export class Unauthorized extends Error {}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};
export const admin = {
  get: () => adminKey,
  set: (key) => { adminKey = key; },
};

const root = new URL(".", document.baseURI).pathname.replace(/\/$/, "");

async function ask(path, { body, method, signal } = {}) {
  const key = path.startsWith("/admin") ? adminKey : apiKey.get();
  const response = await fetch(root + path, {
    method: method ?? (body ? "POST" : "GET"),
    headers: {
      ...(key && { authorization: `Bearer ${key}` }),
      ...(body && { "content-type": "application/json" }),
    },
    body: body && JSON.stringify(body),
    signal,
  });
  if (response.ok) return response;
  const message = await response.json().then((found) => found.error.message, () => response.statusText);
  throw new (response.status === 401 ? Unauthorized : Error)(message);
}

export const json = async (path, options) => (await ask(path, options)).json();
const at = (name) => `/admin/memories/${encodeURIComponent(name)}`;

export const models = async () => (await json("/v1/models")).data;
export const route = (body, signal) => json("/v1/route", { body, signal });
const editsOf = (name) => `/v1/memories/${encodeURIComponent(name)}/edits`;
/** A part of a memory's edits: {total, data}. */
export const edits = (name, query) => json(`${editsOf(name)}?${new URLSearchParams(query)}`);
export const edit = (name, id) => json(`${editsOf(name)}/${encodeURIComponent(id)}`);

/** All edits of a memory. */
export async function everyEdit(name) {
  const limit = 1000, found = [];
  for (let part; !part || found.length < part.total; found.push(...part.data)) {
    part = await edits(name, { offset: found.length, limit });
    if (!part.data.length) break;
  }
  return found;
}
export const metrics = async () => (await ask("/metrics")).text();

export const memories = async () => (await json("/admin/memories")).memories;
export const load = (body) => json("/admin/memories", { body });
export const activate = (name, verify = false) => json(`${at(name)}/activate?${new URLSearchParams({ verify })}`, { method: "POST" });
export const unload = (name) => json(at(name), { method: "DELETE" });

/** An answer's pieces of text as they come, and at last what the router decided. */
export async function* answer({ model, prompt, chat, tokens }, signal) {
  const body = { model, stream: true, temperature: 0, max_tokens: tokens,
    ...(chat ? { messages: [{ role: "user", content: prompt }] } : { prompt }) };
  const path = chat ? "/v1/chat/completions" : "/v1/completions";
  for await (const document of stream(path, { body, signal })) {
    const choice = document.choices[0];
    yield { text: choice?.delta?.content ?? choice?.text ?? "", memory: document.memory };
  }
}

/** A whole answer. */
export async function whole(asked) {
  let text = "";
  for await (const piece of answer(asked)) text += piece.text;
  return text;
}

/** The documents of the server-sent events that a route answers with; one of an error is thrown. */
export async function* stream(path, options) {
  const response = await ask(path, options);
  let held = "";
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (held + part).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const document = JSON.parse(line.slice(6));
      if (document.error) throw new Error(document.error.message);
      yield document;
    }
  }
}
