"""Says once that the store fails, and once that it answers again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from carousel_server.core.errors import CarouselError

log = logging.getLogger(__name__)


class Outage:
    """Whether the store answers, as the requests to it show. Used by one thread; any may read `fault`.

    Attributes:
        fault: why it does not answer, fit for callers; "" while it does.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._since_s: float | None = None
        self._failed = 0
        self.fault = ""

    def failed(self, error: CarouselError) -> None:
        """A request failed for the store's fault."""
        self._failed += 1
        self.fault = error.message
        if self._since_s is None:
            self._since_s = self._clock()
            cause = error.__cause__
            why = error.message if cause is None else f"{error.message}: {cause}"
            log.error("store %s is unavailable: %s", self._name, why)

    def answered(self) -> None:
        """A request was answered, well or not."""
        if self._since_s is not None:
            log.warning(
                "store %s answers again after %.1f s; %d requests had failed",
                self._name,
                self._clock() - self._since_s,
                self._failed,
            )
            self._since_s, self._failed, self.fault = None, 0, ""
