// Which texts of a prompt a router reads, and which of them decides, as in memoir_edge/views.py.
const END = /(?<=[.!?…])["'”’)]*\s+|\n+/;
const LABEL = /^\s*(?:question|query|instruction|prompt|user|human|q)\s*:\s*/i;
const ANSWER = /\s+(?:answer|response|assistant|a)\s*:\s*$/i;
const SHORTEST = 3; // words of a sentence that can ask something by itself

/** A text without the labels that say that it asks, and where the answer goes. */
function bare(text) {
  const found = LABEL.test(text) ? text.replace(LABEL, "").replace(ANSWER, "") : text;
  return found.trim() ? found : text;
}

/** A prompt, its last sentence that can ask something by itself where it has several, and both with typos put right. */
export function views(prompt, respell) {
  const sentences = bare(prompt).split(END).map((part) => part.trim()).filter(Boolean);
  const long = sentences.filter((sentence) => sentence.split(/\s+/).length >= SHORTEST);
  const typed = sentences.length > 1 && long.length ? [bare(prompt), bare(long.at(-1))] : [bare(prompt)];
  return [...new Set(respell ? [...typed, ...typed.map(respell)] : typed)];
}

/** Of what was found for a prompt's views: one that reaches an edit before one that does not, then the nearest. */
export function decisive(found) {
  return found.reduce((best, next) => {
    const better = Number(next.route > 0) - Number(best.route > 0) || next.overlap - best.overlap;
    return better > 0 ? next : best;
  });
}
