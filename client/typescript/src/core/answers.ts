// The server's messages, and what follows from them: one method for each kind.

import { create } from "@bufbuild/protobuf";
import { type CarouselError, ClientSideError, serverError } from "../errors.js";
import {
  type AttachResponse,
  type BlockResult,
  type Bound,
  type Durable,
  type Failure,
  type Moved,
  UnbindSchema,
  type Unbound,
} from "../gen/carousel_protos/v1/carousel_pb.js";
import { errorOf } from "../status.js";
import { type Bindings, lostError } from "./bindings.js";
import { askAgain, sendAcks, sendDueAcks } from "./blocks.js";
import type { Lane } from "./lane.js";
import type { Link, Links } from "./link.js";
import { notFound, obstacle, owedBlocks, takeUp } from "./resume.js";
import type { Addresses, Routing } from "./routing.js";
import type { Steps } from "./steps.js";

/** Refusals of steps that a durable session survives: it continues on another server, or later. */
const PASSING = new Set([
  "DRAINING",
  "STORE_UNAVAILABLE",
  "SESSION_HELD",
  "SESSION_PARKED",
  "LEASE_LOST",
  "SLAB_FULL",
  "QUEUE_FULL",
]);

/** Metadata of a STORE_UNAVAILABLE that refuses nothing: steps up to there wait for the store. */
const STORE_WAITS = "accepted";

/** The parts of a core that an answer can touch. */
export interface Parts {
  readonly links: Links;
  readonly addresses: Addresses;
  readonly routing: Routing;
  readonly bindings: Bindings;
  readonly steps: Steps;
}

/** Takes the servers' messages. */
export class Answers {
  constructor(private readonly parts: Parts) {}

  /** Takes a message. Throws if the stream cannot be trusted any more. */
  receive(link: Link, { event }: AttachResponse): void {
    switch (event.case) {
      case "welcome":
        link.onWelcome(event.value);
        this.parts.addresses.answered(link.address);
        return;
      case "drain":
        link.draining = true;
        this.parts.addresses.failed(link.address, this.parts.links.nowS);
        return;
      case "bound":
        this.onBound(link, event.value);
        return;
      case "outputs":
        this.onOutputs(link, event.value);
        return;
      case "failure":
        this.onFailure(link, event.value);
        return;
      case "durable":
        this.onDurable(link, event.value);
        return;
      case "unbound":
        this.onUnbound(link, event.value);
        return;
      case "moved":
        this.onMoved(link, event.value);
        return;
      case undefined: // of a newer protocol
        return;
    }
  }

  /** Binds a waiting lane, or goes on to give it back. */
  bind(lane: Lane): void {
    if (lane.leaving === undefined) this.parts.bindings.bind(lane);
    else this.leave(lane);
  }

  /** Gives the handle back as soon as that is safe: nothing that was received may be undone. */
  leave(lane: Lane): void {
    const close = lane.leaving?.close ?? false;
    if (lane.gone || lane.phase === "FENCING" || lane.phase === "CLOSING") return;
    if (lane.phase === "WAITING") {
      if (lane.sessionId === "" || !(close || lane.owes)) {
        this.parts.steps.end(lane, serverError("SESSION_CLOSED", "closed here"));
        return;
      }
      this.parts.bindings.bind(lane);
    }
    if (lane.phase === "WAITING" || (lane.owes && !close)) return;
    lane.advance("LEAVE"); // an Unbind may follow its Bind at once
    this.parts.bindings.unbind(lane, close);
  }

  // -- bindings

  private onBound(link: Link, { handle, session }: Bound): void {
    const lane = link.lanes.get(handle);
    if (lane === undefined) {
      // It was given up while its Bind was in flight.
      link.send({ case: "unbind", value: create(UnbindSchema, { handle }) });
      return;
    }
    if (lane.phase !== "BINDING") return;
    if (session === undefined) throw violation(`a Bound of handle ${handle} has no session`);
    if (session.epoch < lane.facts.epoch) {
      const text = `session ${session.id} is bound in epoch ${session.epoch}`;
      throw violation(`${text}, but ${lane.facts.epoch} was seen`);
    }
    lane.advance("BOUND");
    this.parts.bindings.recovered(lane);
    this.parts.routing.arrived(lane);
    if (lane.facts.bound) {
      const error = obstacle(lane, session);
      if (error !== undefined) {
        this.parts.steps.abandon(lane, error);
        return;
      }
      takeUp(lane, session);
    } else {
      lane.takeFacts(session);
      lane.startFrom(session);
    }
    if (lane.binding !== undefined) {
      lane.binding.session = session;
      this.parts.links.end(lane.binding);
      lane.binding = undefined;
    }
    this.resume(lane, session.applied);
  }

  /** R8: confirms, asks for outputs, sends inputs again; then what is new. */
  private resume(lane: Lane, applied: bigint): void {
    sendAcks(lane); // also if it leaves: what it owes must fit the window
    if (lane.leaving === undefined && applied > lane.cursors.received) askAgain(lane);
    for (const block of owedBlocks(lane, applied)) lane.link.send({ case: "block", value: block });
    if (lane.leaving !== undefined) this.leave(lane);
    this.parts.steps.failIfDue(lane);
    this.parts.steps.flush(lane);
  }

  private onUnbound(link: Link, { handle, status }: Unbound): void {
    const lane = link.lanes.get(handle);
    if (lane === undefined) return;
    if (status !== undefined) {
      this.onTakenAway(lane, errorOf(status));
    } else if (lane.phase === "FENCING") {
      lane.advance("UNBOUND");
      this.parts.routing.refused(lane, lane.trouble?.error);
      this.bind(lane);
    } else {
      const text = "the session was closed by this client";
      this.parts.steps.end(lane, serverError("SESSION_CLOSED", text));
    }
  }

  private onTakenAway(lane: Lane, error: CarouselError): void {
    const leaves = lane.leaving !== undefined && !(lane.leaving.close || lane.owes);
    if (error.retryable && this.parts.links.mends && !leaves) this.lookOn(lane, error);
    else this.parts.steps.end(lane, error);
  }

  /** A server has refused a session for now. It is bound elsewhere at once, or after a pause. */
  private lookOn(lane: Lane, error: CarouselError): void {
    if (this.goesOn(lane, error)) this.parts.bindings.goOn(lane, "PUT_OFF", error);
    else this.parts.bindings.putOff(lane, "PUT_OFF", error);
  }

  private goesOn(lane: Lane, error: CarouselError): boolean {
    const { routing } = this.parts;
    return routing.redirected(lane, error) || routing.refused(lane, error);
  }

  /** R8 as after a break. What was sent and has not run is sent to the other server. */
  private onMoved(link: Link, { handle, address }: Moved): void {
    const lane = link.lanes.get(handle);
    if (lane === undefined) return;
    lane.advance("MOVE");
    this.parts.routing.moved(lane, address);
    const error = lostError(`its session was handed over to ${lane.link.address}`);
    this.parts.bindings.inTrouble(lane, error).retryAtS = undefined;
    this.bind(lane);
  }

  // -- steps

  private onOutputs(link: Link, result: BlockResult): void {
    const { handles, firstSeqs, steps, outputs } = result;
    const rowBytes = outputs.length / (handles.length * steps);
    if (firstSeqs.length !== handles.length || !Number.isInteger(rowBytes)) {
      throw violation("a BlockResult whose lengths do not agree");
    }
    const touched: Lane[] = [];
    handles.forEach((handle, place) => {
      const lane = link.lanes.get(handle);
      if (lane === undefined || !lane.listens) return;
      const first = firstSeqs[place] ?? 0n;
      const data = outputs.subarray(place * steps * rowBytes, (place + 1) * steps * rowBytes);
      const last = first + BigInt(steps) - 1n;
      this.parts.steps.fill(lane, { first, last, data, rowBytes, resets: undefined });
      if (!lane.listens) return;
      touched.push(lane);
      this.parts.steps.settle(lane);
    });
    for (const lane of touched) {
      this.parts.steps.flush(lane);
      sendDueAcks(lane);
    }
  }

  private onDurable(link: Link, { handles, durables }: Durable): void {
    if (handles.length !== durables.length) throw violation("a Durable whose lengths do not agree");
    handles.forEach((handle, place) => {
      const lane = link.lanes.get(handle);
      if (lane === undefined || !lane.listens) return;
      lane.durableAt(durables[place] ?? 0n);
      lane.log.forget(lane.cursors);
      if (lane.leaving !== undefined) this.leave(lane);
      this.parts.steps.flush(lane);
    });
  }

  // -- refusals

  private onFailure(link: Link, failure: Failure): void {
    const handles = failure.handles.length > 0 ? failure.handles : [failure.handle];
    const seqs = failure.seqs.length > 0 ? failure.seqs : [failure.seq];
    if (handles.length !== seqs.length) throw violation("a Failure whose lengths do not agree");
    handles.forEach((handle, place) => {
      const seq = seqs[place] ?? 0n;
      this.onFailureOf(link, handle, errorOf(failure.status, seq));
    });
  }

  private onFailureOf(link: Link, handle: number, error: CarouselError): void {
    if (handle === 0) {
      checkNamesNone(error);
      return;
    }
    const lane = link.lanes.get(handle);
    if (lane === undefined) return; // it has just ended, and Unbound has said why
    const { seq } = error;
    if (lane.phase === "BINDING" && seq === 0n) {
      // HANDLE_NOT_BOUND is of an Unbind before it.
      if (error.reason !== "HANDLE_NOT_BOUND") this.onBindRefused(lane, error);
    } else if (lane.phase === "CLOSING" && seq === 0n) {
      this.onTakenAway(lane, error);
    } else if (lane.listens && !(STORE_WAITS in error.metadata) && seq <= lane.cursors.sent) {
      this.onStepRefused(lane, error);
    }
  }

  private onBindRefused(lane: Lane, refusal: CarouselError): void {
    const { bindings, links, steps } = this.parts;
    const newest = refusal.metadata["attach_id"] ?? "";
    if (refusal.reason === "SUPERSEDED" && /^\d+$/.test(newest) && !lane.retried) {
      lane.retried = true;
      if (lane.binding !== undefined) {
        // The clocks differ: this application asked later.
        bindings.rename(lane, BigInt(newest));
        lane.advance("PUT_OFF");
        bindings.bind(lane);
        return;
      }
    }
    const lost = lane.facts.bound && refusal.reason === "SESSION_NOT_FOUND";
    const error = lost ? notFound(lane, refusal) : refusal;
    const first = lane.binding !== undefined && !lane.facts.bound;
    if (!(error.retryable && links.mends)) steps.end(lane, error);
    else if (!first) this.lookOn(lane, error);
    else if (this.goesOn(lane, error)) bindings.goOn(lane, "PUT_OFF", error);
    else steps.end(lane, error); // the caller tries again, as long as it wants to
  }

  /** A step will not run. It fails, or it was accepted before, or the session survives that. */
  private onStepRefused(lane: Lane, error: CarouselError): void {
    const { cursors } = lane;
    const { seq, reason } = error;
    const again = 0n < seq && seq <= cursors.resent;
    // A lane leaves no gap, so the session went back: its next Bound says how far (R9).
    const wentBack = cursors.tracksDurable && reason === "SEQUENCE_GAP" && lane.failing === undefined;
    // What names no step is a Replay: the steps have run, so none of them has failed.
    const outlived = seq === 0n || (cursors.tracksDurable && PASSING.has(reason));
    const passes = wentBack || (error.retryable && (again || outlived));
    if (passes && this.parts.links.mends) {
      if (lane.phase === "BOUND") this.parts.bindings.putOff(lane, "HOLD", error);
      return;
    }
    if (lane.phase === "HELD") return;
    const waitedFor = lane.tickets.some((ticket) => ticket.firstSeq <= seq);
    if (again && (seq <= cursors.received || !waitedFor)) {
      // The session is not the one that took this step.
      this.parts.steps.abandon(lane, error);
      return;
    }
    if (lane.failing === undefined || seq < lane.failing.seq) lane.failing = { seq, error };
    this.parts.steps.failIfDue(lane);
  }
}

/** A refusal of a message that named no session. */
function checkNamesNone(error: CarouselError): void {
  if (error.retryable) throw error;
  if (error.reason !== "HANDLE_NOT_BOUND") {
    throw violation(`the server could not read a message: ${error.message}`);
  }
}

function violation(message: string): ClientSideError {
  return new ClientSideError("PROTOCOL_VIOLATION", message, { code: "INTERNAL" });
}
