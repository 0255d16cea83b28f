// Two small drawings: an overlap on its scale, and a line of what was measured lately.

import { h, svg, share } from "./dom.js";

/** How near a prompt came to the nearest key: a bar from 0 to 1 with the threshold marked. */
export function scale(overlap, threshold, fired) {
  const label = `overlap ${share(overlap)}, threshold ${share(threshold)}`;
  return h("figure", { class: "scale" },
    svg("svg", { viewBox: "0 0 100 13", role: "img", "aria-label": label },
      svg("rect", { class: "track", x: 0, y: 5.5, width: 100, height: 2, rx: 1 }),
      svg("rect", { class: fired ? "fill fires" : "fill", x: 0, y: 5.5, width: 100 * overlap, height: 2, rx: 1 }),
      svg("path", { class: "limit", d: `M${100 * threshold} 3.2v6.6` }),
      svg("circle", { class: fired ? "dot fires" : "dot", cx: 100 * overlap, cy: 6.5, r: 1.7 })),
    h("figcaption", {},
      h("span", {}, "overlap ", h("b", {}, share(overlap))),
      h("span", {}, "threshold ", h("b", {}, share(threshold)))));
}

/** A line over time, its highest value at the top. */
export function line(name, values) {
  const top = Math.max(...values, 1e-9);
  const points = values.map((value, i) => `${(100 * i) / Math.max(values.length - 1, 1)},${29 - (26 * value) / top}`);
  return svg("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img",
    "aria-label": `${name}, the last ${values.length} seconds` },
    svg("polyline", { points: points.join(" ") }));
}
