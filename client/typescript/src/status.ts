// From `google.rpc.Status`, and from problem details of the HTTP door, to the error of its reason.

import type { Message } from "@bufbuild/protobuf";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { type CarouselError, serverError } from "./errors.js";
import { ErrorInfoSchema, RequestInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import type { Status } from "./gen/google/rpc/status_pb.js";

/** Canonical codes by their number. */
export const CODES = [
  "OK",
  "CANCELLED",
  "UNKNOWN",
  "INVALID_ARGUMENT",
  "DEADLINE_EXCEEDED",
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "FAILED_PRECONDITION",
  "ABORTED",
  "OUT_OF_RANGE",
  "UNIMPLEMENTED",
  "INTERNAL",
  "UNAVAILABLE",
  "DATA_LOSS",
  "UNAUTHENTICATED",
] as const;

const DOMAIN = "carousel";

/** Longest hint that is believed, in seconds. */
const LONGEST_HINT_S = 86_400;

/** The error of a status. A detail that cannot be parsed counts as absent. */
export function errorOf(status: Status | undefined, seq = 0n): CarouselError {
  const info = detail(status, ErrorInfoSchema);
  const delay = detail(status, RetryInfoSchema)?.retryDelay;
  const ours = info?.domain === DOMAIN;
  return serverError(ours ? info.reason : "", status?.message ?? "", {
    code: codeName(status?.code ?? 2),
    metadata: info?.metadata ?? {},
    retryAfterS: delay && hint(Number(delay.seconds) + delay.nanos / 1e9),
    requestId: detail(status, RequestInfoSchema)?.requestId ?? "",
    seq,
  });
}

function detail<T extends Message>(status: Status | undefined, schema: GenMessage<T>): T | undefined {
  for (const any of status?.details ?? []) {
    try {
      const found = anyUnpack(any, schema);
      if (found !== undefined) return found as T;
    } catch {
      // Damaged: the same as absent.
    }
  }
  return undefined;
}

const hint = (seconds: number): number => Math.min(Math.max(seconds, 0), LONGEST_HINT_S);

const codeName = (code: number): string => CODES[code] ?? "UNKNOWN";

/** The error of problem details, as the HTTP door sends them; undefined if the text is none. */
export function problemError(text: string): CarouselError | undefined {
  let problem: unknown;
  try {
    problem = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof problem !== "object" || problem === null) return undefined;
  const { reason, detail, metadata, retry_after_s, request_id } = problem as Record<string, unknown>;
  if (typeof reason !== "string") return undefined;
  return serverError(reason, String(detail ?? ""), {
    metadata: (metadata ?? {}) as Record<string, string>,
    retryAfterS: typeof retry_after_s === "number" ? hint(retry_after_s) : undefined,
    requestId: typeof request_id === "string" ? request_id : "",
  });
}
