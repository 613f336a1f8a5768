"""What a client counts of its connections and of what they cost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

PAUSES = 10_000
"""How many of the last pauses are kept."""


@dataclass(slots=True)
class Counters:
    """Counts as they grow; see `ClientStatistics`."""

    reconnects: int = 0
    rebinds: int = 0
    resent_steps: int = 0
    replayed_steps_compared: int = 0
    replays_diverged: int = 0
    drains: int = 0
    moves: int = 0
    redirects: int = 0
    move_pauses_s: deque[float] = field(default_factory=lambda: deque(maxlen=PAUSES))


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Of one client, since it was made.

    Attributes:
        reconnects: streams that were opened after the first one to the same server.
        rebinds: sessions that were bound again: after a break, a refusal, a move, or a generation that
            was left.
        resent_steps: steps whose inputs were sent again after that.
        replayed_steps_compared: outputs that came again and were compared with the first ones.
        replays_diverged: sessions that ended because they differed.
        drains: announcements of servers that they will stop.
        moves: sessions that a server has handed over to another one.
        redirects: refusals that named the server of the session, which were followed.
        move_pauses_s: from the message that a session was handed over until it was bound at the other server.
            The last 10,000, in seconds.
    """

    reconnects: int
    rebinds: int
    resent_steps: int
    replayed_steps_compared: int
    replays_diverged: int
    drains: int
    moves: int
    redirects: int
    move_pauses_s: tuple[float, ...] = field(repr=False)

    @classmethod
    def of(cls, counters: Counters) -> ClientStatistics:
        """As of now."""
        counts = {name: getattr(counters, name) for name in Counters.__slots__}
        return cls(**counts | {"move_pauses_s": tuple(counters.move_pauses_s.copy())})
