// What a client can be told, and where the doors of its server are.

import { DEFAULT_POLICY, type RetryPolicy } from "./core/link.js";
import { CarouselError, ClientSideError } from "./errors.js";

/** The part of a WebSocket that this client uses. */
export interface Socket {
  binaryType: string;
  readonly readyState: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

/** Makes a WebSocket: that of browsers, or `WebSocket` of the package ws. */
export type SocketMaker = new (url: string, protocols: string[]) => Socket;

export interface ClientOptions {
  /** The bearer token that the operator gave you. */
  readonly token?: string;
  /** The WebSocket class; by default globalThis.WebSocket, which Node 20 lacks. */
  readonly WebSocket?: unknown;
  /** How long a session looks for its server after a break, in seconds; 0 gives up at once. */
  readonly reconnectS?: number;
}

/** Options of one call. */
export interface CallOptions {
  /** Ends the wait. A step that was sent still runs once. */
  readonly signal?: AbortSignal | undefined;
}

const PROTOCOL = "carousel.v1";
const BEARER = "carousel.bearer.";

/** The URLs of a server, and how to speak to them. */
export class Target {
  readonly attach: string;
  readonly api: string;
  readonly policy: RetryPolicy;
  private readonly token: string | undefined;
  private readonly maker: SocketMaker | undefined;

  constructor(url: string, options: ClientOptions) {
    const parsed = URL.canParse(url) ? new URL(url) : undefined;
    const secure = { "ws:": false, "http:": false, "wss:": true, "https:": true }[parsed?.protocol ?? ""];
    if (parsed === undefined || secure === undefined) {
      throw new CarouselError("SERVER_UNREACHABLE", `${url} is no URL such as ws://localhost:8080`);
    }
    const base = `${parsed.host}${parsed.pathname.replace(/\/$/, "")}/api`;
    this.attach = `${secure ? "wss" : "ws"}://${base}/attach`;
    this.api = `${secure ? "https" : "http"}://${base}`;
    this.token = options.token;
    this.policy = { ...DEFAULT_POLICY, reconnectS: options.reconnectS ?? DEFAULT_POLICY.reconnectS };
    this.maker = (options.WebSocket ?? globalThis.WebSocket) as SocketMaker | undefined;
  }

  /** Opens a WebSocket. Throws WEBSOCKET_MISSING if there is no class for it. */
  open(): Socket {
    this.check();
    const maker = this.maker as SocketMaker;
    const socket = new maker(this.attach, [PROTOCOL, ...this.bearerProtocol()]);
    socket.binaryType = "arraybuffer";
    return socket;
  }

  /** Throws WEBSOCKET_MISSING if no WebSocket can be opened. */
  check(): void {
    if (this.maker === undefined) {
      throw new ClientSideError("WEBSOCKET_MISSING", "there is no globalThis.WebSocket");
    }
  }

  get headers(): Record<string, string> {
    return this.token === undefined ? {} : { authorization: `Bearer ${this.token}` };
  }

  /** A page cannot set headers of a WebSocket, so the token goes as a subprotocol. */
  private bearerProtocol(): string[] {
    if (this.token === undefined) return [];
    const bytes = new TextEncoder().encode(this.token);
    const text = btoa(String.fromCharCode(...bytes));
    return [BEARER + text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")];
  }
}
