// Generated files are those that the generators make now, and the example does what the README says.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { TRANSITIONS } from "../src/core/lifecycle.js";
import { VERSION } from "../src/version.js";
import { hasServer, Server } from "./support/server.js";

const here = resolve(import.meta.dirname, "..");
const node = (...args: string[]) => execFileSync(process.execPath, args, { cwd: here, encoding: "utf8" });

function filesOf(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".ts"),
  );
  return Object.fromEntries(names.sort().map((name) => [name, readFileSync(join(folder, name), "utf8")]));
}

test("src/gen is made of the present .proto files", { timeout: 120_000 }, () => {
  const made = mkdtempSync(join(tmpdir(), "carousel-gen-"));
  node("generate.mjs", made);
  expect(filesOf(made)).toEqual(filesOf(join(here, "src/gen")));
  rmSync(made, { recursive: true });
});

test("the version is that of the package", () => {
  expect(JSON.parse(readFileSync(join(here, "package.json"), "utf8")).version).toBe(VERSION);
});

test("every phase is reached, and ends", () => {
  const phases = Object.keys(TRANSITIONS);
  const reached = new Set(Object.values(TRANSITIONS).flatMap((row) => Object.values(row)));
  expect(phases.filter((phase) => !reached.has(phase as never))).toEqual([]);
  for (const [phase, row] of Object.entries(TRANSITIONS)) {
    if (phase !== "GONE" && phase !== "UNDONE") expect(row.END).toBe("GONE");
  }
});

test.skipIf(!hasServer)(
  "the Node example runs on the built package (skipped where .venv has no server)",
  {
    timeout: 240_000,
  },
  async () => {
    node("node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json");
    const server = await Server.start();
    try {
      const lines = node("examples/node.mjs", server.url, "sunspots-gru").trim().split("\n");
      expect(lines.length).toBe(5);
      expect(lines.map(Number).every(Number.isFinite)).toBe(true);
    } finally {
      await server.stop();
    }
  },
);
