// Which server a lane looks for its session at: where a server says, or the next one in the client's list.

import type { CarouselError } from "../errors.js";
import { type Lane, newRoute } from "./lane.js";
import type { Link, Links } from "./link.js";

/** Refusals of one server that say nothing about the others. */
const ELSEWHERE = new Set([
  "DRAINING",
  "LEASE_LOST",
  "MODEL_UNHEALTHY",
  "QUEUE_FULL",
  "SLAB_FULL",
  "STORE_UNAVAILABLE",
]);

/** Refusals whose metadata `owner` has the address of the server that has the session. */
const OWNED = new Set(["SESSION_HELD", "LEASE_LOST"]);

const FIRST_AWAY_S = 0.25;
const MOST_AWAY_S = 10;

/** Servers of a client, and which of them take work just now. */
export class Addresses {
  private readonly away = new Map<string, { failures: number; untilS: number }>();

  constructor(readonly known: readonly [string, ...string[]]) {}

  /** A server could not be reached, or will stop. Failures at one time count once. */
  failed(address: string, nowS: number): void {
    const { failures, untilS } = this.away.get(address) ?? { failures: 0, untilS: nowS };
    if (untilS > nowS) return;
    const pauseS = Math.min(FIRST_AWAY_S * 2 ** Math.min(failures, 30), MOST_AWAY_S);
    this.away.set(address, { failures: failures + 1, untilS: nowS + pauseS });
  }

  answered(address: string): void {
    this.away.delete(address);
  }

  isAway(address: string, nowS: number): boolean {
    return (this.away.get(address)?.untilS ?? nowS) > nowS;
  }

  /** The first server that is not away and not to be avoided. */
  best(nowS: number, avoid: ReadonlySet<string>): string | undefined {
    return this.known.find((one) => !avoid.has(one) && !this.isAway(one, nowS));
  }
}

/** Moves lanes from link to link. With one server, every lane stays where it is. */
export class Routing {
  constructor(
    private readonly links: Links,
    private readonly addresses: Addresses,
  ) {}

  /** Where to look for a session at first. */
  first(): Link {
    const { links, addresses } = this;
    return links.of(addresses.best(links.nowS, links.draining) ?? addresses.known[0]);
  }

  /** The session is bound. */
  arrived(lane: Lane): void {
    lane.route = newRoute();
  }

  /** The server has handed the session over, to `address` if that is one of the client's. */
  moved(lane: Lane, address: string): void {
    if (this.isUsable(address, lane)) this.go(lane, address);
    else this.goOn(lane, new Set([lane.link.address]));
  }

  /**
   * Another server has the session: goes there. True if the lane should be bound again at once.
   * Where its holder cannot be reached, the server is asked to take the session over.
   */
  redirected(lane: Lane, error: CarouselError): boolean {
    const { route } = lane;
    if (!this.links.follows || !OWNED.has(error.reason) || !lane.movable) return false;
    const owner = error.metadata["owner"] ?? "";
    if (this.isUsable(owner, lane)) {
      route.redirects += 1;
      route.takeOver = false;
      this.go(lane, owner);
      return route.redirects <= this.addresses.known.length; // else they contradict each other
    }
    if (error.reason !== "SESSION_HELD") return false;
    const again = !route.takeOver;
    route.takeOver = true;
    return again;
  }

  /** The server takes nothing now. True if the lane goes on to another one. */
  refused(lane: Lane, error: CarouselError | undefined): boolean {
    const reason = error?.reason ?? "";
    const passesOn = ELSEWHERE.has(reason) || lane.link.draining;
    if (!this.links.follows || !lane.movable || !passesOn) return false;
    lane.route.refused.add(lane.link.address);
    if (reason === "DRAINING") this.addresses.failed(lane.link.address, this.links.nowS);
    if (this.goOn(lane, lane.route.refused)) return true;
    lane.route.refused.clear();
    return false;
  }

  /** The server is gone. True if the lane goes on to another one. */
  lost(lane: Lane, drained: boolean): boolean {
    if (!this.links.follows || !lane.movable) return false;
    const held = lane.facts.bound || lane.route.redirects > 0;
    lane.route.takeOver ||= held && !drained;
    return this.goOn(lane, new Set([lane.link.address]));
  }

  private isUsable(address: string, lane: Lane): boolean {
    return (
      this.addresses.known.includes(address) &&
      address !== lane.link.address &&
      !this.links.draining.has(address) &&
      !this.addresses.isAway(address, this.links.nowS)
    );
  }

  private goOn(lane: Lane, avoid: ReadonlySet<string>): boolean {
    const other = this.addresses.best(this.links.nowS, new Set([...avoid, ...this.links.draining]));
    if (other === undefined) return false;
    this.go(lane, other);
    return true;
  }

  private go(lane: Lane, address: string): void {
    lane.link.lanes.delete(lane.handle);
    lane.link = this.links.of(address);
    lane.link.lanes.set(lane.handle, lane);
  }
}
