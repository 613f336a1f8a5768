"""Until when this replica may use what it holds, by its own clock (R5)."""

from __future__ import annotations

import math
from collections.abc import Callable

from carousel_server.core.store import Store

_RENEWALS_PER_TTL = 3
_RETRIES_PER_TTL = 10


class Leases:
    """The leases of one replica. `until_s` and `lost` may be read by any thread, the rest is one thread's.

    Attributes:
        until_s: the clock before the last renewal was sent, and the TTL: the store's own count began later,
            so ours ends first.
        lost: how often they ran out; counted once each time, as soon as it is noticed, so that clients of a
            replica that cannot reach the store are sent to one that can.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._ttl_s = store.lease_ttl_s
        self._lapsed = True  # nothing is held before the first renewal, so nothing can be lost
        self.until_s = math.inf if math.isinf(self._ttl_s) else clock()
        self.lost = 0
        self.due_s = self.until_s

    def renew(self) -> None:
        """Renews; a fault of the store leaves the leases as they are, and it is tried again soon.

        Raises:
            CarouselError: STORE_UNAVAILABLE.
        """
        sent_s = self._clock()
        self.due_s = sent_s + self._ttl_s / _RETRIES_PER_TTL
        kept = self._store.renew()
        self.notice()  # the answer itself may have come too late
        if not kept:
            self._lapse()
        self.until_s = sent_s + self._ttl_s
        self.due_s = sent_s + self._ttl_s / _RENEWALS_PER_TTL
        self._lapsed = self._clock() > self.until_s

    def notice(self) -> None:
        """Counts leases that have run out."""
        if self._clock() > self.until_s:
            self._lapse()

    def _lapse(self) -> None:
        if not self._lapsed:
            self._lapsed = True
            self.lost += 1
