// Which words of two texts differ: the longest common subsequence of their words.

/** The words and the spaces of b, each with whether it is new against a; a space never is. */
export function marked(a, b) {
  const [old, now] = [words(a), words(b)];
  const length = table(old, now);
  const out = [];
  let [i, j] = [0, 0];
  while (j < now.length) {
    if (i < old.length && old[i] === now[j]) { out.push({ text: now[j], fresh: false }); i++; j++; }
    else if (i < old.length && length[i + 1][j] >= length[i][j + 1]) i++;
    else { out.push({ text: now[j], fresh: now[j].trim() !== "" }); j++; }
  }
  return out;
}

const words = (text) => text.match(/\S+|\s+/g) ?? [];

function table(a, b) {
  const length = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  return length;
}
