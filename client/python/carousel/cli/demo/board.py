"""The demo's current numbers: sums of the crews' reports, and the server's own metrics."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from carousel.cli.exposition import Scrape

from .plan import CREWS, Crew
from .tally import Histogram, Report

RATE_OVER_S = 3.0
TEXT_CHARACTERS = 4_000


@dataclass(slots=True)
class CrewSum:
    """Sums of one crew. `recent` holds (instant, units so far) of the last RATE_OVER_S seconds."""

    crew: Crew
    units: int = 0
    sessions: int = 0
    mended: int = 0
    latencies: Histogram = field(default_factory=Histogram)
    recent: deque[tuple[float, int]] = field(default_factory=deque)
    error: str = ""

    def add(self, report: Report, now_s: float) -> None:
        """Adds a report, received now."""
        self.units += report.units
        self.sessions = report.sessions
        self.mended = report.mended
        self.latencies.merge(report.latencies)
        self.error = self.error or report.error
        self.recent.append((now_s, self.units))
        while now_s - self.recent[0][0] > RATE_OVER_S:
            self.recent.popleft()

    @property
    def rate(self) -> float:
        """Units a second, over the last seconds."""
        if len(self.recent) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self.recent[0], self.recent[-1]
        return (last - first) / (last_s - first_s)


@dataclass(frozen=True, slots=True)
class ServerView:
    """The numbers of /metrics. Rates are per second. Quantiles are upper bounds of buckets, in seconds."""

    sessions: float
    steps_rate: float
    tokens_rate: float
    mean_batch: float
    step_p50_s: float | None
    step_p99_s: float | None

    @classmethod
    def between(cls, before: Scrape, now: Scrape, seconds: float) -> ServerView:
        """The numbers between two scrapes, `seconds` apart."""

        def grown(name: str) -> float:
            return now.total(name) - before.total(name)

        ticks = grown("carousel_batch_size_count")
        return cls(
            sessions=now.total("carousel_sessions", phase="resident"),
            steps_rate=grown("carousel_steps_total") / seconds,
            tokens_rate=grown("carousel_tokens_total") / seconds,
            mean_batch=grown("carousel_batch_size_sum") / ticks if ticks else 0.0,
            step_p50_s=now.quantile("carousel_step_seconds", 0.5, before),
            step_p99_s=now.quantile("carousel_step_seconds", 0.99, before),
        )


class Board:
    """All numbers. Threads that read reports write it, and the thread that draws reads it."""

    def __init__(self, crews: tuple[Crew, ...] = CREWS) -> None:
        self._lock = threading.Lock()
        self._sums = {crew.role: CrewSum(crew) for crew in crews}
        self._scrapes: deque[tuple[float, Scrape]] = deque()
        self._first_scrape: tuple[float, Scrape] | None = None
        self._text = ""
        # For each kill of the server, how long no server listened.
        self._away_s: list[float] = []
        # When the server was killed, on the monotonic clock. None while one listens.
        self._killed_at_s: float | None = None

    def report(self, crew: Crew, report: Report, now_s: float) -> None:
        """Adds a crew's report."""
        with self._lock:
            self._sums[crew.role].add(report, now_s)
            self._text = (self._text + report.text)[-TEXT_CHARACTERS:]

    def scraped(self, scrape: Scrape, now_s: float) -> None:
        """Adds a scrape of the server's metrics."""
        with self._lock:
            self._first_scrape = self._first_scrape or (now_s, scrape)
            self._scrapes.append((now_s, scrape))
            while now_s - self._scrapes[0][0] > RATE_OVER_S:
                self._scrapes.popleft()

    def killed(self, now_s: float) -> None:
        """Notes that the server was killed."""
        with self._lock:
            self._killed_at_s = now_s

    def killed_for_s(self, now_s: float) -> float | None:
        """Seconds since no server listens. None while one does."""
        with self._lock:
            return None if self._killed_at_s is None else now_s - self._killed_at_s

    def back(self, now_s: float) -> None:
        """Notes that a new server listens. Its metrics start at zero."""
        with self._lock:
            assert self._killed_at_s is not None, "the server was not killed"
            self._away_s.append(now_s - self._killed_at_s)
            self._killed_at_s = None
            self._scrapes.clear()
            self._first_scrape = None

    def away_s(self) -> list[float]:
        """For each kill, the seconds without a server."""
        with self._lock:
            return list(self._away_s)

    def sums(self) -> list[CrewSum]:
        """The sums of each crew, in the order of the plan."""
        with self._lock:
            return list(self._sums.values())

    def text(self) -> str:
        """The end of the text of the client that is shown live."""
        with self._lock:
            return self._text

    def error(self) -> str:
        """Why a client has failed. "" if none has."""
        return next((f"{s.crew.model}, {s.error}" for s in self.sums() if s.error), "")

    def server(self, whole: bool = False) -> ServerView | None:
        """The server's numbers, of the last seconds or the whole run. None before the second scrape."""
        with self._lock:
            if len(self._scrapes) < 2:
                return None
            before_s, before = (
                self._first_scrape if whole and self._first_scrape else self._scrapes[0]
            )
            now_s, now = self._scrapes[-1]
        return ServerView.between(before, now, now_s - before_s)
