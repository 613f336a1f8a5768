// WebSockets without a network: the test plays the server.

import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  type AttachRequest,
  AttachRequestSchema,
  AttachResponseSchema,
} from "../../src/gen/carousel_protos/v1/carousel_pb.js";

type Told = NonNullable<MessageInitShape<typeof AttachResponseSchema>["event"]>;

/** A WebSocket that a test feeds. `all` has those that were made, in order. */
export class FakeSocket {
  static all: FakeSocket[] = [];
  binaryType = "blob";
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;
  onerror: (() => void) | null = null;
  readonly sent: AttachRequest[] = [];
  closed = false;

  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {
    FakeSocket.all.push(this);
  }

  send(data: Uint8Array): void {
    this.sent.push(fromBinary(AttachRequestSchema, data));
  }

  close(): void {
    this.closed = true;
  }

  /** The server sends a message. */
  tell(event: Told): void {
    const frame = toBinary(AttachResponseSchema, create(AttachResponseSchema, { event }));
    this.onmessage?.({ data: frame.slice().buffer });
  }

  /** The server welcomes the client, and binds its session. */
  bind(handle: number, id = "a"): void {
    this.onopen?.();
    this.tell({ case: "welcome", value: { maxHandles: 10, maxMessageBytes: 1 << 20 } });
    const session = { id, model: "m", epoch: 1n, windowSteps: 4, durability: 1, seed: 5n };
    this.tell({ case: "bound", value: { handle, session } });
  }

  /** The steps that were sent, by number. */
  get steps(): bigint[] {
    const blocks = this.sent.flatMap(({ event }) => (event.case === "block" ? [event.value] : []));
    return blocks.flatMap(({ firstSeqs, steps }) =>
      Array.from({ length: steps }, (_, k) => (firstSeqs[0] ?? 0n) + BigInt(k)),
    );
  }

  /** The server answers steps with their numbers as outputs. */
  answer(handle: number, first: bigint, steps: number): void {
    const numbers = Float32Array.from({ length: steps }, (_, k) => Number(first) + k);
    const outputs = new Uint8Array(numbers.buffer);
    this.tell({ case: "outputs", value: { handles: [handle], firstSeqs: [first], steps, outputs } });
  }
}
