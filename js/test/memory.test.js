// Under node alone: files that Python reads are read, those that it refuses are refused.
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { readMemory } from "../src/memory.js";
import { at, json } from "./cases.js";

for (const { name, said } of json("cases.json").files)
  test(said === null ? `${name} is read` : `${name} is refused`, async () => {
    const reading = readMemory(fs.readFileSync(at(name)));
    if (said === null) await reading;
    else await assert.rejects(reading, new RegExp(said));
  });

test("a longer header than is read is refused", async () => {
  const bytes = new Uint8Array(100_000_009);
  new DataView(bytes.buffer).setBigUint64(0, 100_000_001n, true);
  await assert.rejects(readMemory(bytes), /bytes of the header: 100000001, at most/);
});
