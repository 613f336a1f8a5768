"""How long this replica may use its sessions, by its own clock (R5)."""

from __future__ import annotations

import math
from collections.abc import Callable

from carousel_server.core.store import Announcement, Store

_RENEWALS_PER_TTL = 3
_RETRIES_PER_TTL = 10
_MOST_RETRY_S = 60.0


class Leases:
    """The leases of one replica. Any thread may read `until_s` and `lost`. One thread calls the methods.

    Attributes:
        until_s: when the leases expire: the time before the last renewal was sent, plus the TTL. The
            store's own time begins later, so this one ends first.
        lost: how often the leases have expired. It grows as soon as that is noticed, so that clients of
            a replica without a store go to another one.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._ttl_s = store.lease_ttl_s
        self._lapsed = True  # no session is held before the first renewal, so none can be lost
        self.until_s = math.inf if math.isinf(self._ttl_s) else clock()
        self.lost = 0
        # Due at the start even where leases never expire, since a renewal announces the replica.
        self.due_s = clock()

    def renew(self, said: Announcement) -> None:
        """Renews the leases. After a fault of the store they are unchanged, and a retry is due soon.

        Raises:
            CarouselError: STORE_UNAVAILABLE.
        """
        sent_s = self._clock()
        self.due_s = sent_s + min(self._ttl_s / _RETRIES_PER_TTL, _MOST_RETRY_S)
        kept = self._store.renew(said)
        self.notice()  # the answer may have come too late
        if not kept:
            self._lapse()
        self.until_s = sent_s + self._ttl_s
        self.due_s = sent_s + self._ttl_s / _RENEWALS_PER_TTL
        self._lapsed = self._clock() > self.until_s

    def notice(self) -> None:
        """Counts the leases as lost if they have expired."""
        if self._clock() > self.until_s:
            self._lapse()

    def _lapse(self) -> None:
        if not self._lapsed:
            self._lapsed = True
            self.lost += 1
