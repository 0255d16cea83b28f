// What the Python tests wrote: a packaged model, memories, and what Session answers with each.
import fs from "node:fs";
import path from "node:path";

export const folder = process.env.MEMOIR_EDGE_CASES;
if (!folder) throw new Error("MEMOIR_EDGE_CASES names no folder: run pytest tests/cli/test_web.py");
export const at = (...parts) => path.join(fs.realpathSync(folder), ...parts);
export const json = (...parts) => JSON.parse(fs.readFileSync(at(...parts), "utf-8"));
export const TOKENS = { max_new_tokens: json("cases.json").tokens, do_sample: false };
