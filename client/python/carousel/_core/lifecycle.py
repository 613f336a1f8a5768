"""The life of a lane, as a table. Every change of phase goes through `advance`."""

from __future__ import annotations

from enum import Enum, auto


class LanePhase(Enum):
    """Where a lane is in its life; `docs/guides/sdk.md` draws it."""

    WAITING = auto()
    """Not bound. There is no stream, the server refused the session for now, or handed it over."""
    BINDING = auto()
    """A Bind is in flight."""
    OVERTAKEN = auto()
    """A Bind is in flight, and a generation ended meanwhile. Its Bound may carry old cursors."""
    BOUND = auto()
    HELD = auto()
    """Bound, but the server takes no steps now. The lane is to be bound again."""
    FENCING = auto()
    """An Unbind is in flight. The lane is to be bound again after its Unbound."""
    CLOSING = auto()
    """An Unbind is in flight, and the lane ends with its Unbound."""
    GONE = auto()
    UNDONE = auto()
    """Gone, and steps whose outputs were received may be undone. No caller was told yet."""


class LaneEvent(Enum):
    """What can happen to a lane's phase. The value is the label in the picture."""

    BIND = "Bind sent"
    OVERTAKE = "a generation ends"
    BOUND = "Bound"
    HOLD = "steps refused for now"
    FENCE = "Unbind sent, to bind again"
    UNBOUND = "Unbound"
    LEAVE = "Unbind sent, given back"
    PUT_OFF = "session refused for now"
    MOVE = "Moved"
    CUT_OFF = "stream broken"
    END = "ends"
    LOSE = "ends with steps that may be undone"
    REPORT = "a caller is told"


LIVE = tuple(phase for phase in LanePhase if phase not in (LanePhase.GONE, LanePhase.UNDONE))

ANY_TIME = {
    LaneEvent.PUT_OFF: LanePhase.WAITING,
    LaneEvent.MOVE: LanePhase.WAITING,
    LaneEvent.CUT_OFF: LanePhase.WAITING,
    LaneEvent.END: LanePhase.GONE,
    LaneEvent.LOSE: LanePhase.UNDONE,
}
"""What may happen in every live phase."""

IN_TURN = {
    (LanePhase.WAITING, LaneEvent.BIND): LanePhase.BINDING,
    (LanePhase.BINDING, LaneEvent.BOUND): LanePhase.BOUND,
    (LanePhase.BINDING, LaneEvent.OVERTAKE): LanePhase.OVERTAKEN,
    (LanePhase.BINDING, LaneEvent.LEAVE): LanePhase.CLOSING,
    (LanePhase.OVERTAKEN, LaneEvent.OVERTAKE): LanePhase.OVERTAKEN,
    (LanePhase.OVERTAKEN, LaneEvent.BOUND): LanePhase.BOUND,
    (LanePhase.OVERTAKEN, LaneEvent.LEAVE): LanePhase.CLOSING,
    (LanePhase.BOUND, LaneEvent.HOLD): LanePhase.HELD,
    (LanePhase.BOUND, LaneEvent.FENCE): LanePhase.FENCING,
    (LanePhase.BOUND, LaneEvent.LEAVE): LanePhase.CLOSING,
    (LanePhase.HELD, LaneEvent.FENCE): LanePhase.FENCING,
    (LanePhase.HELD, LaneEvent.LEAVE): LanePhase.CLOSING,
    (LanePhase.FENCING, LaneEvent.UNBOUND): LanePhase.WAITING,
    (LanePhase.UNDONE, LaneEvent.REPORT): LanePhase.GONE,
}

TRANSITIONS: dict[tuple[LanePhase, LaneEvent], LanePhase] = IN_TURN | {
    (phase, event): after for phase in LIVE for event, after in ANY_TIME.items()
}
"""(phase, event) → phase. What is not here cannot happen."""


def advance(phase: LanePhase, event: LaneEvent) -> LanePhase:
    """The phase after `event`. An event that the table lacks is a defect of the client."""
    after = TRANSITIONS.get((phase, event))
    assert after is not None, f"a lane in phase {phase.name} met {event.name}"
    return after


def diagram() -> str:
    """The table as a Mermaid state diagram, for the guide."""

    def arrow(before: str, after: LanePhase, event: LaneEvent) -> str:
        return f"    {before} --> {after.name}: {event.value}"

    lines = ["stateDiagram-v2", "    [*] --> WAITING"]
    lines += [arrow(phase.name, after, event) for (phase, event), after in IN_TURN.items()]
    lines.append('    state "any live phase" as LIVE')
    lines += [arrow("LIVE", after, event) for event, after in ANY_TIME.items()]
    return "\n".join([*lines, "    GONE --> [*]"])
