"""What the store's thread does between requests: leases, peers, unfinished requests, expired sessions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import StoreMetrics
from carousel_server.core.store import Store

from .leases import Leases
from .peers import Peers
from .timers import Timers
from .unfinished import UnfinishedRequests

T = TypeVar("T")

_SWEEP_EVERY_S = 5.0
_SWEPT_AT_ONCE = 256
"""Most sessions that one sweep ends. Requests wait for it."""


class Ask(Protocol):
    """Runs calls of the store, and counts them."""

    def __call__(self, kind: str, work: Callable[[], T]) -> T:
        """The result of `work`, counted by its kind. Any exception becomes a CarouselError."""


class Upkeep:
    """What is due by the clock. Used on the store's thread only.

    Args:
        store: see `StoreThread`.
        leases, peers: of this replica.
        unfinished: requests that a fault has interrupted.
        clock: monotonic.
        metrics: gets how full the store is.

    Attributes:
        timers: pauses of those who use the store.
    """

    def __init__(
        self,
        store: Store,
        leases: Leases,
        peers: Peers,
        unfinished: UnfinishedRequests,
        clock: Callable[[], float],
        metrics: StoreMetrics | None,
    ) -> None:
        self._store = store
        self._leases = leases
        self._peers = peers
        self._unfinished = unfinished
        self._clock = clock
        self._metrics = metrics
        self._sweep_due_s = clock() + _SWEEP_EVERY_S
        self.timers = Timers(clock)

    @property
    def due_s(self) -> float:
        """When something is due next."""
        own_s = min(self._leases.due_s, self._sweep_due_s, self._unfinished.due_s)
        return min(own_s, self._peers.due_s, self.timers.due_s)

    def run(self, ask: Ask, *, is_faulty: bool) -> None:
        """Does what is due. After a fault the remaining work is tried in the next call.

        While `is_faulty`, the mailbox is not read.
        """
        self._leases.notice()
        self.timers.run()
        now = self._clock()
        try:
            if now >= self._leases.due_s or self._peers.is_urgent:
                ask("renew", partial(self._leases.renew, self._peers.announced()))
                ask("replicas", self._peers.look)
            if now >= self._peers.due_s and not is_faulty:
                ask("asked", self._peers.poll)
            if now >= self._unfinished.due_s:
                ask("release", self._unfinished.settle)
            if now >= self._sweep_due_s:
                self._sweep_due_s = now + _SWEEP_EVERY_S
                self._look_after(ask)
        except CarouselError:
            return  # it is logged, and the next turn tries again

    def _look_after(self, ask: Ask) -> None:
        """Ends expired sessions, and measures the store."""
        now_unix_s = self._store.now_unix_s()
        ended = ask("sweep", lambda: self._store.sweep(now_unix_s, _SWEPT_AT_ONCE))
        if ended >= _SWEPT_AT_ONCE:
            self._sweep_due_s = self._clock()  # more have expired
        if self._metrics is not None:
            level = ask("statistics", self._store.statistics)
            self._metrics.level(level.sessions, level.bytes)
