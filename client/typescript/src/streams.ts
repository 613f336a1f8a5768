// The core's hands: WebSockets and timers. It has no decision of its own.

import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { AttachCore } from "./core/attach.js";
import { lostError } from "./core/bindings.js";
import type { Effects } from "./core/link.js";
import { CarouselError, ClientSideError } from "./errors.js";
import {
  AttachRequestSchema,
  type AttachResponse,
  AttachResponseSchema,
} from "./gen/carousel_protos/v1/carousel_pb.js";
import type { Socket, Target } from "./options.js";
import { problemError } from "./status.js";

/** The clock of all events, in seconds. */
export const nowS = (): number => performance.now() / 1000;

type Timer = ReturnType<typeof setTimeout>;

/** Longest time that a timer takes, in ms. */
const LONGEST_MS = 2 ** 31 - 1;

/** Opens streams to a server and moves the core's messages. */
export class Streams {
  private socket: Socket | undefined;
  private opening: Timer | undefined;
  private waking: Timer | undefined;

  constructor(
    private readonly core: AttachCore,
    private readonly target: Target,
  ) {}

  /** Does what the core asks for. */
  apply(effects: Effects): void {
    for (const messages of effects.send.values()) {
      for (const message of messages) this.socket?.send(toBinary(AttachRequestSchema, message));
    }
    for (const pauseS of effects.connect.values()) {
      clearTimeout(this.opening);
      this.opening = setTimeout(() => this.open(), pauseS * 1000);
    }
    this.wakeLater();
    for (const ticket of effects.ended) ticket.wake();
  }

  /** Ends the stream, and all timers. */
  close(): void {
    clearTimeout(this.opening);
    clearTimeout(this.waking);
    const { socket } = this;
    this.socket = undefined;
    if (socket !== undefined) hangUp(socket);
  }

  private wakeLater(): void {
    clearTimeout(this.waking);
    const dueS = this.core.nextDueS;
    if (dueS === undefined) return;
    const pauseMs = Math.min(Math.max(Math.ceil((dueS - nowS()) * 1000), 0), LONGEST_MS);
    this.waking = setTimeout(() => this.apply(this.core.due(nowS())), pauseMs);
  }

  private open(): void {
    let socket: Socket;
    try {
      socket = this.target.open();
    } catch (error) {
      this.broken(error instanceof CarouselError ? error : lostError(String(error)));
      return;
    }
    this.socket = socket;
    let last: CarouselError | undefined;
    const mine = () => this.socket === socket;
    socket.onopen = () => {
      if (mine()) this.apply(this.core.connected(this.target.attach));
    };
    socket.onmessage = ({ data }: { data: ArrayBuffer | string }) => {
      if (!mine()) return;
      if (typeof data === "string") last = problemError(data);
      else this.receive(socket, new Uint8Array(data));
    };
    socket.onclose = ({ code }: { code: number }) => {
      if (mine()) this.broken(last ?? lostError(`the WebSocket to ${this.target.attach} ended with ${code}`));
    };
    socket.onerror = () => {}; // a close event follows
  }

  private receive(socket: Socket, frame: Uint8Array): void {
    let effects: Effects;
    try {
      effects = this.core.receive(this.target.attach, parsed(frame), nowS());
    } catch (error) {
      if (!(error instanceof CarouselError)) throw error;
      hangUp(socket);
      this.broken(error);
      return;
    }
    this.apply(effects);
  }

  private broken(error: CarouselError): void {
    this.socket = undefined;
    this.apply(this.core.broken(this.target.attach, error, nowS()));
  }
}

function parsed(frame: Uint8Array): AttachResponse {
  try {
    return fromBinary(AttachResponseSchema, frame);
  } catch (error) {
    throw new ClientSideError("PROTOCOL_VIOLATION", `a frame is no AttachResponse: ${error}`);
  }
}

function hangUp(socket: Socket): void {
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.onerror = () => {};
  socket.close(1000);
}
