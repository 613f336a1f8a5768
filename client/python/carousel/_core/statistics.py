"""What a client counts of its connections and of what they cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts as they grow; see `ClientStatistics`."""

    reconnects: int = 0
    rebinds: int = 0
    resent_steps: int = 0
    replayed_steps_compared: int = 0
    replays_diverged: int = 0
    drains: int = 0


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Of one client, since it was made.

    Attributes:
        reconnects: streams that were opened after the first.
        rebinds: sessions that were bound again: after a break, a refusal, or a generation that was left.
        resent_steps: steps whose inputs were sent again after that.
        replayed_steps_compared: outputs that came again and were compared with the first ones.
        replays_diverged: sessions that ended because they differed.
        drains: announcements of servers that they will stop.
    """

    reconnects: int
    rebinds: int
    resent_steps: int
    replayed_steps_compared: int
    replays_diverged: int
    drains: int

    @classmethod
    def of(cls, counters: Counters) -> ClientStatistics:
        """As of now."""
        return cls(**{name: getattr(counters, name) for name in Counters.__slots__})
