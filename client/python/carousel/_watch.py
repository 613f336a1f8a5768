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
    """Which of its servers a client has lost. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # When each server was lost; None for one that answers.
        self._lost_at_s: dict[str, float | None] = {}

    def answered(self, server: str) -> None:
        """Notes an answer of a server."""
        if self._lost_at_s.get(server, 0.0) is None:
            return
        with self._lock:
            lost_at_s = self._lost_at_s.get(server)
            self._lost_at_s[server] = None
        if lost_at_s is not None:
            away_s = time.monotonic() - lost_at_s
            LOGGER.info("found the server at %s again after %.1f s", server, away_s)

    def looking(self, error: CarouselError, server: str) -> None:
        """Notes an error that is retried. It is logged if no server has answered."""
        if not isinstance(error, ClientSideError):
            return
        with self._lock:
            if self._lost_at_s.get(server, 0.0) is not None:
                return  # it has never answered, or this is known
            self._lost_at_s[server] = time.monotonic()
        LOGGER.warning("lost the server at %s and looking for it: %s", server, error.message)
