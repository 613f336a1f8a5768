"""What a fault of the store has left undone or in doubt: it is put right once the store answers again.

Without it a session whose acquire was done and its answer lost, or whose release failed, would stay held by
a replica that does not have it, for as long as that replica lives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import assert_never

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import (
    Acquire,
    CommitGroup,
    ListStored,
    Read,
    Release,
    Remove,
    SessionKey,
    Store,
    StoreRequest,
)

_MOST = 65_536
"""Sessions remembered; of more than that the oldest stay held until the replica's leases end."""

_PAUSE_S = 0.25


class Leftovers:
    """At most one thing for each session: what was asked last. Used on the store's thread only."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._todo: dict[SessionKey, Callable[[], object]] = {}
        self._due_s = 0.0

    def failed(self, request: StoreRequest) -> None:
        """The store may or may not have done this."""
        self._due_s = self._clock() + _PAUSE_S
        match request:
            case Acquire(key):
                self._add(key, partial(self._give_back, key))
            case Release(held):
                for one in held:
                    self._add(one[0], partial(self._store.release, [one]))
            case Remove(key, epoch, reason):
                self._add(key, partial(self._store.remove, key, epoch, reason))
            case Read() | ListStored() | CommitGroup():
                pass  # the first two change nothing, and the engine commits a snapshot again
            case unknown:
                assert_never(unknown)

    def acquired(self, key: SessionKey) -> None:
        """The session is used again: it has a new epoch, so what was left of the former counts no more."""
        self._todo.pop(key, None)

    def is_due(self) -> bool:
        """True if something is left, and the store was left alone for long enough."""
        return bool(self._todo) and self._clock() >= self._due_s

    def settle(self) -> None:
        """Does what is left.

        Raises:
            CarouselError: STORE_UNAVAILABLE; the rest waits for another time.
        """
        self._due_s = self._clock() + _PAUSE_S
        while self._todo:
            key, work = next(iter(self._todo.items()))
            work()
            del self._todo[key]

    def __len__(self) -> int:
        """How many sessions are in doubt."""
        return len(self._todo)

    def _add(self, key: SessionKey, work: Callable[[], object]) -> None:
        self._todo[key] = work
        if len(self._todo) > _MOST:
            del self._todo[next(iter(self._todo))]

    def _give_back(self, key: SessionKey) -> None:
        """Whether this replica holds it is not known: it takes it, unless another has it, and lets it go."""
        try:
            record = self._store.acquire(key, epoch_floor=0, new=None)
        except CarouselError as error:
            if error.reason == "STORE_UNAVAILABLE":
                raise
            return
        self._store.release([(key, record.epoch, record.last_used_unix_s)])
