"""Logs once that a server was lost, and once that it was found again."""

from __future__ import annotations

import logging
import threading
import time

from ._error_bases import CarouselError, ClientSideError

LOGGER = logging.getLogger("carousel")
LOGGER.addHandler(
    logging.NullHandler()
)  # a library is silent unless the application configures logging


class ServerWatch:
    """Whether a client has lost its server. Thread-safe."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._seen = False
        self._lost_at_s: float | None = None

    def answered(self) -> None:
        """Notes an answer of the server."""
        if self._seen and self._lost_at_s is None:
            return
        with self._lock:
            self._seen = True
            lost_at_s, self._lost_at_s = self._lost_at_s, None
        if lost_at_s is not None:
            away_s = time.monotonic() - lost_at_s
            LOGGER.info("found the server at %s again after %.1f s", self._target, away_s)

    def looking(self, error: CarouselError) -> None:
        """Notes an error that is retried. It is logged if no server has answered."""
        if not isinstance(error, ClientSideError):
            return
        with self._lock:
            if not self._seen or self._lost_at_s is not None:
                return
            self._lost_at_s = time.monotonic()
        LOGGER.warning("lost the server at %s and looking for it: %s", self._target, error.message)
