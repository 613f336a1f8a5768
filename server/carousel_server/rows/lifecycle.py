"""The life of a session on a row, as a table. A session leaves its row through `advance` only."""

from __future__ import annotations

from enum import StrEnum

from carousel_server.core.types import Phase


class Event(StrEnum):
    """What can happen to a session on a row."""

    DRAIN = "drain"
    """The server is shutting down: what was accepted is finished, nothing new begins."""
    CLOSE = "close"
    """The client asked, or its call was the session's only purpose."""
    EXPIRE = "expire"
    """It was idle for longer than its idle_ttl_s."""
    HAND_OVER = "hand over"
    """Another replica is to have it; the store has all of it."""
    PARK = "park"
    """It gives its slot back; the store has all of it."""
    REVOKE = "revoke"
    """The lease was taken or has run out: what the store has counts from now on."""


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.RESIDENT, Event.DRAIN): Phase.DRAINING,
    (Phase.RESIDENT, Event.CLOSE): Phase.CLOSED,
    (Phase.RESIDENT, Event.EXPIRE): Phase.CLOSED,
    (Phase.RESIDENT, Event.HAND_OVER): Phase.PARKED,
    (Phase.RESIDENT, Event.PARK): Phase.PARKED,
    (Phase.RESIDENT, Event.REVOKE): Phase.PARKED,
    (Phase.DRAINING, Event.CLOSE): Phase.CLOSED,
    (Phase.DRAINING, Event.EXPIRE): Phase.CLOSED,
    (Phase.DRAINING, Event.HAND_OVER): Phase.PARKED,
    (Phase.DRAINING, Event.REVOKE): Phase.PARKED,
}
"""(phase, event) → phase. What is not here cannot happen."""


def advance(phase: Phase, event: Event) -> Phase:
    """The phase after `event`. An event that the table lacks is a defect of the server."""
    after = TRANSITIONS.get((phase, event))
    assert after is not None, f"a session in phase {phase.name} met {event.value}"
    return after


def diagram() -> str:
    """The table as a Mermaid state diagram, for ARCHITECTURE.md.

    Sessions begin on a row in phase RESIDENT. A parked one does so when it is used again, in a new epoch.
    """
    lines = ["stateDiagram-v2", "    [*] --> RESIDENT: open"]
    lines += [f"    {p.name} --> {after.name}: {e.value}" for (p, e), after in TRANSITIONS.items()]
    return "\n".join([*lines, "    PARKED --> RESIDENT: resume", "    CLOSED --> [*]"])
