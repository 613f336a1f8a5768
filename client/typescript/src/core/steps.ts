// Steps in flight: blocks go out as the window allows, outputs go to the tickets that wait for them.

import { type CarouselError, ClientSideError } from "../errors.js";
import type { Bindings } from "./bindings.js";
import { nextBlock } from "./blocks.js";
import { greatest, least, part, type Rows } from "./cursors.js";
import type { Lane } from "./lane.js";
import type { Links } from "./link.js";
import { compare } from "./resume.js";

/** Moves the cursors of the lanes, and ends tickets and lanes. */
export class Steps {
  constructor(
    private readonly links: Links,
    private readonly bindings: Bindings,
  ) {}

  /** Sends what the window has room for. */
  flush(lane: Lane): void {
    for (;;) {
      const ticket = lane.unsent[0];
      if (ticket === undefined) return;
      for (;;) {
        const block = nextBlock(ticket);
        if (block === undefined) break;
        lane.link.send({ case: "block", value: block });
      }
      if (ticket.sentSteps < ticket.steps) return;
      lane.unsent.shift();
    }
  }

  /** Outputs of one session: compares what is known, and fills tickets in order. */
  fill(lane: Lane, came: Rows): void {
    const { cursors } = lane;
    if (!isInTurn(lane, came)) return;
    const known = least(cursors.received, came.last);
    if (known >= came.first) {
      const diverged = compare(lane, part(came, came.first, known));
      if (diverged !== undefined) {
        this.abandon(lane, diverged);
        return;
      }
    }
    if (known >= came.last) return;
    const rows = part(came, greatest(known + 1n, came.first), came.last);
    lane.replaying = false;
    if (cursors.sent < rows.first) {
      if (lane.leaving !== undefined) return; // of steps that were given up with the session
      // Accepted from an earlier stream, and run only now.
      cursors.unread += rows.last - rows.first + 1n;
      lane.moveTo(rows.last);
      return;
    }
    if (cursors.tracksDurable) lane.log.addOutputs(rows, cursors.durable);
    fillTickets(lane, rows);
  }

  /** Ends the tickets whose outputs have all come. */
  settle(lane: Lane): void {
    lane.tries = 0;
    for (;;) {
      const ticket = lane.tickets[0];
      if (ticket === undefined || ticket.lastSeq > lane.cursors.received) break;
      lane.tickets.shift();
      this.links.end(ticket);
    }
    lane.log.forget(lane.cursors);
    this.failIfDue(lane);
  }

  /** Ends the steps from a refused one on, once the outputs before it have come. */
  failIfDue(lane: Lane): void {
    if (lane.failing === undefined || lane.cursors.received + 1n < lane.failing.seq) return;
    const { seq, error } = lane.failing;
    lane.failing = undefined;
    this.failFrom(lane, seq, error);
  }

  /** Ends the steps from `seq` on (0: all without an output) with an error. */
  failFrom(lane: Lane, from: bigint, error: CarouselError): void {
    const next = lane.cursors.received + 1n;
    const seq = greatest(from, next);
    for (;;) {
      const ticket = lane.tickets.at(-1);
      if (ticket === undefined || ticket.lastSeq < seq) break;
      lane.tickets.pop();
      ticket.error = error;
      ticket.answeredSteps = Number(greatest(next - ticket.firstSeq, 0n));
      this.links.end(ticket);
    }
    if (lane.rollBack(seq) && lane.phase === "BOUND" && lane.leaving === undefined) {
      this.bindings.fence(lane);
    }
  }

  /** Ends a lane, and unbinds it if the server has it bound. */
  abandon(lane: Lane, error: CarouselError): void {
    if (lane.listens) this.bindings.unbind(lane, false);
    this.end(lane, error);
  }

  /** Ends a lane, and what its callers wait for. */
  end(lane: Lane, error: CarouselError): void {
    if (lane.gone) return;
    const { leaving, binding } = lane;
    // What was received may have been undone.
    if (leaving !== undefined && lane.owes && !leaving.close) leaving.ticket.error = error;
    const waitedFor = leaving !== undefined || binding !== undefined || lane.tickets.length > 0;
    lane.advance(lane.owes && !waitedFor ? "LOSE" : "END");
    lane.error = error;
    lane.leaving = lane.binding = undefined;
    this.bindings.remove(lane);
    this.failFrom(lane, 0n, error);
    lane.log.clear();
    if (binding !== undefined) {
      binding.error = error;
      this.links.end(binding);
    }
    if (leaving !== undefined) this.links.end(leaving.ticket);
  }
}

/** Checks that no output is left out; false for one that will come again. */
function isInTurn(lane: Lane, came: Rows): boolean {
  const { cursors } = lane;
  const heard = cursors.heard ?? cursors.received;
  if (came.first > heard + 1n) {
    if (lane.replaying) return false; // it was sent just before the server read our Replay
    const text = `step ${came.first} of session ${lane.sessionId} came, but ${heard + 1n} is next`;
    throw new ClientSideError("PROTOCOL_VIOLATION", text, { code: "INTERNAL" });
  }
  if (cursors.heard !== undefined) {
    const now = greatest(heard, came.last);
    cursors.heard = now < cursors.received ? now : undefined;
  }
  return true;
}

/** Copies new outputs to the tickets that wait for them. */
function fillTickets(lane: Lane, rows: Rows): void {
  for (const ticket of lane.tickets) {
    const begin = greatest(rows.first, ticket.firstSeq);
    const end = least(rows.last, ticket.lastSeq);
    if (begin > end) continue;
    if (rows.rowBytes !== ticket.rows.outputRowBytes) {
      const text = `an output has ${rows.rowBytes} bytes, not ${ticket.rows.outputRowBytes}`;
      throw new ClientSideError("PROTOCOL_VIOLATION", text, { code: "INTERNAL" });
    }
    const offset = Number(begin - ticket.firstSeq) * rows.rowBytes;
    ticket.outputs.set(part(rows, begin, end).data, offset);
  }
  lane.cursors.received = rows.last;
}
