// How far a session's steps have come, and what is kept of them in case they are needed again.

import { Durability, type Session } from "../gen/carousel_protos/v1/carousel_pb.js";

/** Levels of sessions that live with their server only. */
export const UNTRACKED: readonly Durability[] = [Durability.NONE, Durability.UNSPECIFIED];

/** The lesser of two sequence numbers. */
export const least = (a: bigint, b: bigint): bigint => (a < b ? a : b);

/** The greater of two sequence numbers. */
export const greatest = (a: bigint, b: bigint): bigint => (a > b ? a : b);

/** Consecutive rows of a session: steps first … last. Resets are those of inputs. */
export interface Rows {
  readonly first: bigint;
  readonly last: bigint;
  readonly data: Uint8Array;
  readonly rowBytes: number;
  readonly resets: Uint8Array | undefined;
}

/** The part of rows from one step to another. */
export function part(rows: Rows, begin: bigint, end: bigint): Rows {
  const from = Number(begin - rows.first);
  const to = Number(end - rows.first) + 1;
  return {
    first: begin,
    last: end,
    data: rows.data.subarray(from * rows.rowBytes, to * rows.rowBytes),
    rowBytes: rows.rowBytes,
    resets: rows.resets?.subarray(from, to),
  };
}

/** Sequence numbers: acked <= received <= sent < nextSeq. */
export class Cursors {
  /** Most steps sent and not received. */
  window = 1n;
  nextSeq = 1n;
  sent = 0n;
  /** Last step that was sent again since the last Bound. */
  resent = 0n;
  received = 0n;
  /** Last step that this activation has told, while that is less than `received`. */
  heard: bigint | undefined;
  acked = 0n;
  durable = 0n;
  tracksDurable = false;
  /** Outputs before `received` that the server still keeps and no caller here has read. */
  unread = 0n;

  /** Last step whose input is not needed again. */
  get forgettable(): bigint {
    return this.tracksDurable ? least(this.received, this.durable) : this.received;
  }

  /** Last step that may be confirmed: it was read here, and this activation has told it. */
  get ackable(): bigint {
    const read = this.received - this.unread;
    return this.heard === undefined ? read : least(read, this.heard);
  }

  /** How many more steps may be sent now. */
  get room(): bigint {
    const base = this.heard === undefined ? this.forgettable : least(this.forgettable, this.heard);
    return base + this.window - this.sent;
  }

  /** Takes what holds at each Bound, whatever was before. */
  take(session: Session): void {
    this.window = BigInt(Math.max(session.windowSteps, 1));
    this.tracksDurable = !UNTRACKED.includes(session.durability);
    this.durable = session.durable;
    this.acked = session.ack;
    this.heard = undefined;
  }

  /** Goes on behind `applied`, with nothing in flight. */
  moveTo(applied: bigint): void {
    this.received = this.sent = applied;
    this.nextSeq = applied + 1n;
    this.heard = undefined;
  }

  /** Steps from `seq` on count as not sent. */
  rollBack(seq: bigint): void {
    this.sent = seq - 1n;
    this.nextSeq = seq;
    this.resent = least(this.resent, this.sent);
  }
}

/** What may be needed again of a session's steps, in order. */
export class StepLog {
  inputs: Rows[] = [];
  outputs: Rows[] = [];

  /** Keeps outputs that may come again. */
  addOutputs(rows: Rows, durable: bigint): void {
    if (rows.last > this.unrepeatable(durable)) this.outputs.push(rows);
  }

  /** Drops inputs that are not needed again, and outputs that cannot come again. */
  forget(cursors: Cursors): void {
    const { forgettable } = cursors;
    dropWhile(this.inputs, (kept) => kept.last <= forgettable);
    const unrepeatable = this.unrepeatable(cursors.durable);
    dropWhile(this.outputs, (kept) => kept.last <= unrepeatable);
  }

  /** Drops the inputs from `seq` on. True if later blocks are in flight, to be refused too. */
  cut(seq: bigint): boolean {
    const more = (this.inputs.at(-1)?.first ?? 0n) > seq;
    this.inputs = this.inputs.filter((kept) => kept.first < seq);
    const last = this.inputs.at(-1);
    if (last !== undefined && last.last >= seq) {
      this.inputs[this.inputs.length - 1] = part(last, last.first, seq - 1n);
    }
    return more;
  }

  clear(): void {
    this.inputs = [];
    this.outputs = [];
  }

  /** Last step whose output cannot come again: the store has it, and its input is gone. */
  private unrepeatable(durable: bigint): bigint {
    const first = this.inputs[0]?.first;
    return first === undefined ? durable : least(durable, first - 1n);
  }
}

function dropWhile<T>(items: T[], drops: (item: T) => boolean): void {
  let count = 0;
  for (const item of items) {
    if (!drops(item)) break;
    count += 1;
  }
  if (count > 0) items.splice(0, count);
}
