/** The Carousel client for Node 20 and browsers. */

export { Client, type DurabilityName, type SessionOptions } from "./client.js";
export {
  CarouselError,
  type ClientReason,
  ClientSideError,
  ConflictError,
  InvalidInputError,
  NotFoundError,
  type Reason,
  RefusedError,
  ServerFaultError,
  UnauthorizedError,
} from "./errors.js";
export type { GenerateOptions, Token } from "./generate.js";
export type { CallOptions, ClientOptions } from "./options.js";
export type { ServerReason } from "./registry.js";
export type { DType, Field, Model, Numbers } from "./rows.js";
export { Session, type StepOptions } from "./session.js";
export { VERSION } from "./version.js";
