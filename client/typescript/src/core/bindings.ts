// The lanes of a client and how each is bound: on a new stream, after a refusal, behind a fence.

import { create } from "@bufbuild/protobuf";
import { type CarouselError, ClientSideError } from "../errors.js";
import { BindSchema, UnbindSchema } from "../gen/carousel_protos/v1/carousel_pb.js";
import { greatest } from "./cursors.js";
import { Lane, type Trouble } from "./lane.js";
import type { PhaseEvent } from "./lifecycle.js";
import type { Links } from "./link.js";
import type { Routing } from "./routing.js";

/** Of an attach id: these bits count the Binds of one attachment. Above them is its time. */
const ATTACH_BITS = 16n;

/** The table of lanes, and the Binds and Unbinds that they need. */
export class Bindings {
  readonly lanes = new Map<number, Lane>();
  private readonly troubled = new Map<number, Lane>();
  private nextHandle = 1;
  private lastMajor = 0n;

  constructor(
    private readonly links: Links,
    private readonly routing: Routing,
    private readonly attachTime: () => bigint,
  ) {}

  /** A lane with a handle of its own. Late messages of another session cannot reach it. */
  newLane(sessionId: string): Lane {
    const link = this.routing.first();
    const lane = new Lane(this.nextHandle, link, sessionId);
    this.nextHandle += 1;
    this.rename(lane);
    this.lanes.set(lane.handle, lane);
    link.lanes.set(lane.handle, lane);
    return lane;
  }

  /** The lane's life is over. */
  remove(lane: Lane): void {
    this.lanes.delete(lane.handle);
    lane.link.lanes.delete(lane.handle);
    this.recovered(lane);
  }

  /** Gives a lane an attach id that is higher than all before, and than `above`. */
  rename(lane: Lane, above = 0n): void {
    const least = greatest(this.lastMajor, above >> ATTACH_BITS) + 1n;
    this.lastMajor = greatest(this.attachTime(), least);
    lane.attachId = this.lastMajor << ATTACH_BITS;
  }

  /** Whether the server may know of the lane's session from here. */
  wasAskedFor(lane: Lane): boolean {
    return lane.facts.bound || lane.attachId % (1n << ATTACH_BITS) > 0n;
  }

  /** Binds a waiting lane now, if its stream allows it; else the next stream does. */
  bind(lane: Lane): void {
    if (!lane.link.mayBind) {
      lane.link.want();
      if (lane.mayAsk) this.askLater(lane, lostError("its server stops, and no other was found"));
      return;
    }
    lane.advance("BIND");
    lane.attachId += 1n;
    const opens = lane.facts.bound || lane.leaving !== undefined ? undefined : lane.opens;
    const bind = create(BindSchema, {
      handle: lane.handle,
      epochFloor: lane.facts.epoch,
      attachId: lane.attachId,
      takeOver: lane.route.takeOver,
      target:
        opens === undefined ? { case: "sessionId", value: lane.sessionId } : { case: "open", value: opens },
    });
    lane.link.send({ case: "bind", value: bind });
    if (lane.trouble !== undefined) lane.trouble.retryAtS = undefined;
  }

  /** Unbinds a lane that is to be bound again: what was sent before can no longer be answered. */
  fence(lane: Lane): void {
    lane.advance("FENCE");
    this.unbind(lane, false);
  }

  unbind(lane: Lane, close: boolean): void {
    const unbind = create(UnbindSchema, { handle: lane.handle, close });
    lane.link.send({ case: "unbind", value: unbind });
  }

  /** When a lane is to be bound again, or ends; undefined: never, as things are. */
  get nextDueS(): number | undefined {
    let next: number | undefined;
    for (const lane of this.troubled.values()) {
      const { untilS, retryAtS } = lane.trouble as Trouble;
      const at = retryAtS !== undefined && lane.mayAsk ? Math.min(untilS, retryAtS) : untilS;
      next = next === undefined ? at : Math.min(next, at);
    }
    return next;
  }

  /** The lanes whose pause is over. Each is to be bound again. */
  due(): Lane[] {
    const { nowS } = this.links;
    const found = [...this.troubled.values()].filter(
      (lane) => lane.mayAsk && (lane.trouble?.retryAtS ?? Number.POSITIVE_INFINITY) <= nowS,
    );
    for (const lane of found) (lane.trouble as Trouble).retryAtS = undefined;
    return found;
  }

  /** The lanes that were not bound in time, with the error that each ends with. */
  overdue(): [Lane, CarouselError][] {
    const found: [Lane, CarouselError][] = [];
    for (const lane of this.troubled.values()) {
      const { untilS, error } = lane.trouble as Trouble;
      if (untilS <= this.links.nowS) found.push([lane, this.lastWord(lane, error)]);
    }
    return found;
  }

  /** Binds a lane again after a pause, or on the next stream. */
  putOff(lane: Lane, event: PhaseEvent, error: CarouselError): void {
    lane.advance(event);
    this.inTrouble(lane, error);
    if (lane.link.draining && !lane.mayAsk) return; // this stream will end
    lane.link.want();
    this.askLater(lane, error);
  }

  /** Binds a lane at another server, or there again, at once. */
  goOn(lane: Lane, event: PhaseEvent, error: CarouselError): void {
    lane.advance(event);
    this.inTrouble(lane, error).retryAtS = undefined;
    this.bind(lane);
  }

  /** The lane's stream has ended. A drain renews the time in which it must be bound again. */
  cutOff(lane: Lane, error: CarouselError, drained: boolean): void {
    lane.advance("CUT_OFF");
    const trouble = this.inTrouble(lane, error);
    trouble.retryAtS = undefined;
    if (drained) trouble.untilS = this.links.nowS + this.links.policy.reconnectS;
  }

  /** The time in which a lane must be bound again begins, unless it has begun. */
  inTrouble(lane: Lane, error: CarouselError): Trouble {
    if (lane.trouble === undefined) {
      const untilS = this.links.nowS + this.links.policy.reconnectS;
      lane.trouble = { error, untilS, retryAtS: undefined };
      this.troubled.set(lane.handle, lane);
    }
    lane.trouble.error = error;
    return lane.trouble;
  }

  /** The lane is bound, or gone. */
  recovered(lane: Lane): void {
    lane.trouble = undefined;
    this.troubled.delete(lane.handle);
  }

  private askLater(lane: Lane, error: CarouselError): void {
    const trouble = lane.trouble ?? this.inTrouble(lane, error);
    trouble.retryAtS = this.links.nowS + this.links.backoffS(lane.tries, error);
    lane.tries += 1;
  }

  private lastWord(lane: Lane, error: CarouselError): CarouselError {
    if (!lane.facts.bound || !(error instanceof ClientSideError)) return error;
    return lostError(`no server was found within ${this.links.policy.reconnectS} s: ${error.message}`);
  }
}

/** The stream to the server broke. */
export function lostError(message: string): ClientSideError {
  return new ClientSideError("CONNECTION_LOST", message, { code: "UNAVAILABLE" });
}
