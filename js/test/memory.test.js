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
