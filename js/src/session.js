// An onnxruntime session with required ports, wrapped so that it looks like one without any.
// Each run's route is found by the cache that is handed back with it, so answers may be interleaved.
import { emptyPorts } from "./memory.js";

const CACHE = /^past_key_values\./;

/**
 * Wrap a session. What is returned stands in for it; `state.memory` may be exchanged at any time:
 * an answer goes on with the memory that it began with.
 *
 * @param made memoir_edge.json, parsed: rows that the graph would not read as they are padded are then refused
 */
export function attach(session, memory = null, made = null) {
  const shapes = new Map(session.inputMetadata.map((each) => [each.name, each.shape]));
  if (!shapes.has("memory.values"))
    throw new Error(
      "the graph lists no memory.* inputs: it would answer as the base model. " +
        "Export it with --ports required, or by memoir-edge package web",
    );
  const nothing = emptyPorts(shapes.get("memory.center")[0], shapes.get("memory.values")[1]);
  const state = { memory, given: null, decided: null };
  const begun = new WeakMap(); // a cache's first tensor -> {memory, route}
  const first = session.inputNames.find((name) => CACHE.test(name));
  const takes = (name) => session.inputNames.includes(name);

  async function run(inputs, ...rest) {
    const Tensor = inputs.input_ids.constructor; // the host's own
    const [B, T] = inputs.input_ids.dims;
    if (made?.padding_side === "right" && padsLeft(inputs.attention_mask))
      throw new Error("the graph reads rows flush left, these are padded there: ask one at a time, or by generate");
    const before = T === 1 ? begun.get(inputs[first]) : undefined;
    const { memory, route, span } = before ?? begin(state, B);
    if (memory?.tiles > 1 && !takes("memory.tile"))
      throw new Error(`the memory has ${memory.tiles} tiles of columns, the graph takes one: export it again`);
    const found = await session.run(
      {
        ...inputs,
        ...tensors(memory?.ports ?? nothing, Tensor, takes),
        "memory.route": new Tensor("int64", route, [B]),
        "memory.span": span ? new Tensor("int64", span, [B, T]) : new Tensor("int64", BigInt64Array.of(-1n), [1, 1]),
      },
      ...rest,
    );
    const decided = (await read(found["memory.route_out"])).slice();
    begun.set(found[first.replace("past_key_values", "present")], { memory, route: decided });
    if (before === undefined)
      state.decided = {
        memory, route: decided,
        overlap: (await read(found["memory.overlap"])).slice(),
        candidate: (await read(found["memory.candidate"])).slice(),
      };
    return found;
  }

  const visible = session.inputNames.filter((name) => !name.startsWith("memory."));
  const shown = new Proxy(session, {
    get: (target, name) => {
      if (name === "run") return run;
      if (name === "inputNames") return visible;
      if (name === "inputMetadata") return target.inputMetadata.filter((each) => visible.includes(each.name));
      return typeof target[name] === "function" ? target[name].bind(target) : target[name];
    },
  });
  return { session: shown, state };
}

/** Whether any row begins with padding. */
const padsLeft = ({ data, dims: [B, T] }) => Array.from({ length: B }, (_, i) => data[i * T]).some((each) => Number(each) === 0);

/** What a prompt begins with: the memory of now, and the route and span that were given for it. */
function begin(state, B) {
  const given = state.given?.route.length === B ? state.given : null;
  state.given = null;
  const memory = given ? given.memory : state.memory;
  const base = memory === null ? -1n : 0n;
  return { memory, route: given?.route ?? new BigInt64Array(B).fill(base), span: given?.span ?? null };
}

// Made once for each memory: a tensor of the host is only a view.
const made = new WeakMap();

function tensors(ports, Tensor, takes) {
  if (!made.has(ports))
    made.set(ports, Object.entries(ports).map(([n, p]) => [n, new Tensor(p.type, p.data, p.dims)]));
  // A graph of an earlier version has not every port.
  return Object.fromEntries(made.get(ports).filter(([name]) => takes(name)));
}

const read = async (tensor) => (tensor.location === "gpu-buffer" ? tensor.getData() : tensor.data);
