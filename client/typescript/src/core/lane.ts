// One session of a client, over all streams.

import type { CarouselError } from "../errors.js";
import type { OpenSessionRequest, Session } from "../gen/carousel_protos/v1/carousel_pb.js";
import { Cursors, greatest, StepLog } from "./cursors.js";
import { advance, type Phase, type PhaseEvent } from "./lifecycle.js";
import type { Link } from "./link.js";
import type { BindTicket, StepTicket, UnbindTicket } from "./tickets.js";

/** What never changes of a session and is hardly the same for two. */
export interface Identity {
  readonly seed: bigint;
  readonly createdAtS: number;
}

/** What the server has said of a session. */
export interface SessionFacts {
  bound: boolean;
  epoch: bigint;
  identity: Identity | undefined;
  executionClass: string;
  formerClass: string;
}

/** Why a lane is not bound, and until when it may be so. */
export interface Trouble {
  error: CarouselError;
  untilS: number;
  /** When to bind again; undefined: as soon as there is a stream. */
  retryAtS: number | undefined;
}

/** How a lane looks for its session among several servers, from one Bound to the next. */
export interface Route {
  takeOver: boolean;
  redirects: number;
  refused: Set<string>;
}

export const newRoute = (): Route => ({ takeOver: false, redirects: 0, refused: new Set() });

export function identityOf(session: Session): Identity {
  const at = session.createdAt;
  return {
    seed: session.seed,
    createdAtS: at === undefined ? 0 : Number(at.seconds) + at.nanos / 1e9,
  };
}

/** A session: its phase, its cursors, and the callers that wait for it. */
export class Lane {
  attachId = 0n;
  opens: OpenSessionRequest | undefined;
  error: CarouselError | undefined;
  readonly facts: SessionFacts = {
    bound: false,
    epoch: 0n,
    identity: undefined,
    executionClass: "",
    formerClass: "",
  };
  readonly cursors = new Cursors();
  readonly log = new StepLog();
  /** All that have not ended, in order of seq. */
  tickets: StepTicket[] = [];
  /** Those of them with steps that were not sent yet. */
  unsent: StepTicket[] = [];
  /** The first step that was refused, while earlier ones are still to be answered. */
  failing: { readonly seq: bigint; readonly error: CarouselError } | undefined;
  /** The server was asked for outputs again, and the first of them has not come. */
  replaying = false;
  trouble: Trouble | undefined;
  route: Route = newRoute();
  /** How often it was refused since its last output. */
  tries = 0;
  /** A clash of attach ids was settled once. */
  retried = false;
  binding: BindTicket | undefined;
  leaving: { readonly close: boolean; readonly ticket: UnbindTicket } | undefined;
  private current: Phase = "WAITING";

  constructor(
    readonly handle: number,
    public link: Link,
    public sessionId: string,
  ) {}

  get phase(): Phase {
    return this.current;
  }

  /** Changes the phase, as the table says. */
  advance(event: PhaseEvent): void {
    this.current = advance(this.current, event);
  }

  /** Outputs were received whose steps a crash of the server would undo. */
  get owes(): boolean {
    const { tracksDurable, durable, received } = this.cursors;
    return tracksDurable && durable < received && this.log.inputs.length > 0;
  }

  /** Whether another server may have the session. One without a store lives with its server. */
  get movable(): boolean {
    return !this.facts.bound || this.cursors.tracksDurable;
  }

  /** Whether a server that drains may still run its steps, until it hands the session over. */
  get leavesLast(): boolean {
    return this.link.handsOver && this.movable;
  }

  /** Whether it may be bound again now. */
  get mayAsk(): boolean {
    return this.link.mayBind || (this.link.up && this.leavesLast);
  }

  /** Whether outputs that come are its. */
  get listens(): boolean {
    return this.phase === "BOUND" || this.phase === "HELD";
  }

  get gone(): boolean {
    return this.phase === "GONE" || this.phase === "UNDONE";
  }

  /** Gives a ticket the next numbers. */
  enqueue(ticket: StepTicket): void {
    ticket.firstSeq = this.cursors.nextSeq;
    this.cursors.nextSeq += BigInt(ticket.steps);
    this.cursors.unread = 0n;
    this.tickets.push(ticket);
    this.unsent.push(ticket);
  }

  /** Takes what holds at each Bound, whatever was before. */
  takeFacts(session: Session): void {
    const { facts } = this;
    this.sessionId = session.id;
    facts.bound = true;
    facts.epoch = session.epoch;
    facts.identity = identityOf(session);
    if (facts.executionClass !== "" && facts.executionClass !== session.executionClass) {
      facts.formerClass = facts.executionClass;
    }
    facts.executionClass = session.executionClass;
    this.cursors.take(session);
  }

  /** Takes the server's cursors; steps that wait are numbered behind them. */
  startFrom(session: Session): void {
    this.cursors.unread = session.applied - session.ack;
    this.moveTo(session.applied);
  }

  /** Goes on behind `applied`, with nothing in flight. */
  moveTo(applied: bigint): void {
    const { cursors } = this;
    cursors.moveTo(applied);
    this.log.clear();
    for (const ticket of this.unsent) {
      ticket.firstSeq = cursors.nextSeq;
      cursors.nextSeq += BigInt(ticket.steps);
    }
  }

  durableAt(seq: bigint): void {
    this.cursors.durable = greatest(this.cursors.durable, seq);
  }

  /** Un-sends the steps from `seq` on. True if later blocks are in flight, to be refused too. */
  rollBack(seq: bigint): boolean {
    this.cursors.rollBack(seq);
    this.unsent = [];
    return this.log.cut(seq);
  }
}
