"""Logs once that the store fails, and once that it answers again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from carousel_server.core.errors import CarouselError

log = logging.getLogger(__name__)


class Outage:
    """The state of the store, from the results of its requests. One thread uses it, any may read `fault`.

    Attributes:
        fault: why the store does not answer, in words for callers. "" while it answers.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._since_s: float | None = None
        self._failed = 0
        self.fault = ""

    def failed(self, error: CarouselError) -> None:
        """Counts a request that failed by the store's fault. Logs the first one."""
        self._failed += 1
        self.fault = error.message
        if self._since_s is None:
            self._since_s = self._clock()
            cause = error.__cause__
            why = error.message if cause is None else f"{error.message}: {cause}"
            log.error("store %s is unavailable: %s", self._name, why)

    def answered(self) -> None:
        """Notes that the store has answered a request. Logs the end of an outage."""
        if self._since_s is not None:
            log.warning(
                "store %s answers again after %.1f s; %d requests failed",
                self._name,
                self._clock() - self._since_s,
                self._failed,
            )
            self._since_s, self._failed, self.fault = None, 0, ""
