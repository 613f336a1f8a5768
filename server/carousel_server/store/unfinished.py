"""Finishes requests that a fault of the store has interrupted, once the store answers again.

Otherwise a session would stay held by a replica that does not run it: one whose acquire was done but its
answer lost, or whose release failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import assert_never

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import (
    Acquire,
    AskFor,
    CommitGroup,
    Holding,
    Keep,
    ListStored,
    Read,
    Release,
    Remove,
    SessionKey,
    Store,
    StoreRequest,
)

from .faults import ShardFault

_MOST = 65_536
"""Most sessions remembered. Older ones stay held until the replica's leases expire."""

_PAUSE_S = 0.25

_AT_ONCE = 16
"""Sessions between two requests of others. The leases and all commits wait meanwhile."""


class UnfinishedRequests:
    """The last unfinished request of each session. Used on the store's thread only."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._todo: dict[SessionKey, Callable[[], object]] = {}
        self._due_s = 0.0

    def failed(self, request: StoreRequest) -> None:
        """Remembers a request that the store may or may not have done."""
        self._due_s = self._clock() + _PAUSE_S
        match request:
            case Acquire(key):
                self._add(key, partial(self._give_back, key))
            case Release(held):
                for one in held:
                    self._add(one.key, partial(self._store.release, [one]))
            case Remove(key, epoch, reason):
                self._add(key, partial(self._store.remove, key, epoch, reason))
            case Read() | ListStored() | CommitGroup():
                pass  # the first two change nothing, and the engine commits a snapshot again
            case AskFor() | Keep():
                pass  # the client's next try asks again
            case unknown:
                assert_never(unknown)

    def acquired(self, key: SessionKey) -> None:
        """Forgets a session's request, because the session has a new epoch."""
        self._todo.pop(key, None)

    @property
    def due_s(self) -> float:
        """When requests are tried again. Infinity if none is unfinished."""
        return self._due_s if self._todo else math.inf

    def settle(self) -> None:
        """Finishes some of the requests. The next call goes on with the others.

        Raises:
            CarouselError: STORE_UNAVAILABLE. The remaining requests wait for the next attempt. After a fault
                of one shard, those of that shard do.
        """
        self._due_s = self._clock() + _PAUSE_S
        fault: ShardFault | None = None
        for key, work in list(islice(self._todo.items(), _AT_ONCE)):
            try:
                work()
            except ShardFault as error:
                fault = error
                self._todo[key] = self._todo.pop(key)  # the others come first
            else:
                del self._todo[key]
        if fault is not None:
            raise fault
        self._due_s = self._clock()

    def __len__(self) -> int:
        """Number of sessions with an unfinished request."""
        return len(self._todo)

    def _add(self, key: SessionKey, work: Callable[[], object]) -> None:
        self._todo[key] = work
        if len(self._todo) > _MOST:
            del self._todo[next(iter(self._todo))]

    def _give_back(self, key: SessionKey) -> None:
        """Acquires and releases a session of which it is unknown whether this replica holds it."""
        try:
            record = self._store.acquire(key, epoch_floor=0, new=None)
        except CarouselError as error:
            if error.reason == "STORE_UNAVAILABLE":
                raise
            return
        holding = Holding(key, record.epoch, record.last_used_unix_s, record.whole)
        self._store.release([holding])
