"""One replica over all of its lives: when it is started again, and when no more."""

from __future__ import annotations

import asyncio
import signal
from typing import NamedTuple

from .config import Settings
from .replica_process import Facts, ReplicaProcess


class Pace(NamedTuple):
    """The times and limits of a supervisor.

    Attributes:
        first_pause_s: pause before a replica that has died is started again. It doubles with each failure.
        longest_pause_s: the longest pause.
        steady_s: a life that was ready for so long is no failure.
        most_failures: after so many failures, a replica is not started any more.
        check_every_s: pause between two checks of a replica.
        check_within_s: time in which it must answer.
        most_silent: a replica that misses so many checks in a row is killed.
        end_within_s: time for a replica to end, in addition to its drain.
    """

    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    steady_s: float = 30.0
    most_failures: int = 10
    check_every_s: float = 2.0
    check_within_s: float = 5.0
    most_silent: int = 3
    end_within_s: float = 20.0


class Replica:
    """The state of one replica.

    Attributes:
        number: its place in the plan.
        settings: of its next life.
        life: the process that runs now.
        facts: what that process has printed when it was ready. None before.
        given_up: it is not started any more.
        restarting: its process ends because the supervisor wants to start another.
        was_ready: set when it is ready for the first time.
    """

    def __init__(self, number: int, settings: Settings, pace: Pace) -> None:
        self.number = number
        self.settings = settings
        self.life: ReplicaProcess | None = None
        self.facts: Facts | None = None
        self.given_up = False
        self.restarting = False
        self.was_ready = asyncio.Event()
        self._pace = pace
        self._failures = 0
        self._ready_since_s = 0.0
        self._next: asyncio.Future[bool] | None = None

    def next_life(self) -> asyncio.Future[bool]:
        """Resolved when the next life is ready (True), or has ended before (False)."""
        self._next = asyncio.get_running_loop().create_future()
        return self._next

    def began(self, facts: Facts | None, now: float) -> None:
        """A life is ready, or has ended before it was (None). Its ports remain, because clients know them."""
        self.facts = facts
        if facts is not None:
            self._ready_since_s = now
            known = ("port", "http_port", "metrics_port")
            ports = {name: facts[name] for name in known if facts.get(name)}
            self.settings = self.settings.model_copy(update=ports)
            self.was_ready.set()
        if self._next is not None and not self._next.done():
            self._next.set_result(facts is not None)

    def died(self, now: float) -> float | None:
        """Seconds until it is to be started again. None if it is given up."""
        steady = self.facts is not None and now - self._ready_since_s >= self._pace.steady_s
        self._failures = 1 if steady else self._failures + 1
        if self._failures >= self._pace.most_failures:
            self.given_up = True
            return None
        pause_s = self._pace.first_pause_s * 2.0 ** (self._failures - 1)
        return min(pause_s, self._pace.longest_pause_s)


def said(code: int) -> str:
    """An exit code in words. -N is signal N."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
