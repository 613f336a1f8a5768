"""Metrics that nobody reads, and a log in which every error counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EXPECTED_LOGGERS = frozenset({"carousel_server.store.outage"})
"""These tell of faults that the simulation makes."""

_LOGGERS = ("carousel_server", "carousel")


class QuietEngineMetrics:
    """Implements `core.metering.EngineMetrics`."""

    def tick(self, rows: int, bucket: int, steps: Any, seconds: float) -> None:
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

    def not_finite(self) -> None:
        """A step was refused."""

    def moved(self, how: str) -> None:
        """A session was parked, resumed or revoked."""

    def tenant_sessions(self, rows: Any) -> None:
        """Sessions of tenants."""

    def placed(self, at_owner: int, elsewhere: int) -> None:
        """Where steps ran."""

    def received(self) -> None:
        """A session came that was asked for."""

    def handed_over(self, why: str, seconds: float) -> None:
        """A session went to another replica."""

    def data_loss(self, reason: str) -> None:
        """A session was lost or damaged in the store."""

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

    def refused(self, reason: str, count: int = 1) -> None:
        """Something was refused."""

    def turned_away(self, what: str, count: int) -> None:
        """The transport refused something."""

    def redirected(self, count: int = 1) -> None:
        """Clients were sent to another replica."""

    def streams(self, count: int) -> None:
        """Streams open."""

    def quota_refused(self, tenant: str, quota: str, count: int = 1) -> None:
        """A tenant has reached a quota."""

    def loop_lag(self, seconds: float) -> None:
        """How late the loop is."""


class _LoudLog(logging.Handler):
    """Turns errors in the server's log, and exceptions in the client's, into failures of the schedule."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._fail = fail

    def emit(self, record: logging.LogRecord) -> None:
        """An error was logged."""
        if record.name not in EXPECTED_LOGGERS:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {record.exc_info[1]!r}"
            self._fail(f"logged by {record.name}: {text}")


@contextmanager
def listening(fail: Callable[[str], None]) -> Iterator[None]:
    """Within, an error in a log is told to `fail`; what is not an error is not even formatted."""
    loud = _LoudLog(fail)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(loud)
        _set(logger, logging.ERROR, propagate=False)
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(loud)
            _set(logger, level, propagate=propagate)


def hush() -> None:
    """For a process that does nothing but run schedules: what `listening` sets stays set between them."""
    for name in _LOGGERS:
        _set(logging.getLogger(name), logging.ERROR, propagate=False)


def _set(logger: logging.Logger, level: int, *, propagate: bool) -> None:
    logger.propagate = propagate
    if logger.level != level:
        logger.setLevel(level)  # which makes all loggers forget what they are enabled for
