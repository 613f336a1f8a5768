// What goes out: blocks that fit the window, acknowledgements, and requests to replay.

import { create } from "@bufbuild/protobuf";
import { serverError } from "../errors.js";
import { AcksSchema, type Block, ReplaySchema } from "../gen/carousel_protos/v1/carousel_pb.js";
import { greatest, least } from "./cursors.js";
import type { Lane } from "./lane.js";
import { blockOf } from "./resume.js";
import type { StepRows, StepTicket } from "./tickets.js";

/** Of a message besides its rows, at most. */
const ENVELOPE_BYTES = 282;

/** How many steps one message can carry. Throws MESSAGE_TOO_LARGE if not even one. */
export function stepsPerMessage(rows: StepRows, maxMessageBytes: number): number {
  const inputBytes = rows.rowBytes + (rows.resets === undefined ? 0 : 1);
  const bytes = Math.max(inputBytes, rows.outputRowBytes, 1); // the answer must fit as well
  const steps = Math.floor((maxMessageBytes - ENVELOPE_BYTES) / bytes);
  if (steps < 1) {
    throw serverError("MESSAGE_TOO_LARGE", `one step is larger than ${maxMessageBytes} bytes`);
  }
  return steps;
}

/** The next part of a ticket that may be sent now; undefined if it must wait. */
export function nextBlock(ticket: StepTicket): Block | undefined {
  const { lane, rows } = ticket;
  const { cursors } = lane;
  const steps = Math.min(stepsNow(ticket), stepsPerMessage(rows, lane.link.maxMessageBytes));
  if (steps <= 0) return undefined;
  const begin = ticket.sentSteps;
  const first = cursors.sent + 1n;
  const sent = {
    first,
    last: cursors.sent + BigInt(steps),
    data: rows.data.subarray(begin * rows.rowBytes, (begin + steps) * rows.rowBytes),
    rowBytes: rows.rowBytes,
    resets: rows.resets?.subarray(begin, begin + steps),
  };
  const block = blockOf(lane, sent);
  if (cursors.received > cursors.acked && cursors.ackable > cursors.acked) {
    cursors.acked = cursors.ackable;
    block.acks = [cursors.acked];
  }
  lane.log.inputs.push(sent);
  cursors.sent = sent.last;
  ticket.sentSteps += steps;
  return block;
}

/** Steps that the window has room for. Waits for a quarter of it rather than send few steps. */
function stepsNow(ticket: StepTicket): number {
  const { lane } = ticket;
  const left = BigInt(ticket.steps - ticket.sentSteps);
  if (lane.phase !== "BOUND" || lane.failing !== undefined || lane.unsent[0] !== ticket) return 0;
  if (lane.link.draining && !lane.leavesLast) return 0;
  const { room, window } = lane.cursors;
  if (room < least(left, greatest(window / 4n, 1n))) return 0;
  return Number(least(least(left, room), greatest(window / 2n, 1n)));
}

/** Confirms outputs where no block will do so soon and the server keeps half a window. */
export function sendDueAcks(lane: Lane): void {
  const { received, acked, window } = lane.cursors;
  if (lane.phase !== "BOUND" || lane.unsent.length > 0) return;
  if ((received - acked) * 2n >= window) sendAcks(lane);
}

/** Confirms the outputs that were received, and were told by this activation of the session. */
export function sendAcks(lane: Lane): void {
  const { cursors } = lane;
  if (cursors.ackable <= cursors.acked) return;
  cursors.acked = cursors.ackable;
  const acks = create(AcksSchema, { handles: [lane.handle], acks: [cursors.acked] });
  lane.link.send({ case: "acks", value: acks });
}

/** Asks for the outputs that the server still keeps. */
export function askAgain(lane: Lane): void {
  lane.replaying = true;
  lane.link.send({ case: "replay", value: create(ReplaySchema, { handle: lane.handle }) });
}
