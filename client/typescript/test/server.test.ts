// A real server: what the client can do, and that each step runs once whatever is cut or killed.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { Client, NotFoundError, type Session } from "../src/index.js";
import { CuttingProxy } from "./support/proxy.js";
import { hasServer, Server } from "./support/server.js";

const MODEL = "sunspots-gru";
const START_MS = 180_000;
const inputs = (count: number): Float32Array[] =>
  Array.from({ length: count }, (_, k) => Float32Array.of(Math.sin(k / 3)));

const bitsOf = (rows: readonly Float32Array[]): string =>
  Buffer.concat(rows.map((row) => Buffer.from(row.buffer, row.byteOffset, row.byteLength))).toString("hex");

const clientOf = (url: string): Client => new Client(url, { WebSocket });

async function collected(session: Session, rows: Float32Array[]): Promise<Float32Array[]> {
  const outputs: Float32Array[] = [];
  for await (const output of session.stream(rows)) outputs.push(output);
  return outputs;
}

describe.skipIf(!hasServer)("with a server (skipped where .venv has none)", () => {
  let server: Server;
  let client: Client;
  const rows = inputs(12);
  let expected: string;

  beforeAll(async () => {
    server = await Server.start();
    client = clientOf(server.url);
    expected = bitsOf(await client.infer(MODEL, Float32Array.from(rows.flatMap((row) => [...row]))));
  }, START_MS);

  afterAll(async () => {
    client?.close();
    await server?.stop();
  }, START_MS);

  test("lists its models", async () => {
    const model = (await client.models()).find((one) => one.name === MODEL);
    expect(model?.input).toMatchObject({ dtype: "float32", shape: [1] });
  });

  test("step, steps and stream give what the whole sequence gives", async () => {
    const one = await client.session(MODEL, { durability: "none" });
    const stepped: Float32Array[] = [];
    for (const row of rows) stepped.push(await one.step(row));
    expect(bitsOf(stepped)).toBe(expected);
    await one.close();
    const other = await client.session(MODEL);
    expect(bitsOf(await other.steps(rows))).toBe(expected);
    await other.close();
    const third = await client.session(MODEL);
    expect(bitsOf(await collected(third, rows))).toBe(expected);
    await third.close();
  });

  test("a reset starts from the initial state", async () => {
    const session = await client.session(MODEL);
    await session.steps(rows);
    const first = await session.step(rows[0] as Float32Array, { reset: true });
    expect(bitsOf([first])).toBe(expected.slice(0, 2 * first.byteLength));
    await session.close();
  });

  test("a session that was left is taken up by another client", async () => {
    const left = await client.session(MODEL);
    const head = await left.steps(rows.slice(0, 5));
    await left.detach();
    const other = clientOf(server.url);
    const session = await other.attach(left.id);
    const tail = await session.steps(rows.slice(5));
    expect(bitsOf([...head, ...tail])).toBe(expected);
    await session.close();
    other.close();
  });

  test("generates the same text with the same seed, token by token", async () => {
    const options = { prompt: "The ", maxTokens: 8, seed: 7 };
    const texts: string[] = [];
    for (let round = 0; round < 2; round += 1) {
      const tokens: string[] = [];
      for await (const token of client.generate("pychar-gru", options)) tokens.push(token.text);
      expect(tokens.length).toBe(8);
      texts.push(tokens.join(""));
    }
    expect(texts[0]).toBe(texts[1]);
  });

  test("errors have their class and reason", async () => {
    await expect(client.session("none-such")).rejects.toMatchObject({ reason: "MODEL_NOT_FOUND" });
    await expect(client.attach("none-such")).rejects.toBeInstanceOf(NotFoundError);
    const session = await client.session(MODEL);
    await expect(session.step(Float32Array.of(Number.NaN))).rejects.toMatchObject({
      reason: "INPUT_NOT_FINITE",
    });
    await expect(session.step(Float32Array.of(1, 2))).rejects.toMatchObject({ reason: "INPUT_SHAPE" });
    expect(bitsOf(await session.steps(rows))).toBe(expected); // neither has moved it
    await session.close();
    await expect(session.step(rows[0] as Float32Array)).rejects.toMatchObject({ reason: "SESSION_CLOSED" });
  });

  test("a cut at any byte loses no step and doubles none", { timeout: 4 * START_MS }, async () => {
    const proxy = await CuttingProxy.start(server.port);
    const run = async (): Promise<string> => {
      const cutClient = clientOf(proxy.url);
      const session = await cutClient.session(MODEL);
      const outputs = await collected(session, rows);
      await session.close();
      cutClient.close();
      return bitsOf(outputs);
    };
    expect(await run()).toBe(expected);
    const recorded = proxy.bytes;
    const stride = Math.max(1, Math.floor(recorded / 200));
    let cuts = 0;
    for (let offset = 1; offset < recorded; offset += stride) {
      proxy.cutAfter(offset);
      expect(await run(), `cut after ${offset} of ${recorded} bytes`).toBe(expected);
      cuts += proxy.cuts > 0 ? 1 : 0;
    }
    expect(cuts).toBeGreaterThan(150);
    proxy.stop();
  });
});

describe.skipIf(!hasServer)("with a store (skipped where .venv has none)", () => {
  test("kill -9 of the server loses no step and doubles none", { timeout: 4 * START_MS }, async () => {
    const directory = mkdtempSync(join(tmpdir(), "carousel-"));
    const store = ["--store", `sqlite:${join(directory, "store.db")}`];
    let server = await Server.start(...store);
    const port = `${server.port}`;
    const client = new Client(server.url, { WebSocket, reconnectS: 120 });
    const rows = inputs(600);
    const expected = bitsOf(await client.infer(MODEL, Float32Array.from(rows.flatMap((row) => [...row]))));
    const session = await client.session(MODEL, { id: "killed", durability: "async" });
    const outputs: Float32Array[] = [];
    const restarts: Promise<void>[] = [];
    for await (const output of session.stream(rows)) {
      outputs.push(output);
      if (outputs.length !== 100 && outputs.length !== 350) continue;
      await server.stop("SIGKILL");
      restarts.push(
        Server.start(...store, "--http-port", port).then((next) => {
          server = next;
        }),
      );
    }
    await Promise.all(restarts);
    expect(bitsOf(outputs)).toBe(expected);
    await session.close();
    client.close();
    await server.stop();
    rmSync(directory, { recursive: true });
  });
});
