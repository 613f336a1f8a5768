// The client's side of Attach, without I/O: events in, effects out. No sockets, no timers, no clock.
// After a stream's end, the next stream binds each lane again, sends the inputs again that the server
// lacks, and asks for the outputs that were missed. The application sees only its outputs.

import { create } from "@bufbuild/protobuf";
import { type CarouselError, ClientSideError, serverError } from "../errors.js";
import {
  type AttachResponse,
  HelloSchema,
  type OpenSessionRequest,
} from "../gen/carousel_protos/v1/carousel_pb.js";
import { VERSION } from "../version.js";
import { Answers } from "./answers.js";
import { Bindings } from "./bindings.js";
import { askAgain, stepsPerMessage } from "./blocks.js";
import type { Lane } from "./lane.js";
import { DEFAULT_POLICY, type Effects, Links, type RetryPolicy } from "./link.js";
import { Addresses, Routing } from "./routing.js";
import { Steps } from "./steps.js";
import { BindTicket, type StepRows, StepTicket, UnbindTicket } from "./tickets.js";

/** Surroundings of a core. */
export interface CoreOptions {
  readonly policy?: RetryPolicy;
  /** Numbers in 0 … 1, for pauses. */
  readonly random?: () => number;
  /** A name for an attachment: below 2**48, and growing from one client to the next. */
  readonly attachTime?: () => bigint;
}

/** Unix time in units of 2**14 ns, about 16 µs: what fits above the 16 bits that count Binds. */
const unixTime = (): bigint => (BigInt(Date.now()) * 1_000_000n) >> 14n;

/** One client. Every method takes one event and returns what is to be done about it. */
export class AttachCore {
  private readonly links: Links;
  private readonly addresses: Addresses;
  private readonly routing: Routing;
  private readonly bindings: Bindings;
  private readonly steps: Steps;
  private readonly answers: Answers;

  constructor(servers: readonly [string, ...string[]], options: CoreOptions = {}) {
    const { policy = DEFAULT_POLICY, random = Math.random, attachTime = unixTime } = options;
    this.addresses = new Addresses(servers);
    this.links = new Links(policy, random, servers.length > 1);
    this.routing = new Routing(this.links, this.addresses);
    this.bindings = new Bindings(this.links, this.routing, attachTime);
    this.steps = new Steps(this.links, this.bindings);
    this.answers = new Answers({
      links: this.links,
      addresses: this.addresses,
      routing: this.routing,
      bindings: this.bindings,
      steps: this.steps,
    });
  }

  // -- the connections

  /** When `due` has something to do; undefined: never, as things are. */
  get nextDueS(): number | undefined {
    return this.bindings.nextDueS;
  }

  /** A stream was opened. Says Hello, and binds every lane that is looked for there. */
  connected(address: string): Effects {
    if (this.links.closed === undefined) {
      const link = this.links.of(address);
      link.opened();
      const hello = create(HelloSchema, {
        client: `carousel-typescript/${VERSION}`,
        followsMoves: this.links.follows,
      });
      link.send({ case: "hello", value: hello });
      for (const lane of [...link.lanes.values()]) this.answers.bind(lane);
    }
    return this.links.takeEffects();
  }

  /** A message came. Throws if the stream is to be broken off with that error. */
  receive(address: string, response: AttachResponse, nowS: number): Effects {
    this.links.nowS = nowS;
    this.answers.receive(this.links.of(address), response);
    return this.links.takeEffects();
  }

  /** A stream has ended, or could not be opened. Its lanes wait for the next one. */
  broken(address: string, error: CarouselError, nowS: number): Effects {
    if (this.links.closed !== undefined) return this.links.takeEffects();
    const link = this.links.of(address);
    const drained = link.draining || error.reason === "DRAINING";
    const comesBack = link.greeted && !drained;
    link.lost(nowS);
    if (!comesBack) this.addresses.failed(address, nowS);
    for (const lane of [...link.lanes.values()]) this.lost(lane, error, { drained, comesBack });
    this.endOverdue();
    if (link.lanes.size > 0) link.reopen(error);
    else link.rest();
    return this.links.takeEffects();
  }

  /** The instant of `nextDueS` has come: binds lanes again, or gives them up. */
  due(nowS: number): Effects {
    this.links.nowS = nowS;
    this.endOverdue();
    for (const lane of this.bindings.due()) {
      if (lane.phase === "HELD") {
        this.bindings.fence(lane);
      } else {
        if (lane.link.draining) this.routing.refused(lane, undefined);
        this.answers.bind(lane);
      }
    }
    return this.links.takeEffects();
  }

  /** The client is closed. All that waits ends with `error`, and later calls throw it. */
  close(error: CarouselError): Effects {
    this.links.close(error);
    for (const lane of [...this.bindings.lanes.values()]) this.steps.end(lane, error);
    return this.links.takeEffects();
  }

  // -- what callers ask for

  /** Binds an existing session by its id, or a new one. */
  bind(target: string | OpenSessionRequest, nowS: number, epochFloor = 0n): [BindTicket, Effects] {
    if (this.links.closed !== undefined) throw this.links.closed;
    this.links.nowS = nowS;
    const lane = this.bindings.newLane(typeof target === "string" ? target : target.sessionId);
    lane.facts.epoch = epochFloor;
    lane.opens = typeof target === "string" ? undefined : target;
    lane.binding = new BindTicket(lane);
    const ticket = lane.binding;
    this.bindings.bind(lane);
    return [ticket, this.links.takeEffects()];
  }

  /** Takes rows as the next steps of a session; sends what fits. */
  submit(lane: Lane, rows: StepRows): [StepTicket, Effects] {
    this.check(lane);
    stepsPerMessage(rows, lane.link.maxMessageBytes);
    const ticket = new StepTicket(lane, rows, rows.data.length / rows.rowBytes);
    lane.enqueue(ticket);
    this.steps.flush(lane);
    return [ticket, this.links.takeEffects()];
  }

  /** Asks for the outputs that were computed before the session was bound here, if any. */
  readAgain(lane: Lane, outputRowBytes: number): [StepTicket | undefined, Effects] {
    this.check(lane);
    const { cursors } = lane;
    if (cursors.unread === 0n) return [undefined, this.links.takeEffects()];
    const rows = { data: new Uint8Array(), rowBytes: 0, outputRowBytes, resets: undefined };
    const ticket = new StepTicket(lane, rows, Number(cursors.unread));
    cursors.received -= cursors.unread;
    ticket.firstSeq = cursors.received + 1n;
    ticket.sentSteps = ticket.steps;
    cursors.unread = 0n;
    lane.tickets.unshift(ticket);
    if (lane.listens) askAgain(lane); // else it is asked as soon as the session is bound again
    return [ticket, this.links.takeEffects()];
  }

  /**
   * Gives a session back, and closes it if asked to; undefined if it is gone already.
   * A durable session is given back only when all that was received of it is durable.
   */
  unbind(lane: Lane, close: boolean): [UnbindTicket | undefined, Effects] {
    const ticket = new UnbindTicket(lane);
    if (lane.phase === "UNDONE" && !close) {
      lane.advance("REPORT");
      ticket.error = lane.error;
      this.links.end(ticket);
      return [ticket, this.links.takeEffects()];
    }
    if (this.links.closed !== undefined || lane.gone || lane.leaving !== undefined) {
      return [undefined, this.links.takeEffects()];
    }
    lane.leaving = { close, ticket };
    const closed = serverError("SESSION_CLOSED", "closed here while steps waited");
    this.steps.failFrom(lane, 0n, closed);
    if (this.bindings.wasAskedFor(lane)) this.answers.leave(lane);
    else this.steps.end(lane, serverError("SESSION_CLOSED", "closed here"));
    return [ticket, this.links.takeEffects()];
  }

  private check(lane: Lane): void {
    const error = this.links.closed ?? lane.error;
    if (error !== undefined) throw error;
    if (lane.leaving !== undefined) {
      throw new ClientSideError("CLIENT_CLOSED", `session ${lane.sessionId} was closed here`);
    }
  }

  private lost(
    lane: Lane,
    error: CarouselError,
    { drained, comesBack }: { drained: boolean; comesBack: boolean },
  ): void {
    const known = lane.link.welcomed || lane.facts.bound;
    const passes = error.retryable || error.reason === "CONNECTION_LOST";
    const mends = this.links.mends && passes;
    if (mends && known && this.endsWithItsStream(lane)) {
      this.steps.end(lane, serverError("SESSION_CLOSED", "closed here"));
      return;
    }
    const goesOn = mends && !comesBack && this.routing.lost(lane, drained);
    if (!goesOn && !(mends && known)) {
      this.steps.end(lane, error);
      return;
    }
    this.bindings.cutOff(lane, error, drained);
    if (goesOn) this.answers.bind(lane);
  }

  /** Whether a lane was given back, and nothing of it is to be closed or owed any more. */
  private endsWithItsStream(lane: Lane): boolean {
    if (lane.leaving === undefined) return false;
    return !(this.bindings.wasAskedFor(lane) && (lane.leaving.close || lane.owes));
  }

  private endOverdue(): void {
    for (const [lane, error] of this.bindings.overdue()) this.steps.abandon(lane, error);
  }
}
