"""A load and its result, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9}


@dataclass(frozen=True, slots=True)
class Load:
    """The load of all clients together.

    Attributes:
        model: its name.
        streams: number of sessions.
        rate_hz: steps a second of each session. None sends the next step when the output is there.
        together: sessions whose steps are sent at the same instant in one message, as a gateway does.
        clients: processes that the sessions are shared among. Each has one connection.
        duration_s: measured time, after `warm_s` that is not measured.
        deadline_s: a step whose output comes later than this has missed. None has no deadline.
        warm_s: time at the start whose steps do not count.
        seed: of the random inputs.
    """

    model: str
    streams: int
    rate_hz: float | None
    together: int = 1
    clients: int = 1
    duration_s: float = 10.0
    deadline_s: float | None = None
    warm_s: float = 1.0
    seed: int = 0

    def sizes(self, client: int) -> list[int]:
        """Sessions of each group of one client: `together`, or fewer in the last one."""
        whole, rest = divmod(self.streams, self.together)
        groups = [self.together] * whole + [rest] * (rest > 0)
        return groups[client :: self.clients]

    def messages(self, groups: int) -> tuple[int, int]:
        """The number of the first measured message of so many groups, and how many there are.

        Times would be rounded differently in each run.
        """
        each_s = (self.rate_hz or 0.0) * groups
        return round(self.warm_s * each_s), round((self.warm_s + self.duration_s) * each_s)

    def offset_s(self, client: int) -> float:
        """Instant of a client's first step within the period, so that clients do not send at once."""
        return 0.0 if self.rate_hz is None else client / self.clients / self.rate_hz


@dataclass(slots=True)
class Sample:
    """Measurements of one client, or of all.

    Attributes:
        latencies_s: of each step with an output, from its planned instant to the output.
        late_s: of each message, by how much this client sent it later than planned.
        due: steps that had to be sent in the measured time.
        errors: steps without an output, by the reason.
    """

    latencies_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    due: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @classmethod
    def joined(cls, parts: Iterable[Sample]) -> Sample:
        """All clients' measurements as one."""
        whole = cls()
        for part in parts:
            whole.latencies_s += part.latencies_s
            whole.late_s += part.late_s
            whole.due += part.due
            whole.errors += part.errors
        return whole


@dataclass(frozen=True, slots=True)
class Result:
    """A load with its measurements."""

    load: Load
    sample: Sample

    @property
    def late_p99_s(self) -> float:
        """99th percentile of the clients' own delay."""
        return float(np.percentile(self.sample.late_s, 99)) if self.sample.late_s else 0.0

    @property
    def p99_s(self) -> float:
        """99th percentile of the latency. Infinite without any output."""
        return (
            float(np.percentile(self.sample.latencies_s, 99)) if self.sample.latencies_s else np.inf
        )

    @property
    def missed(self) -> int:
        """Steps whose output came after the deadline, or not at all."""
        limit_s = self.load.deadline_s
        late = 0 if limit_s is None else sum(s > limit_s for s in self.sample.latencies_s)
        return late + self.sample.due - len(self.sample.latencies_s)

    @property
    def holds(self) -> bool:
        """True if each step has its output, and 99 % of them within the deadline."""
        limit_s = self.load.deadline_s
        return not self.sample.errors and (limit_s is None or self.p99_s <= limit_s)

    @property
    def client_is_late(self) -> bool:
        """True if the clients were so late themselves that the latency is theirs, not the server's."""
        limit_s = self.load.deadline_s
        return limit_s is not None and self.late_p99_s > limit_s / 4

    def record(self) -> dict[str, Any]:
        """The result for a table or JSON. Times are milliseconds."""
        load, sample = self.load, self.sample
        times_ms = np.asarray(sample.latencies_s or [np.nan]) * 1000
        answered = len(sample.latencies_s)
        return {
            "model": load.model,
            "streams": load.streams,
            "rate_hz": load.rate_hz,
            "together": load.together,
            "clients": load.clients,
            "seconds": load.duration_s,
            "steps": answered,
            "steps_per_s": answered / load.duration_s,
            "deadline_ms": None if load.deadline_s is None else load.deadline_s * 1000,
            "missed": self.missed,
            "missed_share": self.missed / max(sample.due, 1),
            **{name: float(np.percentile(times_ms, at)) for name, at in PERCENTILES.items()},
            "max_ms": float(times_ms.max()),
            "client_late_p99_ms": self.late_p99_s * 1000,
            "errors": dict(sample.errors),
        }
