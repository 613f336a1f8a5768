"""Checks the engines' health, logs changes, and ends a server without a healthy model."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from carousel_server.core.ports import EnginePort

log = logging.getLogger(__name__)


class HealthWatch:
    """The health of all engines, checked a few times a second.

    A server runs as long as one model is healthy. A model with a failed device never recovers in this
    process, so a server without a healthy model ends and its supervisor restarts it. See
    docs/decisions/0008.
    """

    def __init__(self, engines: Sequence[EnginePort], grace_s: float) -> None:
        """`grace_s`: how long the server may run without a healthy model."""
        self._engines = engines
        self._grace_s = grace_s
        # Names of the models that were unhealthy at the last check.
        self._ill: set[str] = set()
        # When the last healthy model became unhealthy. None while one is healthy.
        self._all_ill_since_s: float | None = None

    def hopeless(self, now: float) -> bool:
        """Checks the engines. Returns True if none has been healthy for `grace_s`."""
        ill = {engine.model.name for engine in self._engines if not engine.healthy}
        for name in sorted(ill - self._ill):
            log.error("model %s is unhealthy: its calls are refused", name)
        for name in sorted(self._ill - ill):
            log.info("model %s is healthy again", name)
        self._ill = ill
        if len(ill) < len(self._engines):
            self._all_ill_since_s = None
            return False
        if self._all_ill_since_s is None:
            self._all_ill_since_s = now
        return now - self._all_ill_since_s >= self._grace_s
