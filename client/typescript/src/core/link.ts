// The streams to the servers: whether there is one, what goes out on it, and when to open the next.

import { create } from "@bufbuild/protobuf";
import type { CarouselError } from "../errors.js";
import {
  type AttachRequest,
  AttachRequestSchema,
  type Welcome,
} from "../gen/carousel_protos/v1/carousel_pb.js";
import type { Lane } from "./lane.js";
import type { Ticket } from "./tickets.js";

const DEFAULT_MAX_MESSAGE_BYTES = 4 << 20;
const LONGEST_PAUSE_S = 1;
const MOST_DOUBLINGS = 30;

/** How a lost server is looked for. */
export interface RetryPolicy {
  /** Pause before the second try where the server names none; it doubles each time. */
  readonly firstDelayS: number;
  /** How long each session looks for its server after a break; 0 gives up at once. */
  readonly reconnectS: number;
}

export const DEFAULT_POLICY: RetryPolicy = { firstDelayS: 0.05, reconnectS: 30 };

/** What a client must do after an event, in this order. Streams are named by their server. */
export class Effects {
  readonly send = new Map<string, AttachRequest[]>();
  readonly ended: Ticket[] = [];
  /** Streams to be opened, each after so many seconds. */
  readonly connect = new Map<string, number>();
}

/** The links of a client, and what is to be done about the present event. */
export class Links {
  nowS = 0;
  closed: CarouselError | undefined;
  effects = new Effects();
  private readonly byAddress = new Map<string, Link>();

  constructor(
    readonly policy: RetryPolicy,
    readonly random: () => number,
    /** The client has several servers, so its sessions may move. */
    readonly follows: boolean,
  ) {}

  /** The link to a server. A new one is idle. */
  of(address: string): Link {
    let link = this.byAddress.get(address);
    if (link === undefined) {
      link = new Link(address, this);
      this.byAddress.set(address, link);
    }
    return link;
  }

  /** Whether a lost connection is mended at all. */
  get mends(): boolean {
    return this.policy.reconnectS > 0;
  }

  /** Servers that have said that they will stop, and have not yet. */
  get draining(): Set<string> {
    const found = [...this.byAddress.values()].filter((link) => link.draining);
    return new Set(found.map((link) => link.address));
  }

  end(ticket: Ticket): void {
    this.effects.ended.push(ticket);
  }

  takeEffects(): Effects {
    const { effects } = this;
    this.effects = new Effects();
    return effects;
  }

  /** The client is closed. The first error counts. */
  close(error: CarouselError): void {
    this.closed ??= error;
    for (const link of this.byAddress.values()) link.up = link.idle = false;
  }

  /** How long to wait before a try: a hint of the server is a minimum, and the jitter goes on top. */
  backoffS(tries: number, error: CarouselError): number {
    const doubled = this.policy.firstDelayS * 2 ** Math.min(tries, MOST_DOUBLINGS);
    const least = error.retryAfterS ?? Math.min(doubled, LONGEST_PAUSE_S);
    return least * (1 + 0.5 * this.random());
  }
}

/** The stream to one server. */
export class Link {
  readonly lanes = new Map<number, Lane>();
  up = false;
  /** There is no stream, and no lane needs one. */
  idle = true;
  draining = false;
  /** The server has answered on this stream. */
  greeted = false;
  /** The server has answered since the link was last idle. */
  welcomed = false;
  maxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES;
  private tries = 0;

  constructor(
    readonly address: string,
    private readonly links: Links,
  ) {}

  /** Whether the stream takes new Binds. */
  get mayBind(): boolean {
    return this.up && !this.draining;
  }

  get handsOver(): boolean {
    return this.links.follows;
  }

  /** Sends one message. Does nothing without a stream. */
  send(event: Parameters<typeof request>[0]): void {
    if (!this.up) return;
    const outgoing = this.links.effects.send.get(this.address) ?? [];
    outgoing.push(request(event));
    this.links.effects.send.set(this.address, outgoing);
  }

  /** Asks for a stream, unless there is one or it was asked for. */
  want(): void {
    if (this.idle) this.openIn(0);
  }

  opened(): void {
    this.up = true;
    this.idle = this.draining = this.greeted = false;
  }

  onWelcome(welcome: Welcome): void {
    if (welcome.maxMessageBytes > 0) this.maxMessageBytes = welcome.maxMessageBytes;
    this.greeted = this.welcomed = true;
    this.tries = 0;
  }

  /** The stream has ended. What was to be sent on it is not sent any more. */
  lost(nowS: number): void {
    this.up = this.draining = this.greeted = false;
    this.links.nowS = nowS;
    this.links.effects.send.delete(this.address);
  }

  /** Asks for the next stream, after a pause that grows. */
  reopen(error: CarouselError): void {
    this.openIn(this.links.backoffS(this.tries, error));
    this.tries += 1;
  }

  /** No lane needs a stream. */
  rest(): void {
    this.idle = true;
    this.tries = 0;
    this.welcomed = false;
  }

  private openIn(pauseS: number): void {
    this.idle = false;
    this.links.effects.connect.set(this.address, pauseS);
  }
}

type Event = Exclude<AttachRequest["event"], { case: undefined }>;

function request(event: Event): AttachRequest {
  return create(AttachRequestSchema, { event });
}
