"""Watches the engines' health: tells the log of every change, and the server when to give up."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from carousel_server.core.ports import EnginePort

log = logging.getLogger(__name__)


class HealthWatch:
    """Looked at now and then, with the time. A server goes on while one model is healthy.

    See docs/decisions/0008: a model whose device is dead never recovers in this process, so a server
    that has nothing else to serve ends, and whoever supervises it starts a fresh one.
    """

    def __init__(self, engines: Sequence[EnginePort], grace_s: float) -> None:
        """`grace_s`: how long no model at all may be healthy."""
        self._engines = engines
        self._grace_s = grace_s
        # Names of the models that were unhealthy at the last look.
        self._ill: set[str] = set()
        # Instant since when no model is healthy; None while one is.
        self._all_ill_since_s: float | None = None

    def hopeless(self, now: float) -> bool:
        """Looks at the engines: True once none has been healthy for `grace_s`."""
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
