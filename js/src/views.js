// Which texts of a prompt a router reads, and which of them decides, as in memoir_edge/views.py.
const END = /(?<=[.!?…])["'”’)]*\s+|\n+/;
// Behind these a few words go on with a name ("St. Louis", "Acme Inc. Japan"), and are no sentence.
const ABBREVIATED = /(?<![\p{L}\p{N}_])(?:[a-z]|mr|mrs|ms|dr|prof|st|mt|ft|jr|sr|inc|ltd|co|corp|bros|no|nr|vs|vol)\.$/iu;
// Where a user's message begins and ends in the templates of chats: ChatML, Llama 3, Gemma, Phi and Zephyr, gpt-oss, DeepSeek, Mistral.
const BEGINS = new RegExp([
  /<\|im_start\|>user\n|<\|start_header_id\|>user<\|end_header_id\|>|<start_of_turn>user\n/,
  /<\|user\|>|<\|start\|>user<\|message\|>|<｜User｜>|\[INST\]/,
].map((part) => part.source).join("|"), "g");
const ENDS = /<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|<\|assistant\|>|<\/s>|<｜Assistant｜>|\[\/INST\]/;
const LABEL = /^\s*(?:question|query|instruction|prompt|user|human|q)\s*:\s*/i;
const ANSWER = /(?<!\S)(?:answer|response|assistant|a)\s*:\s*$/i;
const SHORTEST = 3; // words of a sentence that can ask something by itself

/** What a text asks: without a chat's template around it, and without labels. */
function bare(text) {
  const last = [...text.matchAll(BEGINS)].at(-1);
  let asked = last ? text.slice(last.index + last[0].length).split(ENDS, 1)[0].trim() : text;
  if (LABEL.test(asked)) asked = asked.replace(LABEL, "").replace(ANSWER, "").trimEnd();
  return asked.trim() ? asked : text;
}

const isLong = (sentence) => sentence.split(/\s+/).length >= SHORTEST;

function sentences(text) {
  const parts = text.split(END).map((part) => part.trim()).filter(Boolean);
  const begins = parts.flatMap((part, i) => (!i || isLong(part) || !ABBREVIATED.test(parts[i - 1]) ? [i] : []));
  return begins.map((begin, i) => parts.slice(begin, begins[i + 1]).join(" "));
}

/** A prompt, its last sentence that can ask something by itself where it has several, and both with typos put right. */
export function views(prompt, respell) {
  const all = sentences(bare(prompt)), long = all.filter(isLong);
  const typed = all.length > 1 && long.length ? [bare(prompt), bare(long.at(-1))] : [bare(prompt)];
  return [...new Set(respell ? [...typed, ...typed.map(respell)] : typed)];
}

/** Of what was found for a prompt's views: one that reaches an edit before one that does not, then the nearest. */
export function decisive(found) {
  return found.reduce((best, next) => {
    const better = Number(next.route > 0) - Number(best.route > 0) || next.overlap - best.overlap;
    return better > 0 ? next : best;
  });
}
