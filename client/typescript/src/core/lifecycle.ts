// The life of a lane, as a table: the same as the Python SDK's, without generations.

/** Where a lane is in its life. */
export type Phase =
  | "WAITING" // not bound: no stream, refused for now, or handed over
  | "BINDING" // a Bind is in flight
  | "BOUND"
  | "HELD" // bound, but the server takes no steps now
  | "FENCING" // an Unbind is in flight; the lane is to be bound again
  | "CLOSING" // an Unbind is in flight, and the lane ends with its Unbound
  | "GONE"
  | "UNDONE"; // gone, steps may be undone, and no caller was told yet

/** What can happen to a lane's phase. */
export type PhaseEvent =
  | "BIND"
  | "BOUND"
  | "HOLD"
  | "FENCE"
  | "UNBOUND"
  | "LEAVE"
  | "PUT_OFF"
  | "MOVE"
  | "CUT_OFF"
  | "END"
  | "LOSE"
  | "REPORT";

type Row = Partial<Record<PhaseEvent, Phase>>;

/** What may happen in every live phase. */
const ANY_TIME = {
  PUT_OFF: "WAITING",
  MOVE: "WAITING",
  CUT_OFF: "WAITING",
  END: "GONE",
  LOSE: "UNDONE",
} as const satisfies Row;

/** Phase and event to phase. What is not here cannot happen. */
export const TRANSITIONS: Readonly<Record<Phase, Row>> = {
  WAITING: { ...ANY_TIME, BIND: "BINDING" },
  BINDING: { ...ANY_TIME, BOUND: "BOUND", LEAVE: "CLOSING" },
  BOUND: { ...ANY_TIME, HOLD: "HELD", FENCE: "FENCING", LEAVE: "CLOSING" },
  HELD: { ...ANY_TIME, FENCE: "FENCING", LEAVE: "CLOSING" },
  FENCING: { ...ANY_TIME, UNBOUND: "WAITING" },
  CLOSING: { ...ANY_TIME },
  GONE: {},
  UNDONE: { REPORT: "GONE" },
};

/** The phase after an event. One that the table lacks is a defect of the client. */
export function advance(phase: Phase, event: PhaseEvent): Phase {
  const after = TRANSITIONS[phase][event];
  if (after === undefined) throw new Error(`a lane in phase ${phase} met ${event}`);
  return after;
}
