"""What a replica and its peers tell each other through the store, on the store's thread."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from carousel_server.core.futures import settle
from carousel_server.core.store import Announcement, Asked, Replica, Store

log = logging.getLogger(__name__)

_POLL_S = 0.05
_TAKEN_AT_ONCE = 256

OnAsked = Callable[[Sequence[Asked]], None]
"""Called on the store's thread with requests for sessions of this replica. It must not wait."""


class Peers:
    """This replica's announcement, the list of live replicas, and its mailbox.

    Any thread may read the attributes and call `announce`. The store's thread calls the other methods.

    Attributes:
        said: the announcement that the next renewal writes.
        is_urgent: True if the others should read it before the next renewal is due.
        replicas: the live replicas as of the last `look`.
        on_asked: gets the requests. Without it, the mailbox is not read.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._poll_due_s = 0.0
        # Those who wait for the next look, and how many of them the announcement has been written for.
        self._looks: deque[Future[None]] = deque()
        self._announced = 0
        self.said = Announcement("")
        self.is_urgent = False
        self.replicas: Sequence[Replica] = ()
        self.on_asked: OnAsked | None = None

    def announce(self, said: Announcement) -> None:
        """Changes the announcement. More than a new number of sessions is urgent."""
        if replace(said, sessions=self.said.sessions) != self.said:
            self.is_urgent = True
        self.said = said

    def next_look(self) -> Future[None]:
        """Settled when the announcement is in the store and the list has been read after that, both soon."""
        looked: Future[None] = Future()
        self._looks.append(looked)
        self.is_urgent = True
        return looked

    def announced(self) -> Announcement:
        """The announcement, to be written now. It is no longer urgent."""
        self.is_urgent = False
        self._announced = len(self._looks)
        return self.said

    def look(self) -> None:
        """Reads the list of live replicas.

        Raises:
            CarouselError: STORE_UNAVAILABLE.
        """
        self.replicas = tuple(self._store.replicas())
        while self._announced:
            self._announced -= 1
            settle(self._looks.popleft(), None)

    @property
    def due_s(self) -> float:
        """When something is due here. Infinity if no other replica can write into the mailbox."""
        if self.is_urgent:
            return 0.0
        alone = len(self.replicas) < 2 or self.on_asked is None
        return math.inf if alone else self._poll_due_s

    def poll(self) -> None:
        """Takes the requests from the mailbox and hands them on, the last one of each session.

        Raises:
            CarouselError: STORE_UNAVAILABLE.
        """
        self._poll_due_s = self._clock() + _POLL_S
        taken = self._store.asked(_TAKEN_AT_ONCE)
        if len(taken) == _TAKEN_AT_ONCE:
            self._poll_due_s = self._clock()  # there may be more
        newest: dict[object, Asked] = {}
        for one in taken:
            before = newest.get(one.key)
            insists = one.take_over or (before is not None and before.take_over)
            newest[one.key] = one._replace(take_over=insists)
        if newest and self.on_asked is not None:
            try:
                self.on_asked(list(newest.values()))
            except Exception:  # the thread must go on
                log.exception("requests of other replicas were lost because of a defect")
