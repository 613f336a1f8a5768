"""Counts and latencies of the clients of one process, and the lines that report them."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

SMALLEST_S = 1e-5
RATIO = 1.05
"""Two neighbouring quantiles differ by at least this factor: the error of a quantile is below 5 %."""


class Histogram:
    """Counts by bucket; bucket b holds latencies up to SMALLEST_S · RATIO**b."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._counts = {int(bucket): count for bucket, count in (counts or {}).items()}

    def add(self, seconds: float) -> None:
        """Counts one latency."""
        ratio = max(seconds, SMALLEST_S) / SMALLEST_S
        bucket = math.ceil(math.log(ratio) / math.log(RATIO))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Adds another's counts."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    def quantile(self, fraction: float) -> float | None:
        """The latency in seconds that `fraction` of the counted ones do not exceed; None if empty."""
        left = math.ceil(fraction * self.count)
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return float(SMALLEST_S * RATIO**bucket)
        return None

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self._counts.values())

    def as_json(self) -> dict[str, int]:
        """Counts by bucket, as the constructor takes them."""
        return {str(bucket): count for bucket, count in self._counts.items()}


@dataclass(slots=True)
class Report:
    """What has happened since the report before.

    Attributes:
        units: tokens, steps or files.
        sessions: sessions of the crew open now.
        mended: sessions bound again so far, after a server has gone.
        latencies: of those units.
        text: what the one client shown live has written.
        error: why a client failed; "" while all is well.
    """

    units: int = 0
    sessions: int = 0
    mended: int = 0
    latencies: Histogram = field(default_factory=Histogram)
    text: str = ""
    error: str = ""

    def encode(self) -> str:
        """One line, without its end."""
        counts = (self.units, self.sessions, self.mended)
        values = (*counts, self.latencies.as_json(), self.text, self.error)
        return json.dumps(values)


def decode(line: str) -> Report:
    """The report in a line."""
    units, sessions, mended, latencies, text, error = json.loads(line)
    return Report(units, sessions, mended, Histogram(latencies), text, error)


class Tally:
    """Collects since the last report. Any thread may call any method."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set when the clients should end: the demo is over, or one of them has failed."""
        self._lock = threading.Lock()
        self._report = Report()
        self._sessions = 0

    def unit(self, started_s: float | None = None, text: str = "") -> None:
        """Counts one unit, and how long it took if it began at `started_s` of the monotonic clock."""
        now_s = time.monotonic()
        with self._lock:
            self._report.units += 1
            self._report.text += text
            if started_s is not None:
                self._report.latencies.add(now_s - started_s)

    def fail(self, cause: str) -> None:
        """A client has failed: the first cause is kept, and all end."""
        with self._lock:
            self._report.error = self._report.error or cause
        self.stop.set()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Counts a session as open inside the block."""
        with self._lock:
            self._sessions += 1
        try:
            yield
        finally:
            with self._lock:
                self._sessions -= 1

    def take(self, mended: int = 0) -> Report:
        """What happened since the last call; `mended` as in `Report`."""
        with self._lock:
            report, self._report = self._report, Report()
            report.sessions = self._sessions
        report.mended = mended
        return report
