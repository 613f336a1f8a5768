"""Metrics that nobody reads, and a log in which every error counts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

EXPECTED_LOGGERS = frozenset({"carousel_server.store.outage"})
"""These tell of faults that the simulation makes."""


class QuietEngineMetrics:
    """Implements `core.metering.EngineMetrics`."""

    def tick(self, rows: int, bucket: int, steps: int, seconds: float) -> None:
        """A batch ran."""

    def stepped(self, queue_s: Any, latency_s: Any) -> None:
        """Steps were delivered."""

    def tokens(self, count: int, first_token_s: Any, inter_token_s: Any) -> None:
        """Tokens were delivered."""

    def inferred(self, sequences: int, steps: int, seconds: float) -> None:
        """A sequence ran."""

    def opened(self) -> None:
        """A session was opened."""

    def ended(self, how: str) -> None:
        """A session ended."""

    def moved(self, how: str) -> None:
        """A session was parked, resumed or revoked."""

    def durable(self, lag_s: Any) -> None:
        """The store confirmed."""

    def gauges(self, **levels: int) -> None:
        """Levels."""


class QuietWireMetrics:
    """Implements `core.metering.WireMetrics`."""

    def started(self, service: str, method: str, kind: str) -> None:
        """A call has begun."""

    def handled(self, service: str, method: str, kind: str, code: str, seconds: float) -> None:
        """A call has ended."""

    def refused(self, reason: str) -> None:
        """Something was refused."""

    def streams(self, count: int) -> None:
        """Streams open."""

    def loop_lag(self, seconds: float) -> None:
        """How late the loop is."""


class LoudLog(logging.Handler):
    """Turns errors in the server's log, and exceptions in the client's, into failures of the schedule."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.fail: Callable[[str], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """An error was logged."""
        if self.fail is not None and record.name not in EXPECTED_LOGGERS:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {record.exc_info[1]!r}"
            self.fail(f"logged by {record.name}: {text}")


LOUD = LoudLog()


def listen() -> None:
    """From now on errors in logs count; what is not an error is not even formatted."""
    for name in ("carousel_server", "carousel"):
        logger = logging.getLogger(name)
        if LOUD not in logger.handlers:
            logger.addHandler(LOUD)
            logger.setLevel(logging.ERROR)
            logger.propagate = False
