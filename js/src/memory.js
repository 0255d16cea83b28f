// A memory file, read and checked as docs/memory-format.md says, and as the ports of a graph take it.
// Knows nothing of sessions: a port is {type, data, dims}, whatever runs it.

const BYTES = { F32: 4, F16: 2, BF16: 2, I32: 4, I8: 1, U8: 1 };
const TYPES = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array, int64: BigInt64Array };
const NAMES = { F32: "float32", I32: "int32", U8: "uint8" };
const SHARED = ["center", "columns", "owner", "permutation", "scale", "thresholds", "values"];
// By routing feature: [times, share, more]. docs/ports.md says what they mean.
const MAX_TILES = 1024;
const SPANS = {
  mean: [0, 0, 0], last: [1, 0, 1], "last-two": [1, 0, 2], "later-half": [2, 1, 1],
  "mean-scaled": [0, 0, 0], "last-scaled": [1, 0, 1],
};

/** Read a memory file: what the ports take, who owns its keys, and what it says of itself. */
export async function readMemory(source) {
  const bytes = await bytesOf(source);
  const { header, body } = split(bytes);
  const said = header.__metadata__ ?? {};
  if (!("memoir_edge.memory" in said)) throw new Error("no memory: its metadata has no memoir_edge.memory");
  const format = said["memoir_edge.format"];
  if (!["1", "2", "3", "4"].includes(format))
    throw new Error(`the memory has format ${format}, this version reads 1, 2, 3 and 4`);
  const digest = await checkedDigest(bytes, said["memoir_edge.sha256"]);
  const document = JSON.parse(said["memoir_edge.memory"]);
  const tensors = Object.fromEntries(
    Object.entries(header).filter(([name]) => name !== "__metadata__")
      .map(([name, entry]) => [name, tensor(name, entry, body)]),
  );
  // Format 4 is any of the others, at several sites.
  const coded = format === "4" ? "masks" in tensors : format !== "1";
  const tiled = format === "4" ? coded && "tile" in tensors : format === "3";
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
  try {
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    return { header, body: bytes.subarray(8 + length) };
  } catch {
    throw new Error("no memory: its header is no JSON");
  }
}

function tensor(name, { dtype, shape, data_offsets: [begin, end] }, body) {
  const count = shape.reduce((product, n) => product * n, 1);
  if (!(dtype in BYTES)) throw new Error(`${name} is ${dtype}`);
  if (end - begin !== count * BYTES[dtype] || end > body.byteLength)
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

/** How many tiles of D columns there are. */
function check(document, tensors, coded, tiled, sites) {
  const { D, d, k, feature } = document, width = Math.ceil(D / 8);
  if (!(feature in SPANS)) throw new Error(`the memory's routing feature is ${feature}, which this version cannot form`);
  const scales = tensors.values?.dtype === "I8" ? ["scales"] : [];
  const expected = [...SHARED, coded ? "masks" : "bank", ...(coded ? ["keys"] : []), ...(tiled ? ["tile"] : []), ...scales]
    .sort();
  if (String(Object.keys(tensors).sort()) !== String(expected))
    throw new Error(`the memory holds ${Object.keys(tensors).sort()}, expected ${expected}`);
  const C = tensors.columns.dims[0], rows = (coded ? tensors.masks : tensors.bank).dims[0];
  const keys = coded ? tensors.keys.dims[0] : rows;
  const shapes = {
    columns: [[C]], values: [[C, d]], scales: [[C]], center: [[D]], scale: [[D]], permutation: [[D]],
    bank: [[rows, width]], masks: [[rows, width]], tile: [[rows]], owner: [[keys]], thresholds: coded ? [[keys]] : [[keys], [1]],
    keys: [[keys, Math.ceil((document.router?.bits ?? 0) / 8)]],
  };
  for (const [name, { dims }] of Object.entries(tensors))
    if (!shapes[name].some((shape) => String(shape) === String(dims)))
      throw new Error(`${name} has shape [${dims}], expected [${shapes[name][0]}]`);
  if (!(k >= 1 && k <= D)) throw new Error(`k is ${k}, expected from 1 to ${D}`);
  const tile = tensors.tile?.data ?? [], tiles = sites + tile.reduce((most, each) => Math.max(most, each), 0);
  if (tile.some((each) => each < 0)) throw new Error("a mask is of a tile below 0");
  if (tile.some((each) => each % sites)) throw new Error(`a mask's first tile is no multiple of the ${sites} sites`);
  if (tiles > MAX_TILES) throw new Error(`tiles: ${tiles}, at most ${MAX_TILES} are read`);
  const end = tiles * D;
  const strictly = tensors.columns.data.every((column, i, all) => column > (i ? all[i - 1] : -1) && column < end);
  if (!strictly) throw new Error(`columns must rise strictly within 0..${end - 1}`);
  if (String(tensors.permutation.data.toSorted()) !== String(Array.from({ length: D }, (_, i) => i)))
    throw new Error(`the permutation does not hold each of 0..${D - 1} once`);
  const owners = coded ? rows : keys;
  if (!tensors.owner.data.every((owner) => owner >= -1 && owner < owners)) throw new Error("an owner is no edit's row");
  if (scales.length) tensors.values.data = tensors.values.data.map((v, i) => v * tensors.scales.data[Math.floor(i / d)]);
  for (const name of ["values", "center", "scale", "thresholds"])
    if (!tensors[name].data.every(Number.isFinite)) throw new Error(`${name} holds NaN or infinity`);
  return tiles;
}
