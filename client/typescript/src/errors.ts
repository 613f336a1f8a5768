// Errors: one class for each kind of cause, and the reason of the one registry as a typed name.

import { REGISTRY, type ServerReason } from "./registry.js";

/** Reasons of the client itself, without an answer from a server. */
export type ClientReason =
  | "CONNECTION_LOST"
  | "SERVER_UNREACHABLE"
  | "CLIENT_CLOSED"
  | "PROTOCOL_VIOLATION"
  | "REPLAY_DIVERGED"
  | "WEBSOCKET_MISSING";

/** Why a call failed. A newer server may send reasons that this client does not know. */
export type Reason = ServerReason | ClientReason | (string & {});

/** Facts of an error, as a server sends them. */
export interface ErrorFacts {
  readonly code?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  /** When to try again, in seconds. */
  readonly retryAfterS?: number | undefined;
  readonly requestId?: string;
  /** The first step concerned; 0n if there is none. */
  readonly seq?: bigint;
  readonly fix?: string;
}

/** Base of all errors of this client: the reason, what happened, and the fix. */
export class CarouselError extends Error {
  readonly reason: Reason;
  readonly code: string;
  readonly fix: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly retryAfterS: number | undefined;
  readonly requestId: string;
  readonly seq: bigint;

  constructor(reason: Reason, message: string, facts: ErrorFacts = {}) {
    const fix = facts.fix ?? "";
    super(`${reason}: ${message}${fix === "" ? "" : `\n  fix: ${fix}`}`);
    this.name = new.target.name;
    this.reason = reason;
    this.code = facts.code ?? "UNKNOWN";
    this.fix = fix;
    this.metadata = facts.metadata ?? {};
    this.retryAfterS = facts.retryAfterS;
    this.requestId = facts.requestId ?? "";
    this.seq = facts.seq ?? 0n;
  }

  /** Whether the same call can succeed later. */
  get retryable(): boolean {
    return false;
  }
}

/** The request itself is wrong, in any state of the server. */
export class InvalidInputError extends CarouselError {}

/** The named model or session does not exist, or no longer exists. */
export class NotFoundError extends CarouselError {}

/** The call does not fit the state of the session, the model or the server. */
export class ConflictError extends CarouselError {}

/** The server requires a valid token. */
export class UnauthorizedError extends CarouselError {}

/** The call was refused now, and may succeed later. `retryAfterS` is when to try again. */
export class RefusedError extends CarouselError {
  override get retryable(): boolean {
    return true;
  }
}

/** The server failed; the caller did nothing wrong. */
export class ServerFaultError extends CarouselError {}

/** The error is of the client or the connection, without an answer from a server. */
export class ClientSideError extends CarouselError {
  constructor(reason: ClientReason, message: string, facts: ErrorFacts = {}) {
    super(reason, message, { fix: CLIENT_FIXES[reason], ...facts });
  }
}

const CLIENT_FIXES: Readonly<Record<ClientReason, string>> = {
  CONNECTION_LOST:
    "When the server is back, continue with client.attach(id). Its `applied` is the last step that ran.",
  SERVER_UNREACHABLE: "Check the URL, and whether a server listens there with its http_port on.",
  CLIENT_CLOSED: "Use it before close(), or open a new one.",
  PROTOCOL_VIOLATION: "Check that the URL is a Carousel server. If it is, please report this.",
  REPLAY_DIVERGED: "Begin again. If the weights have not changed, run the server with --strict.",
  WEBSOCKET_MISSING:
    'Node 20 has no WebSocket client: npm install ws, then import { WebSocket } from "ws" and pass { WebSocket }.',
};

const CLASSES = {
  InvalidInputError,
  NotFoundError,
  ConflictError,
  UnauthorizedError,
  RefusedError,
  ServerFaultError,
} as const;

/** Name of the class of a reason; `generate_errors.py` chooses it. */
export type ErrorKind = keyof typeof CLASSES;

const KIND_OF_CODE: Readonly<Record<string, ErrorKind>> = {
  INVALID_ARGUMENT: "InvalidInputError",
  NOT_FOUND: "NotFoundError",
  UNAUTHENTICATED: "UnauthorizedError",
  RESOURCE_EXHAUSTED: "RefusedError",
  UNAVAILABLE: "RefusedError",
  ALREADY_EXISTS: "ConflictError",
  FAILED_PRECONDITION: "ConflictError",
  ABORTED: "ConflictError",
  OUT_OF_RANGE: "ConflictError",
};

/** The error of a reason of a server. One that is not in the registry is classed by its code. */
export function serverError(reason: string, message: string, facts: ErrorFacts = {}): CarouselError {
  const spec = Object.hasOwn(REGISTRY, reason) ? REGISTRY[reason as ServerReason] : undefined;
  const code = spec?.code ?? facts.code ?? "UNKNOWN";
  const kind = spec?.kind ?? KIND_OF_CODE[code] ?? "ServerFaultError";
  const fix = spec?.fix ?? "";
  // Servers add the fix for clients that do not know the registry.
  const text = fix !== "" && message.endsWith(fix) ? message.slice(0, -fix.length).trimEnd() : message;
  return new CLASSES[kind](reason === "" ? "UNKNOWN" : reason, text, { ...facts, code, fix });
}
