/** A tensor for a port, independent of what runs it. */
export interface Port {
  type: "float32" | "int32" | "uint8" | "int64";
  data: Float32Array | Int32Array | Uint8Array | BigInt64Array;
  dims: number[];
}

/** A memory file, read. */
export interface Memory {
  /** What the file says of itself: docs/memory-format.md. */
  document: {
    site: string; sites?: string[]; feature: string; D: number; d: number; k: number;
    base: { model_id: string; digest: string | null; former?: string[] };
    edits: { id: string; row: number; record?: object | null }[];
    router?: { kind: string; digest: string; bits: number; weight: number };
    [name: string]: unknown;
  };
  /** SHA-256 of the file; null on a page without https, where damage cannot be found either. */
  digest: string | null;
  /** By input name; values are float32, whatever the file holds. */
  ports: Record<string, Port>;
  /** Module paths of the layers that it edits, in the model's order. */
  sites: string[];
  /** How many tiles of columns it has: a graph of an earlier version takes one. */
  tiles: number;
  /** Of a memory with codes, what its router compares with; otherwise null. */
  keys: { bank: Port; owner: Port; thresholds: Port } | null;
  /** Ids of the edits by the row of their mask. */
  edits: Map<number, string>;
}

/** What a memory can be read from. */
export type Source = Uint8Array | ArrayBuffer | Blob | Response;

/** Read and check a memory file of format 1, 2, 3 or 4. Throws an Error that says what is wrong. */
export function readMemory(source: Source): Promise<Memory>;

/** The empty memory: with it a graph answers as the base model. D and d are the site's widths. */
export function emptyPorts(D: number, d: number): Record<string, Port>;

/** An onnxruntime session, of onnxruntime-node or onnxruntime-web. */
export interface Session {
  inputNames: readonly string[];
  inputMetadata: readonly { name: string; shape?: readonly (number | string)[] }[];
  run(inputs: Record<string, any>, ...rest: any[]): Promise<Record<string, any>>;
}

/**
 * Wrap a session whose graph has required ports: what is returned takes a decoder's inputs alone and
 * feeds the ports itself. `state.memory` is what prompts begin with. With `made`, memoir_edge.json, rows that
 * the graph would not read as they are padded are refused.
 */
export function attach(session: Session, memory?: Memory | null, made?: object | null): {
  session: Session;
  state: {
    memory: Memory | null;
    /** For the next prompts alone: routes `[B]`, and which tokens count `[B, T]` or null. */
    given: { memory: Memory | null; route: BigInt64Array; span: BigInt64Array | null } | null;
    /** Of the last prompts. */
    decided: {
      memory: Memory | null; route: BigInt64Array; overlap: Float32Array; candidate: BigInt64Array;
    } | null;
  };
};

/** Which edit gave an answer. */
export interface Routing {
  /** Its id; null: the base model. */
  edit: string | null;
  /** With the nearest key, 0 to 1. */
  overlap: number;
  /** The overlap from which that key answers. */
  threshold: number | null;
  /** Whose key that is; null: a guard's. */
  candidate: string | null;
  /** Of the memory. */
  digest: string | null;
}

export type Chat = { role: string; content: string | { type: string; [name: string]: unknown }[] }[];
export type Answer = { generated_text: string | Chat; routing: Routing };

/** A pipeline that answers with memories. */
export interface Edited {
  readonly pipeline: any;
  readonly memory: Memory | null;
  swap(memory: Memory | Source | null): Promise<Memory | null>;
  generate(prompt: string | Chat, options?: object): Promise<Answer[]>;
  generate(prompts: string[] | Chat[], options?: object): Promise<Answer[][]>;
}

/** Let a transformers.js text-generation pipeline, whose graph has required ports, take memories. */
export function edit(pipeline: any, options?: { made?: object | null; router?: Router | null }): Edited;

/** The router beside a graph, for memories whose keys are codes. */
export class Router {
  constructor(options: {
    ort: any;
    encoder: Session;
    route: Session;
    tokenize: (text: string) => number[];
    made: { kind: string; digest: string; bits: number; weight: number; max_tokens: number };
    /** `model.vocab` of tokenizer.json, token to id or Unigram's pairs; without it typos stay as they are typed. */
    vocabulary?: Record<string, number> | [token: string, score: number][] | null;
  });
  fits(memory: Memory): boolean;
  decide(texts: string[], memory: Memory): Promise<{ route: bigint; overlap: number; candidate: number }[]>;
}
