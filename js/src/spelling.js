// Words with a typo, put right as far as they are known, as in memoir_edge/spelling.py.
const SHORTEST = 4, LONGEST = 40, MOST = 4, WHOLE = 2000; // letters of a word; words and characters of a text
const WORD = /(\p{L}+)/u, PLAIN = /^[a-z]+$/i;
const LETTERS = [..."abcdefghijklmnopqrstuvwxyz"];
const ALONE = new Set(["a", "i", "s"]); // letters that are words, the last behind an apostrophe

/** By a tokenizer's vocabulary, token -> id or Unigram's list of [token, score]: a function from texts that may be asked to what puts a text's words right. */
export function spelling(vocabulary) {
  const unigram = Array.isArray(vocabulary), ranks = new Map();
  const entries = unigram ? vocabulary.map(([token], id) => [token, id]) : Object.entries(vocabulary);
  const marked = entries.some(([token]) => token.startsWith("##"));
  for (const [token, rank] of entries) {
    const word = marked ? token : /^[▁Ġ]/.test(token) ? token.slice(1) : "";
    if (!PLAIN.test(word)) continue;
    const known = word.toLowerCase();
    ranks.set(known, Math.min(rank, ranks.get(known) ?? rank));
  }
  return (texts) => respelling(ranks, texts);
}

function respelling(ranks, texts) {
  const words = [...new Set(texts.join("\n").match(/\p{L}+/gu) ?? [])].filter((word) => PLAIN.test(word));
  const named = new Map(words.sort().reverse().map((word) => [word.toLowerCase(), word]));
  const known = (typed) => (typed.length > 1 ? named.has(typed) || ranks.has(typed) : ALONE.has(typed));
  const knows = (word) => known(word.toLowerCase());
  const order = (word) => (named.has(word) ? -1 : ranks.get(word));
  const before = (a, b) => order(a) - order(b) || (a < b ? -1 : 1);
  const likeliest = (typed) => typed.filter((word) => word.length >= SHORTEST && known(word)).sort(before)[0];

  const slips = (word) => {
    const inside = places(word).slice(0, -1);
    const fewer = inside.map((i) => word.slice(0, i) + word.slice(i + 1));
    const other = inside.flatMap((i) => LETTERS.map((letter) => word.slice(0, i) + letter + word.slice(i + 1)));
    const more = places(word).flatMap((i) => LETTERS.map((letter) => word.slice(0, i) + letter + word.slice(i)));
    return [...fewer, ...other.filter((each) => ranks.has(each)), ...more];
  };
  /** Two neighbouring words with the space where it was meant, if anywhere. */
  const spaced = (a, b) => {
    if (knows(a) && knows(b)) return [a, " ", b];
    for (const [front, behind] of [[a + b[0], b.slice(1)], [a.slice(0, -1), a.at(-1) + b]])
      if (knows(front) && knows(behind)) return [front, " ", behind];
    return a.length + b.length >= SHORTEST && knows(a + b) ? ["", "", a + b] : [a, " ", b];
  };
  const right = (word) => {
    const typed = word.toLowerCase();
    if (typed.length < SHORTEST || typed.length > LONGEST || !PLAIN.test(word) || knows(word)) return word;
    const meant = likeliest(swaps(typed)) ?? likeliest(slips(typed));
    if (meant !== undefined) {
      const name = named.get(meant) ?? meant;
      return word[0] === typed[0] ? meant : name[0].toUpperCase() + name.slice(1);
    }
    const split = places(word).slice(1, -1).find((i) => knows(word.slice(0, i)) && knows(word.slice(i)));
    return split === undefined ? word : `${word.slice(0, split)} ${word.slice(split)}`;
  };

  return (text) => {
    if ([...text].length > WHOLE) return text;
    const parts = text.split(WORD); // words at odd places
    const strange = new Set(parts.filter((part, i) => i % 2 && PLAIN.test(part) && !knows(part)));
    if (strange.size === 0 || strange.size > MOST) return text;
    for (let i = 1; i < parts.length - 2; i += 2)
      if (parts[i + 1] === " ") parts.splice(i, 3, ...spaced(parts[i], parts[i + 2]));
    return parts.map((part, i) => (i % 2 ? right(part) : part)).join("");
  };
}

const places = (word) => [...Array(word.length + 1).keys()];
const swaps = (word) => places(word).slice(0, -2).map((i) => word.slice(0, i) + word[i + 1] + word[i] + word.slice(i + 2));
