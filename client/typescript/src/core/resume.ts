// After a break: what the server still has, which inputs it lacks, and whether outputs are the same again.
// Rules R8, R9 and R12 of the protocol.

import { create } from "@bufbuild/protobuf";
import { type CarouselError, ClientSideError, serverError } from "../errors.js";
import { type Block, BlockSchema, type Session } from "../gen/carousel_protos/v1/carousel_pb.js";
import { greatest, least, part, type Rows, UNTRACKED } from "./cursors.js";
import { identityOf, type Lane } from "./lane.js";

/** Stores may round when a session was opened. */
const SAME_INSTANT_S = 0.001;

/** Why a lane cannot continue with the session that was bound again; undefined if it can. */
export function obstacle(lane: Lane, session: Session): CarouselError | undefined {
  const now = identityOf(session);
  const { identity } = lane.facts;
  if (
    identity !== undefined &&
    (identity.seed !== now.seed || Math.abs(identity.createdAtS - now.createdAtS) > SAME_INSTANT_S)
  ) {
    const text = `session ${lane.sessionId} is another one now: the one that was bound is lost`;
    return serverError("DATA_LOSS", text);
  }
  const { sent } = lane.cursors;
  if (session.applied > sent && lane.leaving === undefined) {
    const text = `step ${session.applied} of session ${lane.sessionId} has run, but only ${sent} were sent`;
    return serverError("SUPERSEDED", `${text} from here: another client has stepped it`);
  }
  const owedFrom = lane.log.inputs[0]?.first ?? sent + 1n;
  return session.applied + 1n < owedFrom ? lost(lane, session, owedFrom) : undefined;
}

function lost(lane: Lane, session: Session, owedFrom: bigint): CarouselError {
  const where = UNTRACKED.includes(session.durability) ? "its server" : "the store";
  const text =
    `session ${lane.sessionId} is back at step ${session.applied}: ${where} has lost steps that ` +
    `were confirmed up to ${owedFrom - 1n}, and their inputs are no longer here`;
  const metadata = { applied: `${session.applied}`, expected: `${owedFrom - 1n}` };
  return serverError("DATA_LOSS", text, { metadata, seq: session.applied + 1n });
}

/** The error for a session that was bound here before and is not there any more. */
export function notFound(lane: Lane, error: CarouselError): CarouselError {
  const text = lane.cursors.tracksDurable
    ? `session ${lane.sessionId} is not there any more: the store has lost it`
    : `session ${lane.sessionId} was lost with its server: it was opened with durability none`;
  return serverError("DATA_LOSS", text, { requestId: error.requestId });
}

/** Takes the cursors of a session that is bound again. R8: prunes first, which opens the window. */
export function takeUp(lane: Lane, session: Session): void {
  const { cursors } = lane;
  lane.takeFacts(session);
  lane.log.forget(cursors);
  if (session.applied < cursors.received) cursors.heard = session.applied;
  lane.replaying = false;
  cursors.resent = cursors.sent;
}

/** Blocks with the inputs and resets of the steps that were sent and have not run. */
export function owedBlocks(lane: Lane, applied: bigint): Block[] {
  const { sent } = lane.cursors;
  const last = lane.failing === undefined ? sent : least(sent, lane.failing.seq - 1n);
  const blocks: Block[] = [];
  for (const kept of lane.log.inputs) {
    const begin = greatest(kept.first, applied + 1n);
    const end = least(kept.last, last);
    if (begin <= end) blocks.push(blockOf(lane, part(kept, begin, end)));
  }
  return blocks;
}

/** Rows of one session as a message. */
export function blockOf(lane: Lane, rows: Rows): Block {
  return create(BlockSchema, {
    handles: [lane.handle],
    firstSeqs: [rows.first],
    steps: Number(rows.last - rows.first) + 1,
    inputs: rows.data,
    resets: rows.resets?.some((one) => one !== 0) ? rows.resets : new Uint8Array(),
  });
}

/** Compares outputs that came again; an error if any differ. */
export function compare(lane: Lane, again: Rows): CarouselError | undefined {
  for (const kept of lane.log.outputs) {
    const begin = greatest(kept.first, again.first);
    const end = least(kept.last, again.last);
    for (let seq = begin; seq <= end; seq += 1n) {
      if (!sameBytes(part(kept, seq, seq).data, part(again, seq, seq).data)) {
        return diverged(lane, seq);
      }
    }
  }
  return undefined;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

function diverged(lane: Lane, seq: bigint): CarouselError {
  const { formerClass, executionClass } = lane.facts;
  const how = formerClass === "" ? "" : `; it was computed by ${formerClass}, and now by ${executionClass}`;
  const text = `the output of step ${seq} of session ${lane.sessionId} came again differently${how}`;
  return new ClientSideError("REPLAY_DIVERGED", text, { code: "DATA_LOSS", seq });
}
