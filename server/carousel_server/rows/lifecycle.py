"""The life of a session, as a table. Every change of phase goes through `advance`."""

from __future__ import annotations

from enum import StrEnum

from carousel_server.core.types import Phase


class Event(StrEnum):
    """What can happen to a session's phase."""

    OPENED = "opened"
    """Its slot is ready and zeroed, or restored from a snapshot."""
    DRAIN = "drain"
    """The server is shutting down: what was accepted is finished, nothing new begins."""
    CLOSE = "close"
    """The client asked, or its call was the session's only purpose."""
    EXPIRE = "expire"
    """It was idle for longer than its idle_ttl_s."""
    PARK = "park"
    """It gives its slot back; the store has all of it."""
    REVOKE = "revoke"
    """The lease was taken or has run out: what the store has counts from now on."""
    RESUME = "resume"
    """Somebody wants it: a slot is filled from the store, in a new epoch."""


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.OPENING, Event.OPENED): Phase.RESIDENT,
    (Phase.OPENING, Event.CLOSE): Phase.CLOSED,
    (Phase.RESIDENT, Event.DRAIN): Phase.DRAINING,
    (Phase.RESIDENT, Event.CLOSE): Phase.CLOSED,
    (Phase.RESIDENT, Event.EXPIRE): Phase.CLOSED,
    (Phase.DRAINING, Event.CLOSE): Phase.CLOSED,
    (Phase.DRAINING, Event.EXPIRE): Phase.CLOSED,
    (Phase.RESIDENT, Event.PARK): Phase.PARKED,
    (Phase.RESIDENT, Event.REVOKE): Phase.PARKED,
    (Phase.DRAINING, Event.REVOKE): Phase.PARKED,
    (Phase.PARKED, Event.RESUME): Phase.OPENING,
}
"""(phase, event) → phase. What is not here cannot happen."""


def advance(phase: Phase, event: Event) -> Phase:
    """The phase after `event`. An event that the table lacks is a defect of the server."""
    after = TRANSITIONS.get((phase, event))
    assert after is not None, f"a session in phase {phase.name} met {event.value}"
    return after


def diagram() -> str:
    """The table as a Mermaid state diagram, for ARCHITECTURE.md."""
    lines = ["stateDiagram-v2", "    [*] --> OPENING"]
    lines += [f"    {p.name} --> {after.name}: {e.value}" for (p, e), after in TRANSITIONS.items()]
    return "\n".join([*lines, "    CLOSED --> [*]"])
