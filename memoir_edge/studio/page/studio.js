// The studio: an edit is typed, looked at, trained, asked, and kept or thrown away.

import { json, stream } from "../console/api.js";
import { failures, tallied } from "../console/checks.js";
import { column, compared, reasons } from "../console/ask.js";
import { field, h, say, sentByKeys, share, shown, slashGoesTo, table, trouble } from "../console/dom.js";

const main = document.getElementById("main");
const seen = h("section", { "aria-label": "What is seen of the edit" });
const trial = h("section", { "aria-label": "The trial" });
const kept = h("section", { "aria-label": "Kept" });
const SHOWN = 12; // texts of a list that are seen at once

const state = () => json("/v1/studio");
const post = (what, body) => json(`/v1/studio/${what}`, { body });
const some = (card, ...children) => card.replaceChildren(...children.flat().filter(Boolean));

function draw(now) {
  document.getElementById("active").replaceChildren("editing ", h("b", {}, now.model));
  some(trial, now.trial && tried(now.trial));
  some(kept, h("article", { class: "card" },
    h("h2", {}, `Kept: ${now.kept} edits`),
    h("p", { class: "hint" }, `In ${now.memory} and its journal; those of the studio also in ${now.edits}.`)),
    now.kept > 0 && table("Edits that were kept last", ["id", "prompt", "target"],
      now.held.map((edit) => [edit.id, edit.prompt, edit.target])));
}

/** Work on a press of a button: others do nothing meanwhile, and what fails is said in its place. */
async function work(place, done, fail = (error) => some(place, trouble(error))) {
  const buttons = () => document.querySelectorAll("button");
  if (document.querySelector("button[aria-disabled]")) return;
  buttons().forEach((button) => button.setAttribute("aria-disabled", "true")); // and it keeps the focus
  try {
    await done();
  } catch (error) {
    fail(error);
  } finally {
    buttons().forEach((button) => button.removeAttribute("aria-disabled"));
  }
}

// --- An edit -------------------------------------------------------------------------------------

function trying(steps) {
  const prompt = h("textarea", { name: "prompt", rows: 2, required: true, placeholder: "The capital of France is" });
  const target = h("input", { name: "target", required: true, placeholder: "Lyon", autocomplete: "off" });
  const subject = h("input", { name: "subject", placeholder: "France, if you like", autocomplete: "off" });
  const wanted = () => ({ prompt: prompt.value.trim(), target: target.value, ...(subject.value.trim() && { subject: subject.value }) });
  const look = async () => some(seen, found(await post("look", wanted())));
  const form = h("form", { class: "card", onsubmit: (event) => {
    event.preventDefault();
    work(seen, async () => { await look(); await train(wanted(), steps); });
  } },
    h("h2", {}, "Try an edit"),
    field("Prompt", prompt),
    h("div", { class: "row" }, field("Target", target), field("Subject", subject),
      h("button", { "aria-keyshortcuts": "Control+Enter" }, "Train"),
      h("button", { type: "button", class: "quiet", onclick: () => form.reportValidity() && work(seen, look) }, "Look")));
  sentByKeys(form);
  return form;
}

/** What is doubtful about an edit, and what would be made of it. */
function found({ findings, warnings, subject, relation, ...made }) {
  const doubts = [...findings.map(({ kind, note }) => `${kind}: ${note}`), ...warnings];
  say(doubts.length ? doubts.join(". ") : "Nothing is doubtful about this edit.");
  return h("article", { class: "card" },
    h("h2", {}, doubts.length ? "Look at these" : "Nothing is doubtful about this edit"),
    doubts.length > 0 && h("ul", {}, doubts.map((doubt) => h("li", {}, doubt))),
    h("dl", {}, Object.entries({ subject, relation }).filter(([, read]) => read).map(([what, read]) =>
      [h("dt", {}, what), h("dd", {}, read)])),
    texts("Forms that it is trained in", [...made.forms, ...made.chats.map((text) => `in a chat: ${text}`)]),
    texts("Keys that reach it", made.keys),
    texts("Guards that the base model answers", made.guards),
    texts("Near misses that must not reach it", made.misses));
}

function texts(heading, found) {
  const rest = found.length - SHOWN;
  return found.length > 0 && h("details", {},
    h("summary", {}, `${heading}: ${found.length}`),
    h("ul", {}, found.slice(0, SHOWN).map((text) => h("li", {}, text)),
      rest > 0 && h("li", { class: "hint" }, `and ${rest} more`)));
}

// --- A trial -------------------------------------------------------------------------------------

async function train(wanted, steps) {
  const bar = h("progress", { max: steps, value: 0, "aria-label": "Training" }), note = h("p", { class: "hint" }, "asking the base model");
  some(trial, h("article", { class: "card" }, h("h2", {}, "Training"), bar, note));
  say("training");
  try {
    for await (const { trial: done, what, step, loss } of stream("/v1/studio/train", { body: wanted })) {
      if (done) return draw(await state());
      note.textContent = step ? `${what}: step ${step}, loss ${share(loss)}` : what;
      bar.value = step || steps;
    }
  } catch (error) {
    some(trial, trouble(error));
  }
}

function tried({ id, prompt, target, before, after, loss, steps, seconds, tally, wrong, failed }) {
  const others = failed.filter((other) => other !== id);
  const holds = failed.includes(id) ? "It does not hold" : "It holds";
  say(`${holds}. The base model answers ${before}, with the edit it is ${after}.`);
  const settle = (keep) => () => work(trial, async () => {
    draw(await post("settle", { id, keep }));
    say(keep ? "kept" : "thrown away");
  }, (error) => trial.prepend(trouble(error)));
  return h("article", { class: "card" },
    h("h2", {}, prompt, " ", h("mark", {}, target)),
    h("dl", {}, Object.entries({
      "base model": before, "with the edit": after, loss: share(loss), steps, seconds: seconds.toFixed(1),
      asked: tallied(tally),
    }).map(([name, value]) => [h("dt", {}, name), h("dd", {}, shown(value))])),
    h("p", {}, `${holds}.`, others.length > 0 && ` ${others.length} of those kept would no longer hold: ${others.join(", ")}.`),
    failures(wrong),
    h("div", { class: "row" },
      h("button", { onclick: settle(true) }, "Keep"),
      h("button", { class: "quiet", onclick: settle(false) }, "Throw away"),
      h("p", { class: "hint" }, "Training another edit throws it away, too.")));
}

// --- Asking --------------------------------------------------------------------------------------

function asking(chats) {
  const prompt = h("textarea", { name: "question", rows: 2, required: true, placeholder: "The capital of France is" });
  const chat = h("input", { type: "checkbox", name: "chat" });
  const answers = h("section", { class: "results", "aria-label": "Answers" });
  const form = h("form", { class: "card", onsubmit: (event) => {
    event.preventDefault();
    work(answers, () => both({ prompt: prompt.value, chat: chat.checked }, answers));
  } },
    h("h2", {}, "Ask both"),
    field("Question", prompt),
    h("div", { class: "row" },
      chats && h("label", { class: "check" }, chat, "as a chat message"),
      h("button", { "aria-keyshortcuts": "Control+Enter" }, "Ask")));
  sentByKeys(form);
  return [form, answers];
}

async function both(question, answers) {
  const left = column("Base model"), right = column("Edited");
  some(answers, h("div", { class: "pair" }, left.card, right.card));
  const found = await post("ask", question);
  compared(left, right, found.base, found.edited, "The edited model");
  answers.append(h("article", { class: "card why" }, h("h2", {}, "Why"), reasons(found, (id) => id)));
  [left, right].forEach(({ card }) => card.removeAttribute("aria-busy"));
}

slashGoesTo(main);
state().then((now) => {
  some(main, h("h1", { class: "unseen" }, "Studio"), trying(now.steps), seen, trial, asking(now.chat), kept);
  draw(now);
}, (error) => some(main, trouble(error)));
