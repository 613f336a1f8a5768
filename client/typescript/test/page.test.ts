// The page of the examples in a real browser, where one is installed.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { expect, test } from "vitest";
import { hasServer, Server } from "./support/server.js";

const here = resolve(import.meta.dirname, "..");
const TYPES: Record<string, string> = { ".html": "text/html", ".js": "text/javascript" };

/** Tells the test what the page shows. */
const REPORT = `<script>
  const report = setInterval(() => {
    const { value } = document.getElementById("output");
    if (value === "none yet") return;
    clearInterval(report);
    fetch("/shown", { method: "POST", body: value });
  }, 50);
</script>`;

function later<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => {});
  return { promise, resolve, reject };
}

function browser(): string | undefined {
  return ["chromium", "google-chrome"].find((name) => {
    try {
      return execFileSync(name, ["--version"], { stdio: "pipe" }).length > 0;
    } catch {
      return false;
    }
  });
}

const chromium = browser();

test.skipIf(!hasServer || chromium === undefined)(
  "the page steps a session (skipped without server and Chromium)",
  {
    timeout: 240_000,
  },
  async () => {
    execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"], {
      cwd: here,
    });
    const shown = later<string>();
    const files = createServer(async (request, response) => {
      const path = new URL(request.url ?? "/", "http://localhost").pathname;
      if (path === "/shown") {
        shown.resolve(await text(request));
        response.end();
        return;
      }
      try {
        const body = readFileSync(join(here, path));
        response.setHeader("content-type", TYPES[extname(path)] ?? "text/plain");
        response.end(path.endsWith(".html") ? body + REPORT : body);
      } catch {
        response.writeHead(404).end();
      }
    });
    files.listen(0, "127.0.0.1");
    await once(files, "listening");
    const origin = `http://127.0.0.1:${(files.address() as AddressInfo).port}`;
    const server = await Server.start("--http-cors-origins", origin);
    const profile = mkdtempSync(join(tmpdir(), "carousel-page-"));
    let running: ChildProcess | undefined;
    try {
      const page = `${origin}/examples/page.html?server=${server.url}`;
      const flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        `--user-data-dir=${profile}`,
      ];
      running = spawn(chromium as string, [...flags, page], { stdio: "ignore" });
      running.once("exit", (code) => shown.reject(new Error(`the browser ended with ${code}`)));
      expect(await shown.promise).toMatch(/^-?\d+\.\d{4}$/);
    } finally {
      if (running?.kill()) await once(running, "exit");
      await server.stop();
      files.close();
      rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    }
  },
);
