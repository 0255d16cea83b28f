// What a check asked of edits, and what did not hold.

import { shown, table } from "./dom.js";

const ASKED = { prompt: "its prompt", form: "forms", key: "keys", miss: "near misses" };
const MOST = 12; // texts that are shown

/** What held of each sort of text: "its prompt 1 of 1, keys 2 of 3". */
export const tallied = (tally) => Object.entries(ASKED).filter(([sort]) => sort in tally)
  .map(([sort, name]) => `${name} ${tally[sort][1]} of ${tally[sort][0]}`).join(", ");

/** The texts that did not hold; nothing where all did. */
export const failures = (wrong) => wrong?.length > 0 && table("What does not hold", ["edit", "asked", "text", "answer", "edit that fired"],
  wrong.slice(0, MOST).map((one) => [one.edit, ASKED[one.sort] ?? one.sort, one.text, one.answer, shown(one.fired)]));
