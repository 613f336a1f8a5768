// What a caller waits for: steps, a Bound, or an Unbound. A ticket ends once, well or with an error.

import type { CarouselError } from "../errors.js";
import type { Session } from "../gen/carousel_protos/v1/carousel_pb.js";
import type { Lane } from "./lane.js";

/** One thing that was asked for. `wake` is called once at the end, and must not call the core. */
abstract class Pending {
  wake: () => void = () => {};
  error: CarouselError | undefined;

  constructor(readonly lane: Lane) {}
}

/** A session to be bound. */
export class BindTicket extends Pending {
  readonly kind = "bind";
  session: Session | undefined;
}

/** A session to be given back. */
export class UnbindTicket extends Pending {
  readonly kind = "unbind";
}

/** Rows of steps, as the caller gives them. */
export interface StepRows {
  readonly data: Uint8Array;
  readonly rowBytes: number;
  readonly outputRowBytes: number;
  /** A byte of 0 or 1 for each step; 1 starts it from the initial state. */
  readonly resets: Uint8Array | undefined;
}

/** Consecutive steps of one session. */
export class StepTicket extends Pending {
  readonly kind = "step";
  readonly steps: number;
  readonly outputs: Uint8Array;
  firstSeq = 0n;
  sentSteps = 0;
  /** How many outputs came before a failure. */
  answeredSteps = 0;

  constructor(
    lane: Lane,
    readonly rows: StepRows,
    steps: number,
  ) {
    super(lane);
    this.steps = steps;
    this.outputs = new Uint8Array(steps * rows.outputRowBytes);
  }

  get lastSeq(): bigint {
    return this.firstSeq + BigInt(this.steps) - 1n;
  }
}

export type Ticket = BindTicket | UnbindTicket | StepTicket;
