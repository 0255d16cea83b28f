// Words with a typo, put right as far as a vocabulary knows them, as in memoir_edge/spelling.py.
const SHORTEST = 4, MOST = 4, LONGEST = 2000; // letters of a word; words and characters of a text
const WORD = /\p{L}+/gu, PLAIN = /^[a-z]+$/i;
const LETTERS = [..."abcdefghijklmnopqrstuvwxyz"];

/** A function that puts a text's words right by a tokenizer's vocabulary, token -> id. */
export function spelling(vocabulary) {
  const entries = Object.entries(vocabulary), ranks = new Map();
  const marked = entries.some(([token]) => token.startsWith("##"));
  for (const [token, rank] of entries) {
    const word = marked ? token : /^[▁Ġ]/.test(token) ? token.slice(1) : "";
    if (!PLAIN.test(word)) continue;
    const known = word.toLowerCase();
    ranks.set(known, Math.min(rank, ranks.get(known) ?? rank));
  }
  const commonest = (words) => {
    const known = words.filter((word) => word.length >= SHORTEST && ranks.has(word));
    return known.reduce((best, word) => (best && ranks.get(best) <= ranks.get(word) ? best : word), null);
  };
  const strange = (word) => word.length >= SHORTEST && PLAIN.test(word) && !ranks.has(word.toLowerCase());
  const right = (word) => {
    const typed = word.toLowerCase();
    const meant = commonest(swaps(typed)) ?? commonest(slips(typed));
    if (meant === null) return word;
    return word[0] === typed[0] ? meant : meant[0].toUpperCase() + meant.slice(1);
  };
  return (text) => {
    if ([...text].length > LONGEST) return text;
    const found = new Set((text.match(WORD) ?? []).filter(strange));
    if (found.size === 0 || found.size > MOST) return text;
    const meant = new Map([...found].map((word) => [word, right(word)]));
    return text.replace(WORD, (word) => meant.get(word) ?? word);
  };
}

const places = (word) => [...Array(word.length + 1).keys()];
const swaps = (word) => places(word).slice(0, -2).map((i) => word.slice(0, i) + word[i + 1] + word[i] + word.slice(i + 2));

function slips(word) {
  const inside = places(word).slice(0, -1);
  const fewer = inside.map((i) => word.slice(0, i) + word.slice(i + 1));
  const other = inside.flatMap((i) => LETTERS.map((letter) => word.slice(0, i) + letter + word.slice(i + 1)));
  const more = places(word).flatMap((i) => LETTERS.map((letter) => word.slice(0, i) + letter + word.slice(i)));
  return [...fewer, ...other, ...more];
}
