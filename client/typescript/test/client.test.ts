// The client around the core: waiting, giving up, bounds, and errors. No server, no network.

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { CarouselError, Client, type Session } from "../src/index.js";
import { FakeSocket } from "./support/sockets.js";

const MODEL = {
  name: "m",
  input: { name: "x", dtype: "float32", shape: [1] },
  outputs: [{ name: "y", dtype: "float32", shape: [1] }],
};

const json = (value: unknown, status = 200) => new Response(JSON.stringify(value), { status });

let calls: { url: string; init: RequestInit }[];
let answer: () => Response;
let clients: Client[];

beforeEach(() => {
  FakeSocket.all = [];
  calls = [];
  clients = [];
  answer = () => json(MODEL);
  vi.stubGlobal("fetch", async (url: string, init: RequestInit) => {
    calls.push({ url, init });
    return answer();
  });
});

afterEach(() => {
  for (const client of clients) client.close();
  vi.unstubAllGlobals();
});

function clientOf(options = {}): Client {
  const client = new Client("ws://host:8080/", { WebSocket: FakeSocket, ...options });
  clients.push(client);
  return client;
}

/** The newest WebSocket, once there are so many. */
async function socketOf(count = 1): Promise<FakeSocket> {
  await vi.waitFor(() => expect(FakeSocket.all.length).toBe(count), { timeout: 30_000 });
  return FakeSocket.all.at(-1) as FakeSocket;
}

async function opened(client: Client): Promise<[Session, FakeSocket]> {
  const session = client.session("m", { id: "a", durability: "none" });
  const socket = await socketOf();
  socket.bind(1);
  return [await session, socket];
}

describe("the connection", () => {
  test("goes to the server's attach, with the token as a subprotocol", async () => {
    const [, socket] = await opened(clientOf({ token: "tök/en" }));
    expect(socket.url).toBe("ws://host:8080/api/attach");
    const encoded = Buffer.from("tök/en").toString("base64url");
    expect(socket.protocols).toEqual(["carousel.v1", `carousel.bearer.${encoded}`]);
    expect(socket.binaryType).toBe("arraybuffer");
    expect(calls[0]?.url).toBe("http://host:8080/api/models/m");
    expect(calls[0]?.init.headers).toMatchObject({ authorization: "Bearer tök/en" });
  });

  test("says what to install where there is no WebSocket", async () => {
    vi.stubGlobal("WebSocket", undefined);
    const client = clientOf({ WebSocket: undefined });
    await expect(client.session("m")).rejects.toThrow(/npm install ws/);
  });

  test.each(["host:8080", "ftp://host", "nonsense"])("refuses the URL %s", (url) => {
    expect(() => new Client(url)).toThrow(/no URL such as/);
  });

  test("a session goes on over the next stream, and each step runs once", async () => {
    const [session, first] = await opened(clientOf());
    const outputs = session.steps([1, 2, 3]);
    expect(first.steps).toEqual([1n, 2n, 3n]);
    first.answer(1, 1n, 1);
    first.onclose?.({ code: 1006 });
    const second = await socketOf(2);
    second.onopen?.();
    const bind = second.sent[1]?.event;
    expect(bind).toMatchObject({ case: "bind", value: { epochFloor: 1n, target: { value: "a" } } });
    const bound = { id: "a", model: "m", epoch: 1n, applied: 2n, windowSteps: 4, durability: 1, seed: 5n };
    second.tell({ case: "bound", value: { handle: 1, session: bound } });
    expect(second.steps).toEqual([3n]);
    second.answer(1, 2n, 2);
    expect((await outputs).map((row) => row[0])).toEqual([1, 2, 3]);
  });

  test("an old socket's late frames are not read", async () => {
    const [session, first] = await opened(clientOf());
    const { onmessage, onclose } = first;
    onclose?.({ code: 1006 });
    await socketOf(2);
    onmessage?.({ data: "not even a message" });
    onclose?.({ code: 1006 });
    expect(session.received).toBe(0n);
    expect(FakeSocket.all.length).toBe(2);
  });

  test("a frame that is no message breaks the stream off", async () => {
    const [, first] = await opened(clientOf());
    first.onmessage?.({ data: Uint8Array.of(255, 255, 255).buffer });
    expect(first.closed).toBe(true);
  });

  test("problem details of the last frame are the error", async () => {
    const session = clientOf().session("m");
    const caught = session.catch((error) => error);
    const socket = await socketOf();
    const problem = { reason: "TOKEN_INVALID", detail: "no token", request_id: "r1" };
    socket.onmessage?.({ data: JSON.stringify(problem) });
    socket.onclose?.({ code: 4016 });
    const error = await caught;
    expect(error).toMatchObject({ name: "UnauthorizedError", reason: "TOKEN_INVALID", requestId: "r1" });
    expect(error.message).toMatch(/fix: /);
  });
});

describe("calls", () => {
  test("overlap, and end in order", async () => {
    const [session, socket] = await opened(clientOf());
    const outputs = Promise.all([session.step([1]), session.step([2])]);
    socket.answer(1, 1n, 2);
    expect((await outputs).map(([value]) => value)).toEqual([1, 2]);
  });

  test("an aborted step rejects with the signal's reason, and the next output is not its", async () => {
    const [session, socket] = await opened(clientOf());
    const stop = new AbortController();
    const given = session.step([1], { signal: stop.signal });
    stop.abort(new Error("enough"));
    await expect(given).rejects.toThrow("enough");
    const next = session.step([2]);
    socket.answer(1, 1n, 2);
    expect((await next)[0]).toBe(2);
    await expect(session.step([3], { signal: stop.signal })).rejects.toThrow("enough");
    expect(socket.steps).toEqual([1n, 2n]);
  });

  test("an aborted opening gives the session back", async () => {
    const stop = new AbortController();
    const session = clientOf().session("m", { signal: stop.signal });
    const caught = expect(session).rejects.toThrow("enough");
    const socket = await socketOf();
    socket.onopen?.();
    stop.abort(new Error("enough"));
    await caught;
    expect(socket.sent.at(-1)?.event.case).toBe("unbind");
  });

  test("a stream takes no more rows than fit the window", async () => {
    const [session, socket] = await opened(clientOf());
    let taken = 0;
    function* rows() {
      for (; taken < 100; ) {
        taken += 1;
        yield [taken];
      }
    }
    const outputs = session.stream(rows());
    const first = outputs.next();
    await vi.waitFor(() => expect(socket.steps.length).toBe(4));
    socket.answer(1, 1n, 1);
    expect((await first).value?.[0]).toBe(1);
    expect(taken).toBeLessThanOrEqual(6);
    await outputs.return();
    expect(taken).toBeLessThan(100);
  });

  test("a stream throws what its rows throw, after the outputs before it", async () => {
    const [session, socket] = await opened(clientOf());
    async function* rows() {
      yield [1];
      throw new Error("the microphone is gone");
    }
    const outputs = session.stream(rows());
    const first = outputs.next();
    await vi.waitFor(() => expect(socket.steps).toEqual([1n]));
    socket.answer(1, 1n, 1);
    expect((await first).value?.[0]).toBe(1);
    await expect(outputs.next()).rejects.toThrow("microphone");
  });

  test("rows of a wrong size or type send nothing", async () => {
    const [session, socket] = await opened(clientOf());
    await expect(session.step([1, 2])).rejects.toMatchObject({ reason: "INPUT_SHAPE" });
    await expect(session.step(Int32Array.of(1))).rejects.toMatchObject({ reason: "INPUT_DTYPE" });
    await expect(session.steps([])).rejects.toMatchObject({ reason: "INPUT_SHAPE" });
    await expect(session.steps([1, 2], { resets: [true] })).rejects.toMatchObject({ reason: "INPUT_SHAPE" });
    expect(socket.steps).toEqual([]);
  });

  test("closing the client ends what waits, and later calls", async () => {
    const client = clientOf();
    const [session, socket] = await opened(client);
    const waiting = session.step([1]).catch((error) => error);
    client.close();
    expect(await waiting).toMatchObject({ reason: "CLIENT_CLOSED" });
    await expect(session.step([1])).rejects.toMatchObject({ reason: "CLIENT_CLOSED" });
    await expect(client.session("m")).rejects.toMatchObject({ reason: "CLIENT_CLOSED" });
    expect(socket.closed).toBe(true);
  });
});

describe("HTTP", () => {
  const sse =
    (...texts: string[]) =>
    () =>
      new Response(texts.join(""), { status: 200 });

  test("a refusal has its reason", async () => {
    answer = () => json({ reason: "MODEL_NOT_FOUND", detail: "no model x" }, 404);
    const caught = await clientOf()
      .infer("x", [1])
      .catch((error) => error);
    expect(caught).toMatchObject({ name: "NotFoundError", reason: "MODEL_NOT_FOUND", code: "NOT_FOUND" });
  });

  test("tokens come as events", async () => {
    const token = (id: number) => `data: {"tokens":[{"id":${id},"text":"t","seq":${id}}]}\n\n`;
    answer = sse(token(1), token(2), 'data: {"tokens":[],"finish_reason":"length"}\n\n');
    const ids: number[] = [];
    for await (const { id } of clientOf().generate("m", { prompt: "p", maxTokens: 2 })) ids.push(id);
    expect(ids).toEqual([1, 2]);
    expect(JSON.parse(String(calls[0]?.init.body))).toEqual({ stream: true, prompt: "p", max_tokens: 2 });
  });

  test.each([
    ["an error event", 'event: error\ndata: {"reason":"DRAINING","detail":"it stops"}\n\n', "DRAINING"],
    ["an end too soon", 'data: {"tokens":[]}\n\n', "CONNECTION_LOST"],
  ])("a generation throws on %s", async (_, text, reason) => {
    answer = sse(text);
    const caught = await clientOf()
      .generate("m", { prompt: "p" })
      .next()
      .catch((error) => error);
    expect(caught).toBeInstanceOf(CarouselError);
    expect(caught.reason).toBe(reason);
  });
});
