// A client core that takes the events of a schedule, and shows its effects as the file has them.

import {
  create,
  createRegistry,
  fromJson,
  type JsonObject,
  type JsonValue,
  toJson,
} from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { AttachCore } from "../src/core/attach.js";
import { lostError } from "../src/core/bindings.js";
import type { Lane } from "../src/core/lane.js";
import type { Effects } from "../src/core/link.js";
import type { Ticket } from "../src/core/tickets.js";
import { CarouselError, serverError } from "../src/errors.js";
import {
  type AttachRequest,
  AttachRequestSchema,
  AttachResponseSchema,
  OpenSessionRequestSchema,
} from "../src/gen/carousel_protos/v1/carousel_pb.js";
import { ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../src/gen/google/rpc/status_pb.js";
import { REGISTRY, type ServerReason } from "../src/registry.js";
import { CODES } from "../src/status.js";

export const registry = createRegistry(ErrorInfoSchema, RetryInfoSchema);

// biome-ignore lint/suspicious/noExplicitAny: events of a file, each of its own form
export type Record_ = Record<string, any>;

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");

const ROW_BYTES = 4;

/** Plays one schedule. The first server is that of events that name none. */
export class Player {
  private readonly core: AttachCore;
  private readonly first: string;
  private nowS = 0;
  private readonly lanes = new Map<string, Lane>();
  private readonly names = new Map<Ticket, string>();
  private readonly attachIds = new Map<number, bigint>();

  constructor(servers: [string, ...string[]]) {
    this.first = servers[0];
    let number = 0n;
    this.core = new AttachCore(servers, { random: () => 0, attachTime: () => ++number });
  }

  /** Takes one event. Returns its effects. */
  play(event: Record_): Record_ {
    this.nowS = event["at_s"] ?? this.nowS;
    try {
      return this.shown(this.taken(event));
    } catch (error) {
      if (error instanceof CarouselError) return { raises: error.reason };
      throw error;
    }
  }

  private taken(event: Record_): Effects {
    const server = event["server"] ?? this.first;
    const { core, nowS } = this;
    if ("open" in event)
      return this.bound(event["open"].sessionId, fromJson(OpenSessionRequestSchema, event["open"]));
    if ("bind" in event) {
      const { session, epochFloor } = event["bind"];
      return this.bound(session, session, BigInt(epochFloor ?? 0));
    }
    if ("steps" in event) return this.steps(event["steps"]);
    if ("read_again" in event) {
      const { session } = event["read_again"];
      return this.named(session, core.readAgain(this.lane(session), ROW_BYTES));
    }
    if ("give_back" in event) {
      const { session, close } = event["give_back"];
      return this.named(session, core.unbind(this.lane(session), close ?? false));
    }
    if ("connected" in event) return core.connected(server);
    if ("receive" in event) return this.receive(event["receive"], server);
    if ("cut" in event) {
      const error = event["cut"] === "lost" ? lostError("lost") : serverError("DRAINING", "it stops");
      return core.broken(server, error, nowS);
    }
    if ("timer" in event) return core.due(nowS);
    throw new Error(`an event that is not known: ${JSON.stringify(event)}`);
  }

  private lane(name: string): Lane {
    const lane = this.lanes.get(name);
    if (lane === undefined) throw new Error(`no session ${name}`);
    return lane;
  }

  private named(name: string, [ticket, effects]: [Ticket | undefined, Effects]): Effects {
    if (ticket !== undefined) this.names.set(ticket, name);
    return effects;
  }

  private bound(name: string, target: Parameters<AttachCore["bind"]>[0], epoch = 0n): Effects {
    const [ticket, effects] = this.core.bind(target, this.nowS, epoch);
    this.lanes.set(name, ticket.lane);
    return this.named(name, [ticket, effects]);
  }

  private steps({ session, rows, resets }: Record_): Effects {
    const data = new Uint8Array(Buffer.concat(rows.map((row: string) => Buffer.from(row, "base64"))));
    const taken = this.core.submit(this.lane(session), {
      data,
      rowBytes: ROW_BYTES,
      outputRowBytes: ROW_BYTES,
      resets: resets === undefined ? undefined : Uint8Array.from(resets),
    });
    return this.named(session, taken);
  }

  private receive(told: Record_, server: string): Effects {
    const named = told["failure"]?.status?.metadata?.attach_id;
    if (named !== undefined) this.attachIds.set(told["failure"].handle, BigInt(named));
    const json = withStatus(told) as JsonObject;
    const response = fromJson(AttachResponseSchema, json, { registry, ignoreUnknownFields: true });
    return this.core.receive(server, response, this.nowS);
  }

  // Effects as a schedule has them.

  private shown(effects: Effects): Record_ {
    const shown: Record_ = {};
    const sends = [...effects.send].flatMap(([server, sent]) => sent.map((one) => this.message(server, one)));
    const connects = [...effects.connect].map(([server, pauseS]) => ({
      ...this.place(server),
      after_s: pauseS,
    }));
    const ends = effects.ended.map((ticket) => this.ended(ticket));
    if (sends.length > 0) shown["sends"] = sends;
    if (connects.length > 0) shown["connects"] = connects;
    if (ends.length > 0) shown["ends"] = ends;
    if (this.core.nextDueS !== undefined) shown["wakes_at_s"] = Math.round(this.core.nextDueS * 1e6) / 1e6;
    return shown;
  }

  private place(server: string): Record_ {
    return server === this.first ? {} : { server };
  }

  private message(server: string, message: AttachRequest): Record_ {
    const form = toJson(AttachRequestSchema, message) as Record_;
    delete form["hello"]?.client;
    if (message.event.case === "bind") {
      const { handle, attachId } = message.event.value;
      if (attachId <= (this.attachIds.get(handle) ?? 0n)) throw new Error("an attach_id must grow");
      this.attachIds.set(handle, attachId);
      delete form["bind"].attachId;
    }
    return { ...this.place(server), ...form };
  }

  private ended(ticket: Ticket): Record_ {
    const shown: Record_ = { session: this.names.get(ticket) ?? "" };
    const { error } = ticket;
    if (error !== undefined) {
      return { ...shown, error: error.reason, ...(error.seq > 0n ? { seq: Number(error.seq) } : {}) };
    }
    if (ticket.kind !== "step") return { ...shown, what: ticket.kind === "bind" ? "bound" : "given back" };
    const outputs = Array.from({ length: ticket.steps }, (_, k) =>
      base64(ticket.outputs.subarray(k * ROW_BYTES, (k + 1) * ROW_BYTES)),
    );
    return { ...shown, first_seq: Number(ticket.firstSeq), outputs };
  }
}

/** {"reason": …} in the place of a status becomes the whole status, as servers send it. */
function withStatus(told: JsonValue): JsonValue {
  if (Array.isArray(told)) return told.map(withStatus);
  if (typeof told !== "object" || told === null) return told;
  const whole: JsonObject = {};
  for (const [key, value] of Object.entries(told)) {
    whole[key] = key === "status" ? status(value as Record_) : withStatus(value);
  }
  return whole;
}

function status({ reason, metadata, retry_after_s }: Record_): JsonValue {
  const { code } = REGISTRY[reason as ServerReason];
  const details = [
    anyPack(
      ErrorInfoSchema,
      create(ErrorInfoSchema, { reason, domain: "carousel", metadata: metadata ?? {} }),
    ),
  ];
  if (retry_after_s !== undefined) {
    const seconds = Math.floor(retry_after_s);
    const retryDelay = { seconds: BigInt(seconds), nanos: Math.round((retry_after_s - seconds) * 1e9) };
    details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay })));
  }
  const message = create(StatusSchema, { code: CODES.indexOf(code), message: "refused", details });
  return toJson(StatusSchema, message, { registry });
}
