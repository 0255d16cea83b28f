// A memory file, read and checked as docs/memory-format.md says, and as the ports of a graph take it.
// Knows nothing of sessions: a port is {type, data, dims}, whatever runs it.

const BYTES = { F32: 4, F16: 2, BF16: 2, I32: 4, I8: 1, U8: 1 };
const TYPES = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array, int64: BigInt64Array };
const NAMES = { F32: "float32", I32: "int32", U8: "uint8" };
const SHARED = ["center", "columns", "owner", "permutation", "scale", "thresholds", "values"];
const DTYPES = {
  values: ["F32", "F16", "BF16", "I8"],
  columns: ["I32"], owner: ["I32"], permutation: ["I32"], tile: ["I32"],
  center: ["F32"], scale: ["F32"], scales: ["F32"], thresholds: ["F32"],
  bank: ["U8"], masks: ["U8"], keys: ["U8"],
};
const LIMITS = {
  "bytes of the header": 100_000_000, "bytes of the document": 2 ** 26, "levels of the document": 64,
  D: 2 ** 20, d: 2 ** 20, columns: 2 ** 20, keys: 2 ** 21, edits: 2 ** 20, P: 2 ** 16, tiles: 2 ** 10,
};
// By routing feature: [times, share, more]. docs/ports.md says what they mean.
const SPANS = {
  mean: [0, 0, 0], last: [1, 0, 1], "last-two": [1, 0, 2], "later-half": [2, 1, 1],
  "mean-scaled": [0, 0, 0], "last-scaled": [1, 0, 1],
};

/** Read a memory file: what the ports take, who owns its keys, and what it says of itself. */
export async function readMemory(source) {
  const bytes = await bytesOf(source);
  const { said, entries, body } = split(bytes);
  if (!("memoir_edge.memory" in said)) throw new Error("no memory: its metadata has no memoir_edge.memory");
  const format = said["memoir_edge.format"];
  if (!["1", "2", "3", "4"].includes(format))
    throw new Error(`the memory has format ${format}, this version reads 1, 2, 3 and 4`);
  const digest = await checkedDigest(bytes, said["memoir_edge.sha256"]);
  const document = parsedDocument(said["memoir_edge.memory"]);
  checkPlaces(entries, body);
  const tensors = Object.fromEntries(entries.map(([name, entry]) => [name, tensor(name, entry, body)]));
  // Format 4 is any of the others, at several sites.
  const coded = format === "4" ? "masks" in tensors : format !== "1";
  const tiled = format === "4" ? coded && "tile" in tensors : format === "3";
  checkDocument(document, coded);
  const sites = format === "4" ? checkedSites(document) : [document.site];
  const tiles = check(document, tensors, coded, tiled, sites.length);
  return { ...memory(document, tensors, coded, digest), sites, tiles };
}

/** The empty memory of a graph: no prompt reaches it. D and d are the site's widths. */
export function emptyPorts(D, d) {
  return {
    "memory.columns": port("int32", [0], [1]),
    "memory.values": { type: "float32", data: new Float32Array(d), dims: [1, d] },
    "memory.tile": port("int32", [0], [1]),
    "memory.bank": { type: "uint8", data: new Uint8Array(Math.ceil(D / 8)), dims: [1, Math.ceil(D / 8)] },
    "memory.owner": port("int32", [-1], [1]),
    "memory.thresholds": port("float32", [2], [1]),
    "memory.center": { type: "float32", data: new Float32Array(D), dims: [D] },
    "memory.scale": { type: "float32", data: new Float32Array(D).fill(1), dims: [D] },
    "memory.permutation": { type: "int32", data: Int32Array.from({ length: D }, (_, i) => i), dims: [D] },
    "memory.k": port("int64", [1n], [1]),
    "memory.feature": port("int64", [0n, 0n, 0n], [3]),
  };
}

const port = (type, list, dims) => ({ type, data: TYPES[type].from(list), dims });

function memory(document, tensors, coded, digest) {
  const { D, d, k, feature } = document;
  const bank = coded ? tensors.masks : tensors.bank;
  const rows = bank.dims[0];
  const ports = emptyPorts(D, d);
  for (const name of ["center", "scale", "permutation"]) ports[`memory.${name}`] = tensors[name];
  ports["memory.k"] = port("int64", [BigInt(k)], [1]);
  ports["memory.feature"] = port("int64", SPANS[feature].map(BigInt), [3]);
  if (rows) {
    ports["memory.bank"] = bank;
    ports["memory.tile"] = tensors.tile ?? port("int32", Array(rows).fill(0), [rows]);
    // With codes the graph decides nothing: each mask is its own owner's, and none is reached.
    ports["memory.owner"] = coded ? port("int32", Array.from({ length: rows }, (_, i) => i), [rows]) : tensors.owner;
    ports["memory.thresholds"] = coded ? port("float32", Array(rows).fill(2), [rows]) : spread(tensors.thresholds, rows);
  }
  if (tensors.columns.dims[0]) {
    ports["memory.columns"] = tensors.columns;
    ports["memory.values"] = tensors.values;
  }
  const keys = coded ? { bank: tensors.keys, owner: tensors.owner, thresholds: tensors.thresholds } : null;
  return { document, digest, ports, keys, edits: new Map(document.edits.map((edit) => [edit.row, edit.id])) };
}

function spread(thresholds, rows) {
  if (thresholds.dims[0] === rows) return thresholds;
  return port("float32", Array(rows).fill(thresholds.data[0]), [rows]);
}

// --- Bytes ---------------------------------------------------------------------------------------

async function bytesOf(source) {
  // Of a Buffer of node, which is one, slice would be no copy.
  if (source instanceof Uint8Array) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (typeof source?.arrayBuffer !== "function")
    throw new TypeError("a memory is read from bytes, a Blob or a Response");
  if (source.ok === false) throw new Error(`the memory cannot be had: ${source.status} ${source.statusText}`);
  return new Uint8Array(await source.arrayBuffer());
}

function split(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.byteLength < 8 ? Infinity : Number(view.getBigUint64(0, true));
  if (8 + length > bytes.byteLength) throw new Error("no memory: cut short, or no safetensors file");
  limit("bytes of the header", length);
  const header = parsed("its header", () => STRICT.decode(bytes.subarray(8, 8 + length)));
  const { __metadata__, ...tensors } = header ?? {}, said = __metadata__ ?? {};
  const objects = [header, said, ...Object.values(tensors)];
  if (!objects.every(isObject) || !Object.values(said).every(isText) || !Object.values(tensors).every(isEntry))
    throw new Error("no memory: its header is none of a safetensors file");
  return { said, entries: Object.entries(tensors), body: bytes.subarray(8 + length) };
}

function parsedDocument(text) {
  limit("bytes of the document", new TextEncoder().encode(text).byteLength);
  return parsed("its document", () => text, (depth) => limit("levels of the document", depth));
}

const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What JSON says; a key that stands twice and half of a character, which readers take differently, are refused. */
function parsed(name, read, deeper = () => {}) {
  let text, found;
  try {
    text = read();
    found = JSON.parse(text);
  } catch (error) {
    throw new Error(`no memory: ${name} is no JSON: ${error.message}`);
  }
  let keys = keysIn(text);
  for (let depth = 1, level = [found]; level.length; depth++) {
    deeper(depth);
    const outer = level.filter((it) => typeof it === "object" && it !== null);
    const named = outer.filter(isObject).flatMap(Object.keys);
    keys -= named.length;
    if (![...named, ...level.filter(isText)].every((it) => it.isWellFormed()))
      throw new Error(`no memory: ${name} holds half of a surrogate pair`);
    if (level.includes(Infinity) || level.includes(-Infinity))
      throw new Error(`no memory: ${name} holds a number that is too large`);
    level = outer.flatMap(Object.values);
  }
  if (keys) throw new Error(`no memory: a key stands twice in one object of ${name}`);
  return found;
}

/** How many keys stand in a valid JSON text. */
function keysIn(text) {
  let keys = 0;
  for (let at = 0; at < text.length; at++) {
    if (text[at] !== '"') continue;
    while (text[++at] !== '"') if (text[at] === "\\") at++;
    while (" \n\r\t".includes(text[at + 1])) at++;
    if (text[at + 1] === ":") keys++;
  }
  return keys;
}

/** Tensors stand one behind the other and fill the file. */
function checkPlaces(entries, body) {
  const places = entries.map(([, entry]) => entry.data_offsets).sort(([a, b], [c, d]) => a - c || b - d);
  const ends = [0, ...places.map(([, end]) => end)];
  if (!places.every(([begin], i) => begin === ends[i]) || ends.at(-1) !== body.byteLength)
    throw new Error("no memory: its tensors do not fill the file one behind the other");
}

function tensor(name, { dtype, shape, data_offsets: [begin, end] }, body) {
  const count = shape.reduce((product, n) => product * n, 1);
  if (!Object.hasOwn(BYTES, dtype)) throw new Error(`${name} is ${dtype}`);
  if (end - begin !== count * BYTES[dtype])
    throw new Error(`${name} has ${end - begin} bytes, expected ${count * BYTES[dtype]}`);
  const own = body.slice(begin, end).buffer; // a copy: aligned, and apart from the file
  if (dtype in NAMES) return { dtype, type: NAMES[dtype], data: new TYPES[NAMES[dtype]](own), dims: shape };
  return { dtype, type: "float32", data: WIDER[dtype](own), dims: shape };
}

const WIDER = {
  BF16: (own) => new Float32Array(Uint32Array.from(new Uint16Array(own), (bits) => bits << 16).buffer),
  F16: (own) => Float32Array.from(new Uint16Array(own), half),
  I8: (own) => Float32Array.from(new Int8Array(own)),
};

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 0x1f, fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// --- Checks --------------------------------------------------------------------------------------

/** SHA-256 of the file. The file's own digest must hold; a page without https cannot tell. */
async function checkedDigest(bytes, stated) {
  const subtle = globalThis.crypto?.subtle;
  if (subtle === undefined) return null;
  const hash = async (data) =>
    Array.from(new Uint8Array(await subtle.digest("SHA-256", data)), (b) => b.toString(16).padStart(2, "0")).join("");
  const blank = bytes.slice(), at = find(blank, new TextEncoder().encode(String(stated)));
  if (at >= 0) blank.fill(0x30, at, at + 64);
  if (at < 0 || (await hash(blank)) !== stated)
    throw new Error("the memory's bytes are not the ones that were written: fetch the file again");
  return hash(bytes);
}

function find(bytes, wanted) {
  for (let at = bytes.indexOf(wanted[0]); at >= 0; at = bytes.indexOf(wanted[0], at + 1))
    if (wanted.every((byte, i) => bytes[at + i] === byte)) return at;
  return -1;
}

function checkedSites({ site, sites }) {
  const named = Array.isArray(sites) && sites.length > 1 && sites.every((path) => typeof path === "string" && path);
  if (!named || sites[0] !== site || new Set(sites).size < sites.length)
    throw new Error(`the memory's sites are ${sites}, expected several, each once, ${site} the first`);
  return sites;
}

const isName = (it) => typeof it === "string" && it !== "", isText = (it) => typeof it === "string";
const isObject = (it) => typeof it === "object" && it !== null && !Array.isArray(it);
const isDigest = (it) => isText(it) && /^[0-9a-f]{64}$/.test(it), orNull = (is) => (it) => it === null || is(it);
const isCount = (it) => Number.isInteger(it) && it >= 0;
const isEntry = ({ dtype, shape, data_offsets: at }) => isText(dtype) && allOf(isCount)(shape) && allOf(isCount)(at) && at.length === 2;
const allOf = (is) => (it) => Array.isArray(it) && it.every(is);

const DOCUMENT = {
  site: isName, feature: isText, D: Number.isInteger, d: Number.isInteger, k: Number.isInteger, base: isObject,
  edits: Array.isArray, parent: orNull(isDigest), probes: Array.isArray, created: isText, tool: isText,
  evaluation: isObject,
};
const CODES_SAY = { router: isObject, texts: allOf(isText) };
const ROUTER = { kind: isName, digest: isDigest, bits: Number.isInteger, weight: Number.isInteger };
const BASE = { model_id: isText, digest: orNull(isDigest), former: allOf(isDigest) };
const EDIT = { id: isName, row: Number.isInteger, record: orNull(isObject) };
const PROBE = { prompt: isText, text: isText, edit: orNull(isText) };

/** Types in the document; keys that it does not know are ignored. */
function checkDocument(document, coded) {
  checkObject(document, { ...DOCUMENT, ...(coded ? CODES_SAY : {}) }, "the document");
  if (coded) checkObject(document.router, ROUTER, "router");
  checkObject(document.base, BASE, "base", "former");
  document.edits.forEach((edit, i) => checkObject(edit, EDIT, `edits[${i}]`, "record"));
  document.probes.forEach((probe, i) => checkObject(probe, PROBE, `probes[${i}]`));
}

function checkObject(found, checks, where, optional) {
  if (!isObject(found)) throw new Error(`${where} is no JSON object`);
  for (const [name, good] of Object.entries(checks)) {
    if (!(name in found) && name === optional) continue;
    if (!(name in found)) throw new Error(`${where} has no ${name}`);
    if (!good(found[name])) throw new Error(`${where} has ${name} = ${String(JSON.stringify(found[name])).slice(0, 80)}`);
  }
}

function limit(name, found) {
  if (found > LIMITS[name]) throw new Error(`${name}: ${found}, at most ${LIMITS[name]} are read`);
}

/** How many tiles of D columns there are. */
function check(document, tensors, coded, tiled, sites) {
  const { D, d, k, feature } = document, width = Math.ceil(D / 8);
  if (!Object.hasOwn(SPANS, feature)) throw new Error(`the memory's routing feature is ${feature}, which this version cannot form`);
  const scales = tensors.values?.dtype === "I8" ? ["scales"] : [];
  const expected = [...SHARED, coded ? "masks" : "bank", ...(coded ? ["keys"] : []), ...(tiled ? ["tile"] : []), ...scales]
    .sort();
  if (String(Object.keys(tensors).sort()) !== String(expected))
    throw new Error(`the memory holds ${Object.keys(tensors).sort()}, expected ${expected}`);
  for (const [name, { dtype }] of Object.entries(tensors))
    if (!DTYPES[name].includes(dtype)) throw new Error(`${name} is ${dtype}, expected ${DTYPES[name].join(" or ")}`);
  const C = tensors.columns.dims[0], rows = (coded ? tensors.masks : tensors.bank).dims[0];
  const keys = coded ? tensors.keys.dims[0] : rows;
  const shapes = {
    columns: [[C]], values: [[C, d]], scales: [[C]], center: [[D]], scale: [[D]], permutation: [[D]],
    bank: [[rows, width]], masks: [[rows, width]], tile: [[rows]], owner: [[keys]], thresholds: coded ? [[keys]] : [[keys], [1]],
    keys: [[keys, Math.ceil((document.router?.bits ?? 0) / 8)]],
  };
  for (const [name, { dims }] of Object.entries(tensors))
    if (!shapes[name].some((shape) => shape.length === dims.length && shape.every((n, i) => n === dims[i])))
      throw new Error(`${name} has shape [${dims}], expected [${shapes[name][0]}]`);
  if (!(D >= 1 && d >= 1)) throw new Error(`D, d = ${D}, ${d}, expected at least 1`);
  for (const [name, found] of Object.entries({ D, d, columns: C, keys, edits: document.edits.length })) limit(name, found);
  const tile = tensors.tile?.data ?? [], tiles = sites + tile.reduce((most, each) => Math.max(most, each), 0);
  if (tile.some((each) => each < 0)) throw new Error("a mask is of a tile below 0");
  if (tile.some((each) => each % sites)) throw new Error(`a mask's first tile is no multiple of the ${sites} sites`);
  limit("tiles", tiles);
  const end = tiles * D;
  const strictly = tensors.columns.data.every((column, i, all) => column > (i ? all[i - 1] : -1) && column < end);
  if (!strictly) throw new Error(`columns must rise strictly within 0..${end - 1}`);
  if (String(tensors.permutation.data.toSorted()) !== String(Array.from({ length: D }, (_, i) => i)))
    throw new Error(`the permutation does not hold each of 0..${D - 1} once`);
  checkWeights(coded ? "masks" : "bank", coded ? tensors.masks : tensors.bank, D, k);
  if (coded) checkCodes(document, tensors, rows);
  checkEdits(document, coded ? Array.from({ length: rows }, (_, i) => i) : primaryKeys(tensors.owner.data));
  if (scales.length) tensors.values.data = tensors.values.data.map((v, i) => v * tensors.scales.data[Math.floor(i / d)]);
  for (const name of ["values", "center", "scale", "thresholds"])
    if (!tensors[name].data.every(Number.isFinite)) throw new Error(`${name} holds NaN or infinity`);
  return tiles;
}

const ONES = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

/** Each row of a packed tensor has exactly so many ones, none of them beyond its bits. */
function checkWeights(name, { data, dims: [rows, width] }, bits, weight) {
  const [k, D] = name === "keys" ? ["weight", "P"] : ["k", "D"];
  if (!(weight >= 1 && weight <= bits)) throw new Error(`${k} is ${weight}, expected from 1 to ${D} = ${bits}`);
  const padding = bits % 8 ? (0xff << bits % 8) & 0xff : 0;
  for (let row = 0; row < rows; row++) {
    const end = (row + 1) * width;
    let found = 0;
    for (let at = end - width; at < end; at++) found += ONES[data[at]];
    if (found !== weight) throw new Error(`${name} row ${row} has ${found} bits set, expected ${k} = ${weight}`);
    if (data[end - 1] & padding) throw new Error(`${name} row ${row} has bits set beyond ${D} = ${bits}`);
  }
}

function checkCodes({ router, texts }, { keys, owner: { data: owner } }, rows) {
  if (router.kind !== "encoder") throw new Error(`router ${router.kind.slice(0, 80)}, known: encoder`);
  limit("P", router.bits);
  checkWeights("keys", keys, router.bits, router.weight);
  const stray = owner.findIndex((row) => row < -1 || row >= rows), owned = new Set(owner);
  if (stray >= 0) throw new Error(`key ${stray} has owner ${owner[stray]}, expected -1 or a row of masks`);
  for (let row = 0; row < rows; row++)
    if (!owned.has(row)) throw new Error(`masks row ${row} owns no key, expected at least one`);
  if (texts.length && texts.length !== owner.length) throw new Error(`${texts.length} texts of ${owner.length} keys`);
}

/** The rows that own themselves; every other is theirs or a guard's. */
function primaryKeys(owner) {
  const stray = owner.findIndex((row) => row !== -1 && owner[row] !== row);
  if (stray >= 0) throw new Error(`bank row ${stray} has owner ${owner[stray]}, expected -1 or the row of a primary key`);
  return Array.from(owner.keys()).filter((row) => owner[row] === row);
}

/** The edits stand on the rows that are theirs, one on each. */
function checkEdits({ edits, probes }, rows) {
  if (String(edits.map((edit) => edit.row).sort((a, b) => a - b)) !== String(rows))
    throw new Error(`${edits.length} edits and ${rows.length} primary keys or masks, not on the same rows`);
  const ids = new Set(edits.map((edit) => edit.id));
  if (ids.size < edits.length) throw new Error("two edits have the same id");
  const lost = probes.find(({ edit }) => edit !== null && !ids.has(edit));
  if (lost) throw new Error(`a probe names edit ${lost.edit.slice(0, 80)}, which is not there`);
}
