// Serves page.mjs to a headless Chromium of its own, and prints the lines that the page tells.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";

const script = readFileSync(0, "utf8");
const { page_port } = JSON.parse(script);
const profile = mkdtempSync(join(tmpdir(), "hubbub-chromium-"));
const content = {
  "/": ["text/html", '<!doctype html><meta charset="utf-8"><script type="module" src="/page.js"></script>'],
  "/page.js": ["text/javascript", readFileSync("page.js")],
  "/script": ["application/json", script],
};

const server = createServer(async (request, response) => {
  const [type, body] = content[request.url] ?? ["text/plain", ""];
  response.setHeader("content-type", type);
  if (request.method !== "POST") return response.end(body);
  const said = await text(request);
  response.end();
  if (request.url === "/line") console.log(said);
  if (request.url === "/end") end(Number(said));
});

server.listen(page_port, "127.0.0.1");
const chromium = spawn(
  process.argv[2],
  [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr", // what the page logs
    `--user-data-dir=${profile}`,
    `http://127.0.0.1:${page_port}/`,
  ],
  { stdio: ["ignore", "ignore", "inherit"] },
);
const gone = new Promise((resolve) => chromium.on("exit", resolve));
chromium.on("exit", () => end(1));

let ending = false;
async function end(code) {
  if (ending) return;
  ending = true;
  chromium.kill();
  await gone;
  rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
  process.exit(code);
}
process.on("SIGTERM", () => end(1));
