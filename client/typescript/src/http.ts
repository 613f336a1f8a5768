// Calls of the HTTP door, and its streams of events.

import { type CarouselError, ClientSideError } from "./errors.js";
import type { CallOptions, Target } from "./options.js";
import { problemError } from "./status.js";

export const RAW = "application/octet-stream";
export const JSON_TYPE = "application/json";

/** A call of the HTTP door. */
export interface HttpCall extends CallOptions {
  readonly method?: "GET" | "POST";
  readonly headers?: Record<string, string>;
  readonly body?: string | Uint8Array<ArrayBuffer>;
}

/** Sends a call. Throws the error of its problem details, or SERVER_UNREACHABLE. */
export async function call(target: Target, path: string, options: HttpCall = {}): Promise<Response> {
  const { method = "GET", headers = {}, body, signal } = options;
  let response: Response;
  try {
    response = await fetch(target.api + path, {
      method,
      headers: { ...target.headers, ...headers },
      ...(body === undefined ? {} : { body }),
      ...(signal === undefined ? {} : { signal }),
    });
  } catch (error) {
    signal?.throwIfAborted();
    throw unreachable(target, error);
  }
  if (!response.ok) throw problemOf(response.status, await response.text());
  return response;
}

/** The data of each server-sent event. An event named `error`, or without an end, throws. */
export async function* events(response: Response): AsyncGenerator<unknown, void, void> {
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const decoder = new TextDecoder();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer += decoder.decode(value, { stream: true });
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop() ?? "";
      for (const block of blocks) yield dataOf(block, response.status);
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function dataOf(block: string, status: number): unknown {
  let name = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice("event: ".length);
    if (line.startsWith("data: ")) data += line.slice("data: ".length);
  }
  if (name === "error") throw problemOf(status, data);
  return JSON.parse(data);
}

function problemOf(status: number, text: string): CarouselError {
  return (
    problemError(text) ??
    new ClientSideError("PROTOCOL_VIOLATION", `HTTP ${status} without problem details: ${text.slice(0, 200)}`)
  );
}

function unreachable(target: Target, error: unknown): ClientSideError {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
  return new ClientSideError("SERVER_UNREACHABLE", `${target.api}: ${cause}`, { code: "UNAVAILABLE" });
}
