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
"""Ratio of neighbouring buckets. The error of a quantile is below 5 %."""


class Histogram:
    """Latencies counted in buckets. Bucket b has latencies up to SMALLEST_S · RATIO**b.

    Its memory is bounded, and histograms of several processes can be added.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._counts = {int(bucket): count for bucket, count in (counts or {}).items()}

    def add(self, seconds: float) -> None:
        """Counts one latency."""
        ratio = max(seconds, SMALLEST_S) / SMALLEST_S
        bucket = math.ceil(math.log(ratio) / math.log(RATIO))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Adds the counts of another histogram."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    def quantile(self, fraction: float) -> float | None:
        """The latency in seconds that a `fraction` of all does not exceed. None if there are none."""
        left = math.ceil(fraction * self.count)
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return float(SMALLEST_S * RATIO**bucket)
        return None

    @property
    def count(self) -> int:
        """Number of latencies."""
        return sum(self._counts.values())

    def as_json(self) -> dict[str, int]:
        """Counts by bucket, for the constructor."""
        return {str(bucket): count for bucket, count in self._counts.items()}


@dataclass(slots=True)
class Report:
    """The counts since the last report.

    Attributes:
        units: tokens, steps or files.
        sessions: sessions of the crew open now.
        mended: sessions that were bound again so far, after the loss of a server.
        latencies: of those units.
        text: new text of the client that is shown live.
        error: why a client failed. "" if none has.
    """

    units: int = 0
    sessions: int = 0
    mended: int = 0
    latencies: Histogram = field(default_factory=Histogram)
    text: str = ""
    error: str = ""

    def encode(self) -> str:
        """One JSON line, without the line end."""
        counts = (self.units, self.sessions, self.mended)
        values = (*counts, self.latencies.as_json(), self.text, self.error)
        return json.dumps(values)


def decode(line: str) -> Report:
    """The report in a line."""
    units, sessions, mended, latencies, text, error = json.loads(line)
    return Report(units, sessions, mended, Histogram(latencies), text, error)


class Tally:
    """Collects the counts of the next report. Any thread may call its methods."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set when all clients must end: at the end of the demo, or after a failure."""
        self._lock = threading.Lock()
        self._report = Report()
        self._sessions = 0

    def unit(self, started_s: float | None = None, text: str = "") -> None:
        """Counts one unit, and its latency if it started at `started_s` of the monotonic clock."""
        now_s = time.monotonic()
        with self._lock:
            self._report.units += 1
            self._report.text += text
            if started_s is not None:
                self._report.latencies.add(now_s - started_s)

    def fail(self, cause: str) -> None:
        """Reports the failure of a client and ends all. Only the first cause is reported."""
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
        """Returns the report since the last call. `mended` is as in `Report`."""
        with self._lock:
            report, self._report = self._report, Report()
            report.sessions = self._sessions
        report.mended = mended
        return report
