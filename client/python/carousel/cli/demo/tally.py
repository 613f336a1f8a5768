"""What the clients of one process have done; shared by their threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .messages import Report


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
