// Memories of memoir-edge in JavaScript. Knows nothing of how they are made.
export { edit } from "./edit.js";
export { emptyPorts, readMemory } from "./memory.js";
export { Router } from "./router.js";
export { attach } from "./session.js";
