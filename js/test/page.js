// A page in headless Chromium that can import the packages and read a folder's files.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const MODULES = "/js/node_modules";
const IMPORTS = {
  "@huggingface/transformers": `${MODULES}/@huggingface/transformers/dist/transformers.web.js`,
  "onnxruntime-common": `${MODULES}/onnxruntime-common/dist/esm/index.js`,
  "onnxruntime-web/webgpu": `${MODULES}/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs`,
  "memoir-edge": "/js/src/index.js",
};
const PAGE = `<!doctype html><script type="importmap">${JSON.stringify({ imports: IMPORTS })}</script>
<script type="module">
  import { env } from "@huggingface/transformers";
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: "/", useBrowserCache: false });
  Object.assign(env.backends.onnx.wasm, { wasmPaths: "${MODULES}/onnxruntime-web/dist/", numThreads: 1 });
</script>`;
const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json", ".wasm": "application/wasm" };

/** A page on which `folder` is the root of all addresses; `executablePath` is the browser. */
export async function open(folder, executablePath) {
  const server = http.createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    if (pathname === "/") return response.writeHead(200, { "content-type": "text/html" }).end(PAGE);
    const file = pathname.startsWith("/js/") ? path.join(ROOT, pathname.slice(4)) : path.join(folder, pathname);
    if (!fs.existsSync(file) || !fs.statSync(file).isFile()) return response.writeHead(404).end();
    const type = TYPES[path.extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { "content-type": type, "content-length": fs.statSync(file).size });
    return request.method === "HEAD" ? response.end() : fs.createReadStream(file).pipe(response);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(error));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  return { page, close: () => Promise.all([browser.close(), server.close()]) };
}
